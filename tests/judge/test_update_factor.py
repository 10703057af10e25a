"""A factor of all updates has a cause only where the steps that follow show which."""

import re

import pytest
import torch
from small_loops import ask

CORRECTION, NESTEROV, RATE = "bias correction", "Nesterov", "so it stays in the steps that follow: the rate"


class Adam(torch.optim.Optimizer):
    """Adam by hand, with a factor from a step on, or with parts of its bias correction.

    Steps in float64 are right, so that only the traces show what is wrong.
    """

    def __init__(self, params, *, factor=1.0, start=0, corrected=(True, True)):
        super().__init__(params, {"lr": 1e-4, "betas": (0.9, 0.999)})
        self.factor, self.start, self.corrected = factor, start, corrected

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state.update(step=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
            state["step"] += 1
            state["m"].lerp_(parameter.grad, 0.1)
            state["v"].mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            wrong = parameter.dtype == torch.float32
            first, second = (
                1 - beta ** state["step"] if corrected or not wrong else 1.0
                for beta, corrected in zip((0.9, 0.999), self.corrected, strict=True)
            )
            rate = 1e-4 * (self.factor if wrong and state["step"] > self.start else 1)
            parameter.addcdiv_(state["m"] / first, (state["v"] / second).sqrt() + 1e-8, value=-rate)


class Momentum(torch.optim.SGD):
    """SGD with momentum whose rate has a factor, or which looks ahead as Nesterov's does."""

    def __init__(self, params, *, factor=1.0, looks_ahead=False):
        super().__init__(params, 0.002, momentum=0.9)
        self.factor, self.looks_ahead = factor, looks_ahead

    def step(self):
        (group,) = self.param_groups
        wrong = group["params"][0].dtype == torch.float32
        group["lr"], group["nesterov"] = 0.002 * (self.factor if wrong else 1), self.looks_ahead and wrong
        super().step()
        group["lr"], group["nesterov"] = 0.002, False


def factor_in(cause):
    return float(re.search(r"the update is (\S+) times the baseline's in all tensors", cause)[1])


def cause_of(folder, optimizer, *, steps=12, **wrong):
    pair = ask(
        folder,
        {"optimizer": lambda model: optimizer(model.parameters()), "steps": steps},
        {"optimizer": lambda model: optimizer(model.parameters(), **wrong), "steps": steps},
    )
    assert pair.onset.quantity == "update"
    return pair.cause


@pytest.mark.parametrize("corrected", [(False, False), (False, True), (True, False)])
def test_a_missing_bias_correction_is_named(tmp_path, corrected):
    assert CORRECTION in cause_of(tmp_path, Adam, corrected=corrected)


@pytest.mark.parametrize(("factor", "start"), [(0.1, 0), (0.316, 0), (0.469, 5), (3.162, 0), (0.5, 5)])
def test_a_rate_is_no_bias_correction(tmp_path, factor, start):
    """These are the factors of a missing correction in that step."""
    cause = cause_of(tmp_path, Adam, factor=factor, start=start)
    assert factor_in(cause) == pytest.approx(factor, rel=1e-3)
    assert RATE in cause and CORRECTION not in cause


class Slow(torch.optim.SGD):
    """Moves the large weights too slowly, and what else there is as it should; in float64 it is right."""

    def __init__(self, params, *, factor=1.0):
        super().__init__(params, 0.1)
        self.factor = factor

    def step(self):
        large = [each for each in self.param_groups[0]["params"] if each.dim() > 1 and each.dtype == torch.float32]
        for each in large:
            each.grad.mul_(self.factor)
        super().step()
        for each in large:
            each.grad.div_(self.factor)


def test_a_factor_of_the_large_tensors_alone_is_named_with_them(tmp_path):
    """They make up nearly all of the update, so all of it together is that multiple, too."""

    def scaled_down(step, model):
        with torch.no_grad():
            for each in model.parameters():
                if each.dim() == 1:
                    each.grad.mul_(1e-3)

    pair = ask(
        tmp_path,
        {"optimizer": lambda model: Slow(model.parameters()), "ready": scaled_down, "steps": 12},
        {"optimizer": lambda model: Slow(model.parameters(), factor=0.5), "ready": scaled_down, "steps": 12},
    )
    assert pair.onset.quantity == "update"
    assert pair.cause.endswith("; the update is scaled by 0.5 in 0.weight, 2.weight")


def test_nesterovs_momentum_is_named(tmp_path):
    assert NESTEROV in cause_of(tmp_path, Momentum, looks_ahead=True)


def test_a_rate_is_not_nesterovs_momentum(tmp_path):
    cause = cause_of(tmp_path, Momentum, factor=1.9)
    assert factor_in(cause) == pytest.approx(1.9, rel=1e-3) and NESTEROV not in cause


@pytest.mark.parametrize("wrong", [{"corrected": (False, True)}, {"factor": 0.1}])
def test_a_factor_in_one_of_the_last_two_steps_has_no_cause(tmp_path, wrong):
    cause = cause_of(tmp_path, Adam, steps=2, **wrong)
    assert factor_in(cause) == pytest.approx(0.1, rel=1e-3)
    assert CORRECTION not in cause and RATE not in cause


@pytest.mark.parametrize(
    "strange", [{"betas": ("heavy", None)}, {"betas": 0.9}, {"betas": (1.0, 1.0), "momentum": [2]}]
)
def test_settings_of_any_kind_are_no_settings_of_adam(tmp_path, strange):
    """An optimizer may call whatever it likes so."""

    class Strange(Adam):
        def __init__(self, params, **wrong):
            super().__init__(params, **wrong)
            self.param_groups[0] |= strange

    assert RATE in cause_of(tmp_path, Strange, factor=0.1)
