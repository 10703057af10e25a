"""A parameter is said to be changed outside of the optimizer's step only where its update shows it."""

import pytest
import torch
import torch.nn.functional as F
from small_loops import adamw, ask, logsumexp_loss, net, sgd
from torch import nn

OUTSIDE = "changed outside of the optimizer's step"


class TwoHeads(nn.Module):
    """The second head is used from step 20 on."""

    def __init__(self, value):
        super().__init__()
        self.body, _, self.first = net()
        self.second = nn.Linear(32, 4)
        self.both = False
        nn.init.constant_(self.second.weight, value)
        nn.init.zeros_(self.second.bias)

    def forward(self, inputs):
        hidden = F.gelu(self.body(inputs))
        return self.first(hidden) + (self.second(hidden) if self.both else 0)


def use_both(step, model):
    model.both = step >= 20


class Stale(torch.optim.AdamW):
    """Does not update the last bias, except in the steps that parity takes in float64."""

    def step(self):
        bias = self.param_groups[0]["params"][-1]
        kept = bias.detach().clone()
        super().step()
        if bias.dtype == torch.float32:
            with torch.no_grad():
                bias.copy_(kept)


def change_a_row(step, model):
    if step == 25:
        with torch.no_grad():
            model[2].weight[0].add_(1e-3)


def double_a_weight(step, model):
    if step == 25:
        with torch.no_grad():
            model[2].weight.mul_(2)


def other_activation(step, model):
    if step == 25:
        model[1].approximate = "tanh"
        with torch.no_grad():
            model[1].register_forward_hook(lambda _, __, output: output * 1.01)


@pytest.mark.parametrize("rounding", [{}, {"loss": logsumexp_loss}], ids=["equal", "rounding"])
def test_initial_values_of_a_head_that_is_used_late_are_named(tmp_path, rounding):
    pair = ask(
        tmp_path,
        {"model": lambda: TwoHeads(0.0), "before": use_both},
        {"model": lambda: TwoHeads(0.01), "before": use_both, **rounding},
    )
    assert (pair.onset.step, pair.onset.quantity) == (0, "state")
    assert "initial parameters of second.weight: " in pair.cause
    assert OUTSIDE not in pair.cause


def test_an_update_that_is_missing_is_named(tmp_path):
    pair = ask(tmp_path, {}, {"optimizer": lambda model: Stale(model.parameters(), 1e-3), "loss": logsumexp_loss})
    assert (
        "its update is missing: the candidate does not update 2.bias in step 0, though it has a gradient" in pair.cause
    )
    assert OUTSIDE not in pair.cause


@pytest.mark.parametrize("rounding", [{}, {"loss": logsumexp_loss}], ids=["equal", "rounding"])
@pytest.mark.parametrize(
    ("optimizer", "change"), [(sgd, change_a_row), (sgd, double_a_weight), (adamw, double_a_weight)]
)
def test_a_parameter_that_was_changed_is_named_with_its_side(tmp_path, optimizer, change, rounding):
    changed = {"optimizer": optimizer, "before": change}
    pair = ask(tmp_path / "there", {"optimizer": optimizer}, {**changed, **rounding})
    assert (pair.onset.step, pair.onset.quantity) == (25, "output")
    assert f"the parameter 2.weight was {OUTSIDE} in the candidate" in pair.cause
    pair = ask(tmp_path / "back", changed, {"optimizer": optimizer, **rounding})
    assert f"the parameter 2.weight was {OUTSIDE} in the baseline" in pair.cause


@pytest.mark.parametrize("rounding", [{}, {"loss": logsumexp_loss}], ids=["equal", "rounding"])
@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_a_model_that_computes_something_else_has_no_changed_parameter(tmp_path, optimizer, rounding):
    pair = ask(tmp_path, {"optimizer": optimizer}, {"optimizer": optimizer, "before": other_activation, **rounding})
    assert (pair.onset.step, pair.onset.quantity) == (25, "output")
    assert OUTSIDE not in pair.cause and "update" not in pair.cause
