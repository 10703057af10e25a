"""The onset of a pair: the first step and quantity whose difference is larger than rounding can explain."""

import numpy as np

from parity.judge.decide_device import DeviceAudit
from parity.judge.decide_loss import LossAudit
from parity.judge.differences import Comparison
from parity.judge.fleet import DeviceClass
from parity.judge.pairs import Between, Pair, Role
from parity.judge.verdict import Onset
from parity.plan import lines
from parity.store.trace import NORMED_QUANTITIES, QUANTITIES

# What the training itself is made of: the loss's number is only reported.
TRAINED = tuple(quantity for quantity in QUANTITIES if quantity != "loss")


def find_onset(
    comparison: Comparison, audit: LossAudit | None, device_audit: DeviceAudit | None
) -> tuple[Onset, str] | tuple[None, None]:
    """The first step and quantity that is beyond rounding, or NaN on one side only, and why; Nones if there is none."""
    found = [one_sided_nan(comparison)]
    if audit:
        found.append(_audit_onset(comparison, audit))
    if device_audit:
        found.append(_device_onset(comparison, device_audit))
    # Of the same step a NaN goes first, since what follows from it is beyond rounding too.
    return min((each for each in found if each), key=lambda each: each[0].step, default=(None, None))


def find_onset_between(
    comparison: Comparison, between: Between, *, steady: bool
) -> tuple[Onset, str] | tuple[None, None]:
    """Of two runs without a wrong gradient: what else is no rounding where they part, or Nones."""
    first = comparison.first(among=TRAINED)
    if first is None or first.quantity == "input":
        return None, None
    why = _changed_update(comparison, first.step) if first.quantity == "param" else None
    if why is None and between.owed and steady:
        why = (
            "nothing that is known differs (code, settings, software, hardware), and yet the bits do: code that they "
            "import may have changed, or the device does not repeat itself"
        )
    return (_at(comparison, first.step, first.quantity, first.tensor), why) if why else (None, None)


def _changed_update(comparison: Comparison, step: int) -> str | None:
    """What the optimizers made different of gradients that are equal to the bit, or None where that is not known."""
    norms = [float(side[step]) for side in comparison.both("step_grad_norm")]
    if abs(norms[0] - norms[1]) > lines.CHANGED_NORM.value * max(norms):
        return (
            "the gradients of backward are equal to the bit, and their norm at the optimizer's step is "
            f"{norms[0]:.6g} in the baseline and {norms[1]:.6g} in the candidate: clipping, or what else changes them"
        )
    rates = [trace.record.lr for trace in (comparison.baseline, comparison.candidate)]
    if None not in rates and rates[0] != rates[1]:
        return f"the gradients are equal to the bit, and the learning rates are {rates[0]} and {rates[1]}"
    return None


def one_sided_nan(comparison: Comparison) -> tuple[Onset, str] | None:
    inputs = first_true(comparison.differs["input"])
    comparable = np.arange(comparison.steps) < (comparison.steps if inputs is None else inputs)
    quantities = ("loss", *NORMED_QUANTITIES)
    sides = {name: np.not_equal(*(np.isnan(side) for side in comparison.both(_number(name)))) for name in quantities}
    step = first_true(np.logical_or.reduce(list(sides.values())) & comparable)
    if step is None:
        return None
    quantity = next(name for name in quantities if sides[name][step])
    return _at(comparison, step, quantity), f"{quantity} is NaN in the {nan_side(comparison, quantity, step)} only"


def _audit_onset(comparison: Comparison, audit: LossAudit) -> tuple[Onset, str] | None:
    beyond = audit.beyond()
    if comparison.first(among=TRAINED) is None:
        beyond["loss"] &= False  # report-only, however far off the number is
    step = first_true(np.logical_or.reduce(list(beyond.values())))
    if step is None:
        return None
    # A wrong gradient is the graver of the two, and the loss's looser bound may trip over the same step.
    onset = _at(comparison, step, "output_grad" if beyond["output_grad"][step] else "loss")
    return onset, audit.explain(onset.step, onset.quantity)


def _device_onset(comparison: Comparison, audit: DeviceAudit) -> tuple[Onset, str] | None:
    if audit.first is not None and audit.first.step < comparison.steps:
        return _at(comparison, audit.first.step, audit.first.quantity, audit.first.tensor), audit.first.explain()
    first = comparison.first()
    if audit.unrepeated is not None and first is not None:
        why = "taken again from the same state, the step came to other bits: the device does not repeat itself"
        return _at(comparison, first.step, first.quantity, first.tensor), why
    return None


def find_unequal_onset(
    comparison: Comparison, equals: DeviceClass, pair: Pair
) -> tuple[Onset, str] | tuple[None, None]:
    """Of two devices of a class: the first difference of any size, since there should be none."""
    first = comparison.first()
    if first is None:
        return None, None
    onset = _at(comparison, first.step, first.quantity, first.tensor)
    odd = {record.trial for unit in equals.odd for record in unit.trials}
    blamed = [record.device for record in (pair.candidate, pair.baseline) if record.trial in odd]
    if blamed:
        told = f"{' and '.join(blamed)} part{'s' if len(blamed) == 1 else ''} from the majority"
        return onset, f"equal devices must agree to the bit, and {told} of class {equals.label}"
    return onset, (
        "equal devices must agree to the bit, and these two do not; "
        f"class {equals.label}, of {len(equals.devices)}, has no majority, so either may be the odd one"
    )


def _at(comparison: Comparison, step: int, quantity: str, tensor: str | None = None) -> Onset:
    epoch, batch = (int(comparison.both(name)[1][step]) for name in ("epoch", "batch"))
    return Onset(step, epoch, batch, quantity, tensor)


def nan_side(comparison: Comparison, quantity: str, step: int) -> Role | None:
    """The only side on which the loss, or the norm of another quantity, is NaN; None where no side or both are."""
    if quantity not in ("loss", *NORMED_QUANTITIES):
        return None
    nan = [bool(np.isnan(side[step])) for side in comparison.both(_number(quantity))]
    return None if nan[0] == nan[1] else "candidate" if nan[1] else "baseline"


def _number(quantity: str) -> str:
    return "loss" if quantity == "loss" else f"{quantity}_norm"


def first_true(flags: np.ndarray) -> int | None:
    return int(np.argmax(flags)) if flags.any() else None
