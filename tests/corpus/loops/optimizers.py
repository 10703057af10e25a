"""Optimizers by hand, as people port them: one rule each, of (parameter, gradient, state, step from 1, settings)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Rule = Callable[[torch.Tensor, torch.Tensor, dict[str, Any], int, dict[str, Any]], None]


class ByHand(torch.optim.Optimizer):
    """An optimizer that follows a rule, with the settings and the names of state of torch's."""

    def __init__(self, parameters: Any, rule: Rule, **settings: Any) -> None:
        super().__init__(parameters, settings)
        self.rule = rule

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Follows the rule for each parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["step"] = state.get("step", torch.tensor(0.0)) + 1
                    self.rule(parameter, parameter.grad, state, int(state["step"]), group)


def adamw_by_hand(rule: Rule, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Makes an AdamW that follows a rule."""
    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    return lambda model: ByHand(model.parameters(), rule, **{**defaults, **settings})


def sgd_by_hand(rule: Rule, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Makes an SGD that follows a rule."""
    return lambda model: ByHand(model.parameters(), rule, **{"lr": 0.05, "momentum": 0.9, **settings})


def moments(gradient: torch.Tensor, state: dict[str, Any], betas: tuple[float, float]) -> tuple[torch.Tensor, ...]:
    """The averages of the gradient and of its square, brought up to date."""
    for name, beta, value in zip(("exp_avg", "exp_avg_sq"), betas, (gradient, gradient**2), strict=True):
        state[name] = beta * state.get(name, torch.zeros_like(gradient)) + (1 - beta) * value
    return state["exp_avg"], state["exp_avg_sq"]


def corrected(
    first: torch.Tensor, second: torch.Tensor, betas: tuple[float, float], step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both averages without their bias towards zero."""
    return first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)


def right_adamw(p, g, state, step, s):
    """Decoupled decay, bias correction, eps outside of the root."""
    p.mul_(1 - s["lr"] * s["weight_decay"])
    first, second = corrected(*moments(g, state, s["betas"]), s["betas"], step)
    p.sub_(s["lr"] * first / (second.sqrt() + s["eps"]))


def one_too_few(p, g, state, step, s):
    """The first bias correction counts one step too few."""
    p.mul_(1 - s["lr"] * s["weight_decay"])
    first, second = moments(g, state, s["betas"])
    first = first / (1 - s["betas"][0] ** max(step - 1, 1))
    p.sub_(s["lr"] * first / ((second / (1 - s["betas"][1] ** step)).sqrt() + s["eps"]))


def uncorrected(p, g, state, step, s):
    """No bias correction."""
    p.mul_(1 - s["lr"] * s["weight_decay"])
    first, second = moments(g, state, s["betas"])
    p.sub_(s["lr"] * first / (second.sqrt() + s["eps"]))


def eps_inside(p, g, state, step, s):
    """Eps inside of the root."""
    p.mul_(1 - s["lr"] * s["weight_decay"])
    first, second = corrected(*moments(g, state, s["betas"]), s["betas"], step)
    p.sub_(s["lr"] * first / (second + s["eps"]).sqrt())


def eps_before_correction(p, g, state, step, s):
    """Eps is added before the bias correction: TensorFlow's "epsilon hat"."""
    p.mul_(1 - s["lr"] * s["weight_decay"])
    first, second = moments(g, state, s["betas"])
    correction = (1 - s["betas"][1] ** step) ** 0.5 / (1 - s["betas"][0] ** step)
    p.sub_(s["lr"] * correction * first / (second.sqrt() + s["eps"]))


def decay_in_gradient(p, g, state, step, s):
    """The decay is added to the gradient, so that it is divided by the root as well."""
    first, second = corrected(*moments(g + s["weight_decay"] * p, state, s["betas"]), s["betas"], step)
    p.sub_(s["lr"] * first / (second.sqrt() + s["eps"]))


def decay_without_rate(p, g, state, step, s):
    """The decay is not multiplied by the learning rate."""
    p.mul_(1 - s["weight_decay"])
    first, second = corrected(*moments(g, state, s["betas"]), s["betas"], step)
    p.sub_(s["lr"] * first / (second.sqrt() + s["eps"]))


def decay_last(p, g, state, step, s):
    """The decay is taken of the new parameter."""
    first, second = corrected(*moments(g, state, s["betas"]), s["betas"], step)
    p.sub_(s["lr"] * first / (second.sqrt() + s["eps"]))
    p.mul_(1 - s["lr"] * s["weight_decay"])


def other_second_beta(p, g, state, step, s):
    """The second average forgets ten times as fast."""
    p.mul_(1 - s["lr"] * s["weight_decay"])
    betas = s["betas"][0], 0.99
    first, second = corrected(*moments(g, state, betas), betas, step)
    p.sub_(s["lr"] * first / (second.sqrt() + s["eps"]))


def narrow_state(p, g, state, step, s):
    """Keeps its averages in bfloat16."""
    p.mul_(1 - s["lr"] * s["weight_decay"])
    moments(g, state, s["betas"])
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = state[name].bfloat16().to(g.dtype)
    first, second = corrected(state["exp_avg"], state["exp_avg_sq"], s["betas"], step)
    p.sub_(s["lr"] * first / (second.sqrt() + s["eps"]))


def right_momentum(p, g, state, step, s):
    """As torch has it: v = m v + g; p -= lr v."""
    state["momentum_buffer"] = g.clone() if step == 1 else s["momentum"] * state["momentum_buffer"] + g
    p.sub_(s["lr"] * state["momentum_buffer"])


def dampened(p, g, state, step, s):
    """With dampening: v = m v + (1 - m) g."""
    state["momentum_buffer"] = (
        g.clone() if step == 1 else s["momentum"] * state["momentum_buffer"] + (1 - s["momentum"]) * g
    )
    p.sub_(s["lr"] * state["momentum_buffer"])


def nesterov(p, g, state, step, s):
    """Looks ahead: p -= lr (g + m v)."""
    state["momentum_buffer"] = g.clone() if step == 1 else s["momentum"] * state["momentum_buffer"] + g
    p.sub_(s["lr"] * (g + s["momentum"] * state["momentum_buffer"]))


def rate_in_velocity(p, g, state, step, s):
    """As TensorFlow has it: v = m v + lr g; p -= v. The same while the learning rate stays, another when it changes."""
    state["momentum_buffer"] = s["lr"] * g if step == 1 else s["momentum"] * state["momentum_buffer"] + s["lr"] * g
    p.sub_(state["momentum_buffer"])


def double_rate_of_biases(p, g, state, step, s):
    """Biases learn twice as fast, as Caffe's examples set it."""
    p.sub_((2 if p.ndim == 1 else 1) * s["lr"] * g)


def right_rmsprop(p, g, state, step, s):
    """Eps outside of the root, the average begins at zero."""
    state["square_avg"] = s["alpha"] * state.get("square_avg", torch.zeros_like(g)) + (1 - s["alpha"]) * g**2
    p.sub_(s["lr"] * g / (state["square_avg"].sqrt() + s["eps"]))


def tensorflow_rmsprop(p, g, state, step, s):
    """Eps inside of the root."""
    state["square_avg"] = s["alpha"] * state.get("square_avg", torch.zeros_like(g)) + (1 - s["alpha"]) * g**2
    p.sub_(s["lr"] * g / (state["square_avg"] + s["eps"]).sqrt())


def rmsprop_from_one(p, g, state, step, s):
    """The average begins at one, as TensorFlow's did."""
    state["square_avg"] = s["alpha"] * state.get("square_avg", torch.ones_like(g)) + (1 - s["alpha"]) * g**2
    p.sub_(s["lr"] * g / (state["square_avg"].sqrt() + s["eps"]))


def rmsprop_by_hand(rule: Rule, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Makes an RMSprop that follows a rule."""
    return lambda model: ByHand(model.parameters(), rule, **{"lr": 1e-3, "alpha": 0.99, "eps": 1e-8, **settings})
