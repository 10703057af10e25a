"""Found by an adversary of the rules: faults in the step in which rounding parts two loops, and what is no parting."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from . import optimizers as by_hand
from .hooks import adamw, by_logsumexp, clip_norm, in_layers, sgd, split
from .loop import Hook, Loop, Training, of
from .models import biased, normed, perceptron, points
from .optimizers import ByHand, adamw_by_hand
from .pair import right, wrong

ADVERSARY = "made for this corpus: by an adversary of the rules"
BASE = Loop(model=perceptron)
ROUNDED = {"loss": of(by_logsumexp)}
CLIPPED = replace(BASE, ready=clip_norm(0.3))
PLAIN = replace(BASE, optimizer=sgd())
BY_WEIGHT = {"split": split(8, 8, 8, 8, factor=lambda rows, whole, _: rows / whole)}


def _clip_each(t: Training) -> None:
    for parameter in t.model.parameters():
        nn.utils.clip_grad_norm_([parameter], 0.3)


def _normed(momentum: float) -> nn.Module:
    made = normed()
    made[1].momentum = momentum
    return made


def _averaged(decay: float, *, later: float) -> dict[str, Any]:
    """The hooks of an average of the model beside it, whose decay changes at step 8."""

    def begin(t: Training) -> None:
        t.ema = copy.deepcopy(t.model)

    @torch.no_grad()
    def average(t: Training) -> None:
        assert t.ema is not None
        for mean, value in zip(t.ema.parameters(), t.model.parameters(), strict=True):
            mean.lerp_(value, 1 - (later if t.step >= 8 else decay))

    return {"begin": begin, "after": average}


def _copied_at(step: int) -> dict[str, Any]:
    """The hooks of a copy of the model, with its buffers, that is made anew at a step."""

    def begin(t: Training) -> None:
        t.ema = copy.deepcopy(t.model)

    def after(t: Training) -> None:
        if t.ema is not None and t.step == step:
            t.ema.load_state_dict(t.model.state_dict())

    return {"begin": begin, "after": after}


def _momentum_of_statistics(t: Training) -> None:
    t.model[1].momentum = 0.1 if t.step < 8 else 0.05


def _biased_statistics(inner: Any, x: torch.Tensor) -> torch.Tensor:
    """BatchNorm by hand, whose running variance is that of the batch, which torch corrects for its size."""
    hidden, norm = inner[0](x), inner[1]
    mean, variance = hidden.mean(0), hidden.var(0, correction=0)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, 0.1)
        norm.running_var.lerp_(variance, 0.1)
    normal = (hidden - mean) / (variance + norm.eps).sqrt()
    return inner[3](inner[2](normal * norm.weight + norm.bias))


class _ZeroBranch(nn.Module):
    """A branch that begins with zeros beside the rest; what it is given may be cut off from the graph."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.detached = detached

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, dtype[B, C]."""
        hidden = self.first(inputs)
        given = hidden.detach() if self.detached else hidden
        return self.head(F.gelu(hidden + self.last(F.gelu(self.inner(given)))))


class _Masked(nn.Module):
    """A layer some of whose weights are zero: masked in the forward pass, or their gradients by a hook."""

    def __init__(self, *, hooked: bool) -> None:
        super().__init__()
        self.first, self.last, self.hooked = nn.Linear(8, 16), nn.Linear(16, 4), hooked
        self.register_buffer("mask", (torch.arange(128).view(16, 8) % 3 > 0).to(self.first.weight.dtype))
        with torch.no_grad():
            self.first.weight *= self.mask
        if hooked:
            self.first.weight.register_hook(lambda grad: grad * self.mask)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, dtype[B, C]."""
        weight = self.first.weight if self.hooked else self.first.weight * self.mask
        return self.last(F.gelu(F.linear(inputs, weight, self.first.bias)))


def _branched(*, detached: bool = False) -> Callable[[], nn.Module]:
    return lambda: _ZeroBranch(detached=detached)


def _freeze_at(step: int) -> Hook:
    def freeze(t: Training) -> None:
        for parameter in t.model[0].parameters():
            parameter.requires_grad_(t.step < step)
            parameter.grad = None

    return freeze


@torch.no_grad()
def _decay_of_matrices(p: torch.Tensor, g: torch.Tensor, state: dict[str, Any], step: int, s: dict[str, Any]) -> None:
    by_hand.right_adamw(p, g, state, step, s if p.dim() > 1 else s | {"weight_decay": 0.0})


class Kept(ByHand):
    """Keeps its decay as an attribute, where nobody looks for settings."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, self._take, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
        self.decay = 0.1

    def _take(self, p: torch.Tensor, g: torch.Tensor, state: dict[str, Any], step: int, s: dict[str, Any]) -> None:
        by_hand.right_adamw(p, g, state, step, s | {"weight_decay": self.decay})


def _frozen() -> nn.Module:
    made = perceptron()
    made[0].requires_grad_(False)
    return made


def _two_rates(model: nn.Module) -> torch.optim.Optimizer:
    rest = [*model[2].parameters(), *model[3].parameters()]
    return torch.optim.AdamW([{"params": model[0].parameters()}, {"params": rest}], 1e-3, foreach=False)


def _schedule_of_the_frozen(t: Training) -> None:
    t.optimizer.param_groups[0]["lr"] = 1e-3 if t.step < 8 else 5e-4


def _sorted(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x[y.argsort(stable=True)], y[y.argsort(stable=True)]) for x, y in points(steps)]


def _with_log_softmax() -> nn.Module:
    return nn.Sequential(*perceptron(), nn.LogSoftmax(1))


def _under_autocast(*, halves: bool) -> Any:
    """In bfloat16 up to the logits, which are float32 as Hugging Face has them; a product in one or in two parts."""

    def forward(t: Training) -> torch.Tensor:
        with torch.autocast(t.target.device.type, torch.bfloat16, enabled=t.inputs.dtype == torch.float32):
            hidden, last = t.called[:3](t.inputs), t.called[3]
            if not halves:
                return last(hidden).to(t.inputs.dtype)
            parts = [hidden[:, half] @ last.weight[:, half].T for half in (slice(0, 16), slice(16, None))]
            return (sum(parts) + last.bias).to(t.inputs.dtype)

    return forward


PAIRS = (
    wrong("clipped_each_by_itself", "parting", ADVERSARY, CLIPPED, replace(BASE, ready=_clip_each, **ROUNDED),
          at="step_grad", says="clip|times that of backward"),
    wrong("clipped_a_little_more", "parting", ADVERSARY, replace(CLIPPED, optimizer=sgd()),
          replace(PLAIN, ready=clip_norm(0.29), **ROUNDED), at="step_grad", says="clip"),
    wrong("clipped_micro_batches_a_little_less", "parting", ADVERSARY, replace(CLIPPED, optimizer=sgd()),
          replace(PLAIN, ready=clip_norm(0.31), **BY_WEIGHT), at="step_grad", says="clip"),
    wrong("other_momentum_of_statistics", "parting", ADVERSARY, Loop(), Loop(model=lambda: _normed(0.01), **ROUNDED),
          at="buffer", says="buffer"),
    wrong("no_decay_of_biases_behind_clipping", "parting", ADVERSARY,
          replace(CLIPPED, optimizer=adamw_by_hand(by_hand.right_adamw, weight_decay=0.1)),
          replace(CLIPPED, optimizer=adamw_by_hand(_decay_of_matrices, weight_decay=0.1), **ROUNDED),
          at="update", says="optimizers compute other steps"),
    wrong("no_decay_of_biases_behind_micro_batches", "parting", ADVERSARY,
          replace(BASE, optimizer=adamw_by_hand(by_hand.right_adamw, weight_decay=0.1)),
          replace(BASE, optimizer=adamw_by_hand(_decay_of_matrices, weight_decay=0.1), **BY_WEIGHT),
          at="update", says="optimizers compute other steps"),
    wrong("momentum_of_statistics_changes_late", "parting", ADVERSARY, Loop(),
          Loop(before=_momentum_of_statistics, **ROUNDED), step=8, at="buffer", says="buffer|running_"),
    wrong("decay_of_an_average_changes_late", "average", ADVERSARY, Loop(**_averaged(0.99, later=0.99)),
          Loop(**_averaged(0.99, later=0.999), **ROUNDED), step=8, at="buffer", says="ema"),
    # Under Adam the bias before a batch norm moves by noise, which is in neither of these buffers.
    wrong("biased_statistics_after_a_bias", "parting", ADVERSARY,
          *in_layers(Loop(model=biased, batches=lambda steps: points(steps, rows=512)), _biased_statistics),
          at="buffer", says="running_var"),
    wrong("another_decay_of_an_average_after_a_bias", "average", ADVERSARY,
          Loop(model=biased, **_averaged(0.9, later=0.9)), Loop(model=biased, **_averaged(0.91, later=0.9), **ROUNDED),
          at="buffer", says="ema"),
    right("an_average_after_a_bias", "average", ADVERSARY, Loop(model=biased, **_averaged(0.9, later=0.9)),
          Loop(model=biased, **_averaged(0.9, later=0.9), **ROUNDED)),
    wrong("decay_of_an_average_changes_late_after_a_bias", "average", ADVERSARY,
          Loop(model=biased, **_averaged(0.99, later=0.99)),
          Loop(model=biased, **_averaged(0.99, later=0.999), **ROUNDED), step=8, at="buffer", says="ema"),
    right("a_late_copy_after_a_bias", "average", ADVERSARY, Loop(model=biased, steps=40, **_copied_at(32)),
          Loop(model=biased, steps=40, **_copied_at(32), **ROUNDED)),
    wrong("frozen_a_step_too_late", "late", ADVERSARY, replace(BASE, before=_freeze_at(6)),
          replace(BASE, before=_freeze_at(7), **ROUNDED), step=6, at="state", says="frozen parameters"),
    # Where it begins, nothing is seen of what is before zeros.
    wrong("a_branch_of_zeros_is_detached", "parting", ADVERSARY, Loop(model=_branched()),
          Loop(model=_branched(detached=True), **ROUNDED), step=1, at="param_grad", says="after a small step"),
    right("masked_by_a_hook", "parting", ADVERSARY, Loop(model=lambda: _Masked(hooked=False)),
          Loop(model=lambda: _Masked(hooked=True), **ROUNDED)),
    right("a_branch_of_zeros", "parting", ADVERSARY, Loop(model=_branched()), Loop(model=_branched(), **ROUNDED)),
    right("an_average_beside_rounding", "average", ADVERSARY, Loop(**_averaged(0.99, later=0.999)),
          Loop(**_averaged(0.99, later=0.999), **ROUNDED)),
    right("decay_kept_as_an_attribute", "parting", ADVERSARY, replace(BASE, optimizer=adamw(weight_decay=0.1)),
          replace(BASE, optimizer=lambda model: Kept(model.parameters()))),
    right("the_same_clipping", "parting", ADVERSARY, CLIPPED, replace(CLIPPED, **ROUNDED)),
    right("bfloat16_up_to_the_logits", "parting", ADVERSARY, replace(BASE, forward=_under_autocast(halves=False)),
          replace(BASE, forward=_under_autocast(halves=True))),
    right("rows_in_another_order", "parting", ADVERSARY, BASE, replace(BASE, batches=_sorted)),
    right("log_softmax_in_the_model", "parting", ADVERSARY, BASE,
          replace(BASE, model=_with_log_softmax, loss=of(F.nll_loss), criterion=F.nll_loss)),
    right("a_rate_of_frozen_parameters", "parting", ADVERSARY,
          replace(BASE, model=_frozen, optimizer=_two_rates, before=_schedule_of_the_frozen),
          replace(BASE, model=_frozen, optimizer=_two_rates, **ROUNDED)),
    right("a_mode_of_modules_that_have_none", "parting", ADVERSARY, BASE,
          replace(BASE, before=lambda t: t.model[1].eval() if t.step == 8 else None, **ROUNDED)),
)  # fmt: skip
