"""Clipping and loss scales are named where one factor fits all tensors; else the tensors with factors of their own."""

import pytest
from small_loops import ask, logsumexp_loss, sgd
from torch import nn

BETWEEN = "between backward and the optimizer's step, "


def late(change):
    return lambda step, model: change(model) if step >= 20 else None


def halve_the_head(model):
    for parameter in model[2].parameters():
        parameter.grad.mul_(0.5)


def grow_a_layer(model):
    model[0].weight.grad.mul_(1.02)


def zero_a_bias(model):
    model[2].bias.grad.zero_()


def lose_a_bias(model):
    model[2].bias.grad = None


def turn_a_bias(model):
    model[2].bias.grad.copy_(model[2].bias.grad.flip(0))


def clip(limit):
    return lambda model: nn.utils.clip_grad_norm_(model.parameters(), limit)


def clip_each(model):
    for parameter in model.parameters():
        nn.utils.clip_grad_norm_([parameter], 0.01)


def clip_values(model):
    nn.utils.clip_grad_value_(model.parameters(), 1e-3)


@pytest.mark.parametrize("rounding", [{}, {"loss": logsumexp_loss}], ids=["equal", "rounding"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (halve_the_head, "0.5 times that of backward in 2.weight, 2.bias (unchanged in all others)"),
        (grow_a_layer, "1.02 times that of backward in 0.weight (unchanged in all others)"),
        (zero_a_bias, "zero in 2.bias (unchanged in all others)"),
        (lose_a_bias, "missing in 2.bias (unchanged in all others)"),
        (turn_a_bias, "not a multiple of that of backward in 2.bias (unchanged in all others)"),
    ],
)
def test_single_tensors_are_named_with_their_own_factor(tmp_path, change, said, rounding):
    pair = ask(tmp_path, {"optimizer": sgd}, {"optimizer": sgd, "ready": late(change), **rounding})
    assert (pair.onset.step, pair.onset.quantity) == (20, "step_grad")
    assert (
        f"the gradient that the optimizer received is unchanged in the baseline and {said} in the candidate: "
        f"{BETWEEN}something changes single" in pair.cause
    )
    assert "clipping" not in pair.cause and "loss scale" not in pair.cause


@pytest.mark.parametrize("rounding", [{}, {"loss": logsumexp_loss}], ids=["equal", "rounding"])
def test_one_factor_of_all_tensors_is_clipping_or_a_loss_scale(tmp_path, rounding):
    pair = ask(tmp_path, {"optimizer": sgd}, {"optimizer": sgd, "ready": late(clip(0.05)), **rounding})
    assert (pair.onset.step, pair.onset.quantity) == (20, "step_grad")
    assert "the gradient that the optimizer received is unchanged in the baseline and 0." in pair.cause
    assert f"times that of backward in the candidate: {BETWEEN}clipping or the loss scale differs" in pair.cause


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (clip_each, "another multiple of that of backward in each tensor"),
        (clip_values, "not a multiple of that of backward"),
    ],
)
def test_other_ways_of_clipping_are_not_one_factor(tmp_path, change, said):
    pair = ask(tmp_path, {"optimizer": sgd, "ready": late(clip(0.05))}, {"optimizer": sgd, "ready": late(change)})
    assert (
        f"and {said} in the candidate: {BETWEEN}something changes it by no common factor, such as clipping"
        in pair.cause
    )
