"""What the hooks of the loops do: small, and named for what they do."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .loop import Hook, Loop, Micro, Training
from .models import called


def at(step: int, act: Hook) -> Hook:
    """Acts at one step."""
    return lambda t: act(t) if t.step == step else None


def since(step: int, act: Hook, before: Hook = lambda t: None) -> Hook:
    """Acts from a step on, and otherwise until then."""
    return lambda t: act(t) if t.step >= step else before(t)


def several(*hooks: Hook) -> Hook:
    """One after the other."""

    def act(t: Training) -> None:
        for hook in hooks:
            hook(t)

    return act


def setting(name: str, change: Callable[[Any], Any]) -> Hook:
    """Changes a setting of the optimizer."""

    def act(t: Training) -> None:
        for group in t.optimizer.param_groups:
            group[name] = change(group[name])

    return act


def sgd(lr: float = 0.05, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Makes torch's SGD."""
    return lambda model: torch.optim.SGD(model.parameters(), lr, **{"foreach": False, **settings})


def adam(lr: float = 1e-3, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Makes torch's Adam."""
    return lambda model: torch.optim.Adam(model.parameters(), lr, **{"foreach": False, **settings})


def adamw(lr: float = 1e-3, **settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Makes torch's AdamW."""
    return lambda model: torch.optim.AdamW(model.parameters(), lr, **{"foreach": False, **settings})


def _whole(inner: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return inner(inputs)


def in_layers(base: Loop, call: Callable[[Any, torch.Tensor], torch.Tensor]) -> tuple[Loop, Loop]:
    """A loop whose model is called as usual, and the one whose layers are called by hand."""
    return replace(base, model=called(_whole, base.model)), replace(base, model=called(call, base.model))


def backward(t: Training) -> None:
    """The usual one."""
    t.loss.backward()


def scheduled(
    make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler],
) -> dict[str, Hook]:
    """The hooks of a learning rate's schedule, stepped after the optimizer."""

    def begin(t: Training) -> None:
        t.scheduler = make(t.optimizer)

    return {"begin": begin, "after": lambda t: t.scheduler.step()}


def autocast(t: Training) -> Any:
    """Calls the model under autocast to bfloat16; its parameters and their gradients are wider."""
    with torch.autocast("cpu", torch.bfloat16):
        return t.called(t.inputs)


def clip_norm(limit: float) -> Hook:
    """Clips the norm of the whole gradient."""
    return lambda t: nn.utils.clip_grad_norm_(t.model.parameters(), limit)


def scaled(scale: float = 1024.0, *, clip: Hook = lambda t: None, early: bool = False) -> dict[str, Hook]:
    """The hooks of mixed precision's scaler, with clipping after unscaling, or too early."""

    def begin(t: Training) -> None:
        t.scaler = torch.amp.GradScaler(next(t.model.parameters()).device.type, init_scale=scale, growth_interval=4)

    def ready(t: Training) -> None:
        if early:
            clip(t)
        t.scaler.unscale_(t.optimizer)
        if not early:
            clip(t)

    def update(t: Training) -> None:
        t.scaler.step(t.optimizer)
        t.scaler.update()

    return {"begin": begin, "backward": lambda t: t.scaler.scale(t.loss).backward(), "ready": ready, "update": update}


def restoring(*parts: str) -> Callable[[dict[str, Any], Training], None]:
    """Takes up a saved training with these of its parts."""

    def restore(saved: dict[str, Any], t: Training) -> None:
        for part in parts:
            if part == "generator":
                on_cpu, *on_gpus = saved[part]
                torch.set_rng_state(on_cpu)
                torch.cuda.set_rng_state_all(on_gpus)
            else:
                getattr(t, part).load_state_dict(saved[part])

    return restore


def split(*rows: int, factor: Callable[[int, int, int], float]) -> Callable[[Training], Iterator[Micro]]:
    """Micro-batches of these numbers of rows, with the factor of (rows, rows in all, number of micro-batches)."""

    def micro(t: Training) -> Iterator[Micro]:
        whole = zip(t.inputs.split(rows), t.target.split(rows), strict=True)
        for inputs, target in list(whole):
            yield inputs, target, factor(len(inputs), sum(rows), len(rows))

    return micro


def by_logsumexp(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy by hand: right, and apart from the builtin one by rounding."""
    return (output.logsumexp(1) - output.gather(1, target[:, None])[:, 0]).mean()


class Scaled(torch.autograd.Function):
    """Passes a tensor through; its gradient is multiplied."""

    @staticmethod
    def forward(ctx, values, factor):
        """The tensor itself."""
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx, grad):
        """The gradient, multiplied."""
        return grad * ctx.factor, None


def cross_entropy(t: Training) -> torch.Tensor:
    """The builtin loss, of a training."""
    return F.cross_entropy(t.output, t.target)
