"""Items of the contract about effects: what a call leaves behind, and whether it can be repeated."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import torch

from parity.observe.contract.calls import (
    PASSED,
    Broken,
    Case,
    Outcome,
    another,
    backward,
    call,
    cloned,
    evaluate,
    flipped,
    lay_out,
    learning,
)
from parity.observe.contract.distances import by_how_much, distance_in_u, in_part, repeats, same_bits
from parity.observe.generators import GENERATORS
from parity.tasks.outputs import is_tree, part_names, tensors

# Repetitions, each after a call with other tensors, so that whatever the loss keeps of that call shows. Chosen: a loss
# that draws one of two results at random goes unnoticed in one of eight cases, and where it draws from a global
# generator, "random generators" sees that.
REPEATS = 3


def check_repeatable(case: Case) -> Outcome:
    """Whether equal tensors give the same bits each time."""
    value, grads = evaluate(case.loss, case.output, case.target)
    for _ in range(REPEATS):
        evaluate(case.loss, another(case.output), flipped(case.target))
        again, regrads = evaluate(case.loss, case.output, case.target)
        if not same_bits(value, again):
            by = by_how_much(distance_in_u(again, value), value)
            return "failed", f"the loss of equal tensors differs from call to call{by}"
        for name, grad, regrad in zip(part_names(case.output), grads, regrads, strict=True):
            if not same_bits(grad, regrad):
                by = f"{by_how_much(distance_in_u(regrad, grad), grad)}{in_part(name)}"
                return "failed", f"the gradient of equal tensors differs from call to call{by}"
    return PASSED


def check_mutation(case: Case) -> Outcome:
    """Whether output and target are unchanged after forward and backward."""
    # Copies, which are compared with the tensors of the case after the backward pass.
    given, target = lay_out(case.output), cloned(case.target)
    learns = learning(given)
    value = call(case.loss, given, target)
    with contextlib.suppress(Broken):  # "gradient" reports that; what was written to is seen all the same
        backward(value, learns)
    for name, now, before in (("target", target, case.target), ("output", given, case.output)):
        if not same_bits(now, before):
            copy = "copies of its tensors" if is_tree(before) else f"a copy, {name}.clone()"
            return "failed", f"changes its {name} in place; work on {copy}"
    return PASSED


def check_random_generators(case: Case) -> Outcome:
    """Whether the global generators are in the states that they had before the call."""
    # A loss that seeds a generator in each call would leave it untouched after its first: move all of them on first.
    torch.rand((), device=tensors(case.output)[0].device), torch.rand(()), np.random.random(), random.random()
    before = {name: _frozen(generator.take()) for name, generator in GENERATORS.items()}
    given = lay_out(case.output)
    learns = learning(given)
    value = call(case.loss, given, cloned(case.target))
    with contextlib.suppress(Broken):  # "gradient" reports that
        backward(value, learns)
    touched = [generator.whose for name, generator in GENERATORS.items() if _frozen(generator.take()) != before[name]]
    return ("failed", f"draws from or seeds {' and '.join(touched)} global generator") if touched else PASSED


def _frozen(state: object) -> object:
    """A generator's state as something that can be compared."""
    if isinstance(state, tuple | list):
        return tuple(_frozen(part) for part in state)
    return np.asarray(state).tobytes() if isinstance(state, torch.Tensor | np.ndarray) else state


def check_two_calls(case: Case) -> Outcome:
    """Whether two calls before the first backward keep their gradients apart."""
    outputs = (case.output, another(case.output))
    alone = [evaluate(case.loss, output, case.target)[1] for output in outputs]
    given = [lay_out(output) for output in outputs]
    learns = [learning(output) for output in given]
    values = [call(case.loss, output, cloned(case.target)) for output in given]
    # Both graphs exist before the first backward, so state that the second call has overwritten shows in the first.
    for place, value, parts, expected in zip(("first", "second"), values, learns, alone, strict=True):
        where = f"the gradient of the {place} of two calls differs from that of a call alone"
        outcome = repeats(case, backward(value, parts), expected, where)
        if outcome != PASSED:
            return outcome
    return PASSED
