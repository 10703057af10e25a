"""Gradients that one loop clips before it records them, and the other after: what the optimizers receive decides."""

import pytest
import torch
from small_loops import adamw, ask, net, sgd
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

LEAST, NORM = 0.005, 0.05

pytestmark = pytest.mark.usefixtures("one_thread")


def hooked(change):
    def model():
        made = net()
        for parameter in made.parameters():
            parameter.register_hook(change)
        return made

    return model


def clamped(gradient):
    return gradient.clamp(-LEAST, LEAST)


def clip_values(step, model):
    clip_grad_value_(model.parameters(), LEAST)


def clip_norm(step, model):
    clip_grad_norm_(model.parameters(), NORM)


def clip_norm_at_once(model):
    """Clips at the end of backward, and so before the Recorder sees the gradients."""

    def last(parameter):
        clip_grad_norm_(model.parameters(), NORM)

    next(model.parameters()).register_post_accumulate_grad_hook(last)
    return model


def clip_norm_by_hand(step, model):
    """Rounds otherwise than torch."""
    gradients = [parameter.grad for parameter in model.parameters()]
    length = torch.cat([each.double().reshape(-1) for each in gradients]).norm()
    for each in gradients:
        each.mul_(float(NORM / length))


VALUES = {"ready": clip_values}, {"model": hooked(clamped)}
NORMS = {"ready": clip_norm}, {"model": lambda: clip_norm_at_once(net())}
BY_HAND = {"ready": clip_norm_by_hand}, NORMS[1]


@pytest.mark.parametrize("optimizer", [adamw, sgd])
@pytest.mark.parametrize("sides", [VALUES, VALUES[::-1], NORMS, NORMS[::-1], BY_HAND, BY_HAND[::-1]])
def test_clipping_before_and_after_the_recorder_looks_is_rounding(tmp_path, optimizer, sides):
    baseline, candidate = ({"optimizer": optimizer, "steps": 12} | side for side in sides)
    assert ask(tmp_path, baseline, candidate).verdict == "rounding"


def double(gradient):
    return 2 * gradient


@pytest.mark.parametrize(
    "sides",
    [
        ({}, VALUES[0]),
        ({}, VALUES[1]),
        (NORMS[0], {}),
        (NORMS[1], {}),
        # Clipping hides from the optimizer that the gradient of one side is twice as long.
        (NORMS[0], {"model": hooked(double), "ready": clip_norm}),
        (VALUES[0], {"model": hooked(lambda gradient: gradient.clamp(-1.01 * LEAST, 1.01 * LEAST))}),
    ],
)
def test_clipping_otherwise_is_diverged_at_the_first_step(tmp_path, sides):
    pair = ask(tmp_path, *({"optimizer": sgd, "steps": 12} | side for side in sides))
    assert (pair.verdict, pair.onset.step) == ("diverged", 0)
    assert pair.onset.quantity in ("param_grad", "step_grad")
