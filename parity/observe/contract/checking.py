"""The loss contract: what the baseline loss does, on a few rows before training, is what the candidate must do.

Every item of `contract_items.CHECKS` is held against the candidate and against the baseline itself: a baseline that
does not do something asks it of nobody.

A loss may keep state between calls: give the contract a loss that was loaded for it, and load the one that trains
anew. What torch.compile would compile runs as it is written here: compiling it for each dtype and layout would take
longer than the contract may, and would leave its marks on the training.

Shapes: R rows; the output is dtype[R, ...], of any further shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import Oracle
from parity.observe.contract.calls import GENERATORS, Broken, Case, Check, Finding, Raised
from parity.observe.contract.distances import own_errors
from parity.observe.contract.items import CHECKS
from parity.tasks.losses import Loss

STATUSES = ("passed", "limited", "not applicable", "failed")
ITEMS = tuple(CHECKS)

BUDGET_S = 4.0  # for a loss; after it no further item is begun
# What torch raises where tensors cannot be computed with: of another device, of no real dtype, of no float64 at all.
UNASKABLE = (RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Item:
    """What came of one item.

    Attributes:
        name: One of `ITEMS`.
        status: One of `STATUSES`. "limited" is less than the baseline does, in a way that cannot touch this training;
            "failed" would make a training wrong, be it under gradient accumulation, loss scaling or mixed precision.
        reason: What was found; "" when passed.
    """

    name: str
    status: str
    reason: str


def check_contract(
    candidate: Loss, baseline: Loss, oracle: Oracle, output: torch.Tensor, target: torch.Tensor
) -> tuple[Item, ...]:
    """Holds a loss to what the baseline does.

    The global generators of torch, NumPy and Python are left as they were.

    Args:
        candidate: Called some 300 times, never with the same tensors.
        baseline: As the candidate.
        oracle: The baseline's float64 form.
        output: Of the task's model, on the trial's device; dtype[R, ...], about 8 rows. Never written to.
        target: What belongs to it. Never written to.

    Returns:
        An item for each name of `ITEMS`, in that order.
    """
    case = Case(
        candidate,
        baseline,
        oracle,
        output.detach().clone(memory_format=torch.contiguous_format),
        target.detach().clone(memory_format=torch.contiguous_format),
        target_learns=target.requires_grad,
        deadline_s=time.monotonic() + BUDGET_S,
    )
    items: dict[str, Item] = {}
    with _generators_restored(), _uncompiled(), torch.enable_grad():
        with contextlib.suppress(Broken, OracleUnavailable, *UNASKABLE):  # items that need them say so
            own_grad_u, own_loss_u = own_errors(case, case.output, case.target)
            case = dataclasses.replace(case, own_grad_u=max(1.0, own_grad_u), own_loss_u=max(1.0, own_loss_u))
        for name, check in CHECKS.items():
            items[name] = Item(name, *_find(check, case, items))
    return tuple(items.values())


def _find(check: Check, case: Case, items: Mapping[str, Item]) -> Finding:
    """The candidate's finding, unless an item before it or the baseline rules the question out."""
    if time.monotonic() > case.deadline_s:
        return "not applicable", f"not looked at: the items before it took {BUDGET_S:g} s, which is all there is"
    for need in check.needs:
        if (status := items[need].status) != "passed":
            return "not applicable", f'needs "{need}", which {"failed" if status == "failed" else f"is {status}"}'
    if check.unless_limited and items[check.unless_limited].status == "limited":
        return "not applicable", f'"{check.unless_limited}" is limited'
    status, reason = _attempt(check, dataclasses.replace(case, loss=case.baseline))
    if status == "not applicable":
        return status, reason
    if status != "passed":
        return "not applicable", f"the baseline itself does not do it: {reason}"
    return _attempt(check, case)


def _attempt(check: Check, case: Case) -> Finding:
    try:
        return check.function(case)
    except Raised as error:
        return check.when_raised, str(error)
    except Broken as error:
        return check.when_broken, str(error)
    except OracleUnavailable as error:
        return "not applicable", f"the baseline has no float64 form: {error}"
    except UNASKABLE as error:
        return check.when_raised, f"cannot be looked at: {type(error).__name__}: {error}"


@contextlib.contextmanager
def _generators_restored() -> Iterator[None]:
    states = {name: get() for name, (get, _) in GENERATORS.items()}
    try:
        yield
    finally:
        for name, (_, put) in GENERATORS.items():
            put(states[name])


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Lets what torch.compile would compile run as it is written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and asking would import it
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
