"""The probe of optimizers: equal for the same function however it is written, and for no other; it changes nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from parity.ground.errors import OracleUnavailable
from parity.observe.optimizer_probe import probe


def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4))
    made(torch.randn(16, 8)).square().mean().backward()
    return made


class ByHand(torch.optim.Optimizer):
    """AdamW, with its settings where nobody looks for them."""

    def __init__(self, params, *, decay=0.1, beta=0.999, of_biases=True):
        super().__init__(params, {"lr": 1e-3})
        self.decay, self.beta, self.of_biases = decay, beta, of_biases

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state.update(t=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
                state["t"] += 1
                if parameter.dim() > 1 or self.of_biases:
                    parameter.mul_(1 - group["lr"] * self.decay)
                state["m"].lerp_(parameter.grad, 0.1)
                state["v"].mul_(self.beta).addcmul_(parameter.grad, parameter.grad, value=1 - self.beta)
                mean, square = state["m"] / (1 - 0.9 ** state["t"]), state["v"] / (1 - self.beta ** state["t"])
                parameter.sub_(group["lr"] * mean / (square.sqrt() + 1e-8))


class InBfloat16(torch.optim.Optimizer):
    """Normalises in bfloat16, as Muon does."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            narrow = parameter.grad.bfloat16()
            parameter.sub_(0.1 * (narrow / narrow.norm()).to(parameter.dtype))


def adamw(net, **settings):
    return torch.optim.AdamW(net.parameters(), **{"lr": 1e-3, "weight_decay": 0.1, **settings})


def asked(make, net=None):
    net = net or model()
    return {name: np.array(value) for name, value in probe(net, [make(net)]).items()}


def apart(one, other):
    whole = np.linalg.norm(one["optimizer_norms"])
    return np.linalg.norm(one["optimizer_sketches"] - other["optimizer_sketches"]) / whole


@pytest.mark.parametrize(
    "make",
    [
        lambda net: adamw(net, foreach=True),
        lambda net: adamw(net, fused=True),
        lambda net: ByHand(net.parameters()),
        lambda net: torch.optim.Adam(net.parameters(), 1e-3, weight_decay=0.1, decoupled_weight_decay=True),
    ],
)
def test_the_same_function_adds_the_same_however_it_is_written(make):
    one, other = asked(adamw), asked(make)
    assert apart(one, other) < 1e-12
    assert one["optimizer_inexact"] == other["optimizer_inexact"] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda net: adamw(net, betas=(0.9, 0.99)),
        lambda net: adamw(net, betas=(0.8, 0.999)),
        lambda net: adamw(net, eps=1e-7),
        lambda net: adamw(net, lr=1.01e-3),
        lambda net: adamw(net, weight_decay=0.1001),
        lambda net: adamw(net, amsgrad=True),
        lambda net: torch.optim.Adam(net.parameters(), 1e-3, weight_decay=0.1),
        lambda net: ByHand(net.parameters(), of_biases=False),
        lambda net: ByHand(net.parameters(), beta=0.9995),
    ],
)
def test_another_function_adds_something_else(make):
    assert apart(asked(adamw), asked(make)) > 1e-8


@pytest.mark.parametrize(("one", "other"), [({"momentum": 0.9}, {}), ({"momentum": 0.9}, {"nesterov": True})])
def test_a_momentum_shows_though_the_first_step_has_none(one, other):
    plain, changed = ({"lr": 0.1, **one}, {"lr": 0.1, "momentum": 0.9, **other}) if other else ({"lr": 0.1}, one)
    sides = [asked(lambda net, side=side: torch.optim.SGD(net.parameters(), **side)) for side in (plain, changed)]
    assert apart(*sides) > 1e-3


def test_the_gradients_of_the_loop_do_not_matter():
    clipped = model()
    nn.utils.clip_grad_norm_(clipped.parameters(), 1e-3)
    assert apart(asked(adamw), asked(adamw, clipped)) == 0


def test_what_an_optimizer_rounds_by_itself_is_told():
    found = asked(lambda net: InBfloat16(net.parameters()))
    assert 1e-4 < found["optimizer_inexact"] / np.linalg.norm(found["optimizer_norms"]) < 5e-2


def test_the_loop_does_not_notice():
    net = model()
    optimizer = adamw(net)
    before = copy.deepcopy([net.state_dict(), [each.grad for each in net.parameters()], torch.get_rng_state()])
    probe(net, [optimizer])
    after = [net.state_dict(), [each.grad for each in net.parameters()], torch.get_rng_state()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not optimizer.state


def test_an_optimizer_that_needs_a_closure_says_so():
    net = model()
    with pytest.raises(OracleUnavailable, match="the optimizer cannot be copied in float64: TypeError"):
        probe(net, [torch.optim.LBFGS(net.parameters())])
