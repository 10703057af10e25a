"""The loss contract: what the baseline does on a few rows, before the training, the candidate must do as well.

Every item of `items.CHECKS` is applied to the candidate and to the baseline itself: what the baseline does not do is
not asked of the candidate.

A loss may keep state between calls: give the contract a loss that was loaded for it, and load the one that trains
anew. Code under torch.compile runs uncompiled here: compiling it for each dtype and layout would take longer than the
contract may, and would leave compiled code behind for the training.

Shapes: R rows; the output is dtype[R, ...], or a tree of such tensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from parity.ground.errors import OracleUnavailable
from parity.ground.quoting import explain_error
from parity.observe.audit import Oracle
from parity.observe.contract.calls import Broken, Case, Check, Outcome, Raised, learning
from parity.observe.contract.distances import baseline_errors
from parity.observe.contract.items import CHECKS
from parity.observe.generators import generators_restored
from parity.observe.loss_state import state_restored
from parity.observe.settings import settings_restored
from parity.plan import lines
from parity.tasks.losses import Loss
from parity.tasks.outputs import Outputs, map_tensors, tensors

STATUSES = ("passed", "limited", "not applicable", "failed")
ITEMS = tuple(CHECKS)

# What torch raises where it cannot compute with tensors: of another device, of a complex dtype, without float64.
UNASKABLE = (RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Item:
    """The outcome of one item.

    Attributes:
        name: One of `ITEMS`.
        status: One of `STATUSES`. "limited" is less than the baseline does, in a way that cannot affect this training;
            "failed" would make a training wrong, be it under gradient accumulation, loss scaling or mixed precision.
        reason: What was found; "" when passed.
    """

    name: str
    status: str
    reason: str


def check_contract(
    candidate: Loss, baseline: Loss, oracle: Oracle, output: Outputs, target: Outputs
) -> tuple[Item, ...]:
    """Checks whether a loss does what the baseline does; arguments, effects and result as of `iterate_contract`.

    Returns:
        An item for each name of `ITEMS`, in that order.
    """
    return tuple(iterate_contract(candidate, baseline, oracle, output, target))


def iterate_contract(
    candidate: Loss, baseline: Loss, oracle: Oracle, output: Outputs, target: Outputs
) -> Iterator[Item]:
    """Checks whether a loss does what the baseline does, item by item, since slow losses take long.

    Every loss gets every item, however slow it is: what is checked depends on numbers of calls and never on seconds.
    Between two items, and at the end, the global generators and torch's settings are as they were; at the end the state
    of both losses is, too (see `state_restored` for what that is).

    Args:
        candidate: Called some 300 times, never with the same tensors.
        baseline: Called as the candidate is.
        oracle: The baseline in float64.
        output: Output of the task's model, on the trial's device; dtype[R, ...] of about 8 rows, or a tree. Never
            written to.
        target: The target that belongs to the output. Never written to.

    Yields:
        An item for each name of `ITEMS`, in that order.
    """
    # With the least errors, which stay if the baseline's own cannot be measured.
    case = Case(
        candidate,
        baseline,
        oracle,
        map_tensors(_contiguous, output),
        map_tensors(_contiguous, target),
        baseline_grads_u=(lines.LEAST_ERROR.value,) * len(learning(output)),
        target_learns=any(tensor.requires_grad for tensor in tensors(target)),
    )
    items: dict[str, Item] = {}
    with state_restored(candidate, baseline):
        # Items that need the baseline's errors report why they are missing.
        with _undisturbed(), contextlib.suppress(Broken, OracleUnavailable, *UNASKABLE):
            case = _with_baseline_errors(case)
        for name, check in CHECKS.items():
            with _undisturbed():
                items[name] = Item(name, *_find(check, case, items))
            yield items[name]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps what an item does from the rest of the process, and a compiler from what it calls."""
    with generators_restored(), settings_restored(), _uncompiled(), torch.enable_grad():
        yield


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    # Contiguous, since other layouts are items of their own; a copy, since the training may go on with the original.
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _with_baseline_errors(case: Case) -> Case:
    """The case with the baseline's errors on its output, in u.

    Raises:
        Broken: The baseline raises, or has no gradient.
        OracleUnavailable: The baseline has no float64 form.
    """
    grads_u, loss_u = baseline_errors(case, case.output, case.target)
    least = lines.LEAST_ERROR.value
    return dataclasses.replace(
        case, baseline_grads_u=tuple(max(least, each) for each in grads_u), baseline_loss_u=max(least, loss_u)
    )


def _find(check: Check, case: Case, items: Mapping[str, Item]) -> Outcome:
    """The candidate's outcome, unless an earlier item or the baseline rules the question out."""
    # From the cheapest answer to the most expensive: the earlier items, the baseline, the candidate.
    for need in check.needs:
        if (status := items[need].status) != "passed":
            return "not applicable", f'needs "{need}", which {"failed" if status == "failed" else f"is {status}"}'
    if check.unless_limited and items[check.unless_limited].status == "limited":
        return "not applicable", f'"{check.unless_limited}" is limited'
    # The baseline takes the candidate's place first: only what it does itself may be asked of the candidate.
    status, reason = _attempt(check, dataclasses.replace(case, loss=case.baseline))
    if status == "not applicable":
        return status, reason
    if status != "passed":
        return "not applicable", f"the baseline itself does not do this: {reason}"
    return _attempt(check, case)


def _attempt(check: Check, case: Case) -> Outcome:
    """The outcome of the check, also where it raises: no loss may stop the run here."""
    try:
        return check.function(case)
    # Before Broken, of which it is a kind.
    except Raised as error:
        return check.when_raised, str(error)
    except Broken as error:
        return check.when_broken, str(error)
    except OracleUnavailable as error:
        return "not applicable", f"the baseline has no float64 form: {error}"
    # From the check itself; what the loss raises arrives as `Raised`.
    except UNASKABLE as error:
        return check.when_raised, f"cannot be checked: {explain_error(error)}"


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Runs code under torch.compile as it is written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and asking would import it
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
