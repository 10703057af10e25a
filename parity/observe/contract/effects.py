"""Items of the contract about effects: what a call leaves behind it, and whether it repeats."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import torch

from parity.observe.contract.calls import (
    GENERATORS,
    PASSED,
    Broken,
    Case,
    Finding,
    another,
    backward,
    call,
    evaluate,
    lay_out,
)
from parity.observe.contract.distances import distance_in_u, repeats, same_bits

REPEATS = 3  # with another call before each, so that what is kept of it shows


def check_repeatable(case: Case) -> Finding:
    first = evaluate(case.loss, case.output, case.target)
    for _ in range(REPEATS):
        evaluate(case.loss, another(case.output), case.target.flip(0) if case.target.dim() else case.target)
        again = evaluate(case.loss, case.output, case.target)
        for name, left, right in zip(("loss", "gradient"), first, again, strict=True):
            if not same_bits(left, right):
                by = f"by {distance_in_u(right, left):.4g} u"
                return "failed", f"the {name} of equal tensors differs from call to call, {by}"
    return PASSED


def check_mutation(case: Case) -> Finding:
    given, target = lay_out(case.output), case.target.clone()
    value = call(case.loss, given, target)
    with contextlib.suppress(Broken):  # that is for "gradient" to say; what was written to is seen all the same
        backward(value, given)
    if not same_bits(target, case.target):
        return "failed", "changes its target in place; work on a copy, target.clone()"
    if not same_bits(given, case.output):
        return "failed", "changes its output in place; work on a copy, output.clone()"
    return PASSED


def check_random_generators(case: Case) -> Finding:
    # A generator that an earlier call has seeded would look untouched when it is seeded again.
    torch.rand((), device=case.output.device), torch.rand(()), np.random.random(), random.random()
    before = {name: _frozen(get()) for name, (get, _) in GENERATORS.items()}
    given = lay_out(case.output)
    value = call(case.loss, given, case.target.clone())
    with contextlib.suppress(Broken):  # that is for "gradient" to say
        backward(value, given)
    touched = [name for name, (get, _) in GENERATORS.items() if _frozen(get()) != before[name]]
    return ("failed", f"draws from or seeds {' and '.join(touched)} global generator") if touched else PASSED


def _frozen(state: object) -> object:
    """A generator's state as something that can be compared."""
    if isinstance(state, tuple | list):
        return tuple(_frozen(part) for part in state)
    return np.asarray(state).tobytes() if isinstance(state, torch.Tensor | np.ndarray) else state


def check_two_calls(case: Case) -> Finding:
    outputs = (case.output, another(case.output))
    alone = [evaluate(case.loss, output, case.target)[1] for output in outputs]
    given = [lay_out(output) for output in outputs]
    values = [call(case.loss, output, case.target.clone()) for output in given]
    for place, value, output, expected in zip(("first", "second"), values, given, alone, strict=True):
        finding = repeats(case, backward(value, output), expected, f"of the {place} of two calls")
        if finding != PASSED:
            return finding
    return PASSED
