"""The onset of a pair: the first step and quantity whose difference is larger than rounding can explain."""

import math
from collections.abc import Sequence

import numpy as np

from parity.judge.decide_device import DeviceAudit
from parity.judge.decide_loss import LossAudit
from parity.judge.differences import Comparison
from parity.judge.fleet import DeviceClass
from parity.judge.jumps import Jump
from parity.judge.not_finite import finiteness, not_finite
from parity.judge.pairs import Between, Pair
from parity.judge.parting import Parting
from parity.judge.same_elsewhere import first_shown
from parity.judge.verdict import Onset
from parity.plan import lines
from parity.store.trace import NORMED_QUANTITIES, QUANTITIES

# The quantities that the training is made of: the number of the loss is only reported.
TRAINED = tuple(quantity for quantity in QUANTITIES if quantity != "loss")


def find_onset(
    comparison: Comparison,
    audit: LossAudit | None,
    device_audit: DeviceAudit | None,
    *,
    evidence: Sequence[Parting | Jump | None] = (),
) -> tuple[Onset, str] | tuple[None, None]:
    """The first step and quantity that is beyond rounding, or NaN on one side only.

    Args:
        comparison: The two traces.
        audit: The audit of their losses, or None.
        device_audit: The audit of the candidate's steps from shared states, or None.
        evidence: Where the traces part and jump; those that rounding cannot explain count.

    Returns:
        The onset and why rounding cannot explain it, or (None, None) where there is none.

    Raises:
        Trouble: A trace is damaged.
    """
    found = [one_sided_nan(comparison)]
    if audit:
        found.append(_audit_onset(comparison, audit))
    if device_audit:
        partings = [each for each in evidence if isinstance(each, Parting)]
        found.append(_device_onset(comparison, device_audit, partings))
    found += [
        (_at(comparison, each.index, each.quantity, each.tensor), each.explain())
        for each in evidence
        if each and (each.finding == "beyond" if isinstance(each, Parting) else each.certain)
    ]
    # A NaN takes precedence over the other onsets of its step, which follow from it: `min` returns the first of equals.
    return min((each for each in found if each), key=lambda each: each[0].step, default=(None, None))


def find_onset_between(
    comparison: Comparison, between: Between, *, steady: bool
) -> tuple[Onset, str] | tuple[None, None]:
    """The onset of two runs whose gradients are right: where they first differ, if rounding cannot explain that.

    Args:
        comparison: The two traces.
        between: What differs between the runs.
        steady: Whether the replicas of both sides are equal to the bit.

    Returns:
        The onset and why it is beyond rounding, or (None, None).

    Raises:
        Trouble: A trace is damaged.
    """
    first = comparison.first(among=TRAINED)
    # Other inputs are other data, which no rounding explains and no code has to; `decide` reports them as a doubt.
    if first is None or first.quantity == "input":
        return None, None
    # Where the parameters differ first, the gradients from which they were updated are equal to the bit.
    why = _changed_update(comparison, comparison.index_of(first.step)) if first.quantity == "param" else None
    if why is None and between.owed and steady:
        why = (
            "nothing that is recorded differs (code, settings, software, hardware), yet the bits do: code that they "
            "import may have changed, or the device does not reproduce its own results"
        )
    index = comparison.index_of(first.step)
    return (_at(comparison, index, first.quantity, first.tensor), why) if why else (None, None)


def find_other_function(comparison: Comparison, between: Between) -> tuple[Onset, str] | tuple[None, None]:
    """The onset of two runs that compute other functions from equal parameters, at their first step.

    Args:
        comparison: The two traces.
        between: What is known of the two runs.

    Returns:
        The onset and why rounding cannot explain it, or (None, None); where all bits are equal, no function differs.

    Raises:
        Trouble: A trace is damaged.
    """
    first = comparison.first(among=TRAINED)
    if between.other is None or first is None or comparison.differs_in("input")[0]:
        return None, None
    if between.other.asked and not updates_part(comparison):
        return None, None
    index = first_shown(comparison) if between.other.elsewhere else 0
    if index is None:
        return None, None
    # A setting that differs is the cause by name.
    named = _changed_update(comparison, 0) if between.other.quantity == "update" else None
    return _at(comparison, index, between.other.quantity, between.other.tensor), named or between.other.why


def updates_part(comparison: Comparison) -> bool:
    """Whether the updates of the first steps are further apart than the gradients that the optimizers got explain.

    Where they are not, the loop does by hand what the optimizer of the other side does.

    Args:
        comparison: The two traces.

    Raises:
        Trouble: A trace is damaged.
    """
    updates, gradients = comparison.distances("update"), comparison.distances("step_grad")
    if updates is None or gradients is None:
        return True
    first = slice(0, int(lines.JUMP_WINDOW.value))
    line = lines.PARTING_UPDATE.value * comparison.unit + lines.JUMP_UPDATE_FOLLOWS.value * gradients.whole[first]
    # A NaN is not known to be explained.
    return not bool((updates.whole[first] <= line).all())


def find_onset_of_ranks(
    comparison: Comparison, between: Between, onset: Onset | None, beyond: str | None
) -> tuple[Onset | None, str | None]:
    """What was found of the ranks of a training, or the onset of a pair where that comes before it.

    Args:
        comparison: The two traces.
        between: What is known of the two runs.
        onset: The onset of the pair, or None.
        beyond: Why rounding cannot explain it, or None.

    Raises:
        Trouble: A trace is damaged.
    """
    found = between.ranks
    if found is None or not 0 <= (index := comparison.index_of(found.step)) < comparison.steps:
        return onset, beyond
    if onset and (onset.step, _order(onset.quantity)) < (found.step, _order(found.quantity)):
        return onset, beyond
    return _at(comparison, index, found.quantity, found.tensor), found.why


def _order(quantity: str) -> int:
    """Place of a quantity in the order of computation."""
    return QUANTITIES.index("param" if quantity == "update" else quantity)


def _changed_update(comparison: Comparison, step: int) -> str | None:
    """Why the parameters differ after gradients that are equal to the bit; None where that is not known."""
    # This norm is taken after whatever changes the gradients before the optimizer uses them. It may be NaN, or not
    # known, and the comparison is then False.
    norms = [float(side[step]) for side in comparison.both("step_grad_norm")]
    if abs(norms[0] - norms[1]) > lines.CHANGED_NORM.value * max(norms):
        return (
            "the gradients from backward are equal to the bit, but their norm at the optimizer's step is "
            f"{norms[0]:.6g} in the baseline and {norms[1]:.6g} in the candidate: something changes them in between, "
            "such as clipping"
        )
    sides = (comparison.baseline, comparison.candidate)
    # The record has the rate of a trace's first step.
    rates = [trace.record.lr for trace in sides] if len({trace.first_step for trace in sides}) == 1 else [None, None]
    if rates[0] and rates[1] and not math.isclose(rates[0], rates[1], rel_tol=lines.SAME_SETTING.value):
        return f"the gradients are equal to the bit, but the learning rates are {rates[0]} and {rates[1]}"
    return None


def one_sided_nan(comparison: Comparison) -> tuple[Onset, str] | None:
    """The first step at which a loss or norm is NaN, or a loss infinite, on one side only; None where there is none.

    Steps whose inputs differ are not looked at: other data may well give a NaN.
    """
    # All steps before the first with other inputs.
    inputs = first_true(comparison.differs_in("input"))
    comparable = np.arange(comparison.steps) < (comparison.steps if inputs is None else inputs)
    # The loss first: it is computed before the gradients, which a NaN in it makes NaN as well.
    quantities = [each for each in ("loss", *NORMED_QUANTITIES) if each not in comparison.own]
    if not quantities:
        return None
    # The norm of a gradient may well be infinite: in half precision, before its scale is taken out.
    sides = {name: np.not_equal(*finiteness(comparison, name, infinite=name == "loss")) for name in quantities}
    step = first_true(np.logical_or.reduce(list(sides.values())) & comparable)
    if step is None:
        return None
    # A NaN in a tensor makes its norm NaN, so norms show it without the tensor.
    quantity = next(name for name in quantities if sides[name][step])
    found = not_finite(comparison, quantity, step, infinite=quantity == "loss")
    assert found is not None, "the sides differ in it"
    return _at(comparison, step, quantity), f"{quantity} is {found.word} in the {found.side} only"


def _audit_onset(comparison: Comparison, audit: LossAudit) -> tuple[Onset, str] | None:
    """The first audited step beyond its line, or None."""
    beyond = audit.beyond()
    if comparison.first(among=TRAINED) is None:
        beyond["loss"] &= False  # nothing but the reported number differs: report-only, however far off it is
    step = first_true(np.logical_or.reduce(list(beyond.values())))
    if step is None:
        return None
    # A wrong gradient is the graver of the two, and the loss's looser bound may trip over the same step.
    onset = _at(comparison, step, "output_grad" if beyond["output_grad"][step] else "loss")
    return onset, audit.explain(step, onset.quantity)


def _device_onset(comparison: Comparison, audit: DeviceAudit, partings: Sequence[Parting]) -> tuple[Onset, str] | None:
    """The first error of a device beyond its line; else its first difference, if it did not repeat its own bits."""
    # A shared step may lie beyond the steps that both traces have.
    if audit.first is not None and 0 <= comparison.index_of(audit.first.step) < comparison.steps:
        wrong = audit.first
        for parting in partings:
            if _begins_at(comparison.first_step + parting.index, parting, audit):
                since = f"step {wrong.step} is the first since that was checked against float64"
                at_parting = _at(comparison, parting.index, parting.quantity, parting.tensor)
                return at_parting, f"{parting.explain_distance()}; {since}"
        return _at(comparison, comparison.index_of(wrong.step), wrong.quantity, wrong.tensor), wrong.explain()
    first = comparison.first()
    # Which step differs by itself is then chance, so the place is that of the traces' first difference.
    if audit.unrepeated is not None and first is not None:
        why = (
            "repeated from the same state, the step produced different bits: the device does not reproduce its own "
            "results"
        )
        return _at(comparison, comparison.index_of(first.step), first.quantity, first.tensor), why
    return None


def _begins_at(step: int, parting: Parting, audit: DeviceAudit) -> bool:
    """Whether the error in a checked step began where the runs parted: too far in the same quantity, and unchecked."""
    wrong = audit.first
    return (
        wrong is not None
        and (parting.finding, parting.quantity) == ("unknown", wrong.quantity)
        and step < wrong.step
        and not any(step <= checked < wrong.step for checked in audit.steps)
    )


def find_unequal_onset(
    comparison: Comparison, equals: DeviceClass, pair: Pair
) -> tuple[Onset, str] | tuple[None, None]:
    """The onset of two devices of one class: their first difference of any size, since there should be none.

    Args:
        comparison: The two traces.
        equals: The class that both devices belong to.
        pair: The two trials.

    Returns:
        The onset and which device is to blame, if that is known; or (None, None).

    Raises:
        Trouble: A trace is damaged.
    """
    first = comparison.first()
    if first is None:
        return None, None
    onset = _at(comparison, comparison.index_of(first.step), first.quantity, first.tensor)
    # The trials that lost the vote; the baseline may be among them.
    odd = {record.trial for device in equals.odd for record in device.trials}
    blamed = [record.device for record in (pair.candidate, pair.baseline) if record.trial in odd]
    if blamed:
        differing = f"{' and '.join(blamed)} differ{'s' if len(blamed) == 1 else ''}"
        return onset, f"equal devices must agree to the bit, and {differing} from the majority of class {equals.label}"
    # Without a majority, both devices are under suspicion alike.
    return onset, (
        "equal devices must agree to the bit, and these two do not; "
        f"class {equals.label}, of {len(equals.devices)} devices, has no majority, so either may be the odd one"
    )


def _at(comparison: Comparison, index: int, quantity: str, tensor: str | None = None) -> Onset:
    """The onset at a position among the common steps, with its step, epoch and batch."""
    step, epoch, batch = (int(comparison.both(name)[1][index]) for name in ("step", "epoch", "batch"))
    return Onset(step, epoch, batch, quantity, tensor)


def first_true(flags: np.ndarray) -> int | None:
    """The first index of a True, or None.

    >>> first_true(np.array([False, True, True]))
    1
    """
    # `argmax` of nothing but False is 0, so it says nothing without `any`.
    return int(np.argmax(flags)) if flags.any() else None
