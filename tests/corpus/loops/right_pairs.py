"""Right pairs: the same training by other means."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from . import optimizers as by_hand
from .hooks import adam, adamw, autocast, by_logsumexp, clip_norm, in_layers, scaled, setting, sgd
from .loop import Hook, Loop, Training, of
from .models import (
    Reader,
    attention_by_hand,
    biased,
    convolutional,
    dropping,
    images,
    measured,
    narrow,
    perceptron,
    points,
    sdpa,
    texts,
)
from .optimizers import adamw_by_hand, rmsprop_by_hand, sgd_by_hand
from .pair import Pair, right

PERCEPTRON = Loop(model=perceptron)
PLAIN = Loop(model=perceptron, optimizer=sgd())
NORMED = Loop()
BIASED = Loop(model=biased)
DROPPING = Loop(model=dropping)
SEEING = Loop(model=convolutional, batches=images, optimizer=sgd(), steps=10)
READING = Loop(model=Reader, batches=texts)
MEASURING = Loop(model=lambda: nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)), batches=measured)
MEASURING = replace(MEASURING, loss=of(F.mse_loss), criterion=F.mse_loss)

# Kernels


def _wide() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 4))


def _channels_last(make: Callable[[], nn.Module]) -> dict[str, Any]:
    """The same model and images in another order of memory."""

    def batches(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(x.contiguous(memory_format=torch.channels_last), y) for x, y in images(steps)]

    return {"model": lambda: make().to(memory_format=torch.channels_last), "batches": batches}


def _convolutional_with_biases() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def _compiled(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: torch.compile(make(), backend="aot_eager")


def _attention_by_einsum(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("bqd,bkd->bqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bqk,bkd->bqd", scores.masked_fill(~mask, float("-inf")).softmax(-1), v)


def _autocast(t: Training) -> Any:
    with torch.autocast(t.target.device.type, dtype=torch.bfloat16):
        output = t.model(t.inputs)
    return output.float()


# Layers by hand


def _checkpointed(inner: Any, x: torch.Tensor) -> torch.Tensor:
    return inner[3](checkpoint(lambda x: inner[2](inner[1](inner[0](x))), x, use_reentrant=False))


def _functional(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = F.gelu(F.linear(x, inner[0].weight, inner[0].bias))
    hidden = F.layer_norm(hidden, (32,), inner[2].weight, inner[2].bias)
    return F.linear(hidden, inner[3].weight, inner[3].bias)


def _matmul(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = inner[2](inner[1](x @ inner[0].weight.t() + inner[0].bias))
    return hidden @ inner[3].weight.t() + inner[3].bias


def _einsum(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = inner[2](inner[1](torch.einsum("bf,hf->bh", x, inner[0].weight) + inner[0].bias))
    return torch.einsum("bh,ch->bc", hidden, inner[3].weight) + inner[3].bias


def _gelu_by_hand(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = inner[0](x)
    return inner[3](inner[2](0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))))


def _layer_norm_by_hand(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = inner[1](inner[0](x))
    centred = hidden - hidden.mean(-1, keepdim=True)
    hidden = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return inner[3](hidden * inner[2].weight + inner[2].bias)


def _batch_norm_by_hand(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden, norm = inner[0](x), inner[1]
    mean, variance = hidden.mean(0), hidden.var(0, correction=0)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, 0.1)
        norm.running_var.lerp_(hidden.var(0), 0.1)
    hidden = (hidden - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias
    return inner[3](inner[2](hidden))


def _convolution_as_product(inner: Any, x: torch.Tensor) -> torch.Tensor:
    patches = F.unfold(x, 3, padding=1)
    hidden = (inner[0].weight.flatten(1) @ patches).unflatten(2, x.shape[2:])
    for layer in list(inner)[1:]:
        hidden = layer(hidden)
    return hidden


class _Recurrent(nn.Module):
    """The last state of an LSTM over the features of a row, one at a time."""

    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 4)
        self.by_hand = by_hand

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, dtype[B, C]."""
        if not self.by_hand:
            return self.head(self.cell(inputs[..., None])[0][:, -1])
        cell = self.cell
        hidden = memory = inputs.new_zeros(len(inputs), 16)
        for feature in inputs.unbind(1):
            gates = F.linear(feature[:, None], cell.weight_ih_l0, cell.bias_ih_l0)
            gates = gates + F.linear(hidden, cell.weight_hh_l0, cell.bias_hh_l0)
            enters, forgets, values, leaves = gates.chunk(4, 1)
            memory = forgets.sigmoid() * memory + enters.sigmoid() * values.tanh()
            hidden = leaves.sigmoid() * memory.tanh()
        return self.head(hidden)


class _Port(nn.Module):
    """The layers of another model under other names."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem, self.activation, self.normalisation, self.classifier = make()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, dtype[B, C]."""
        return self.classifier(self.normalisation(self.activation(self.stem(inputs))))


class _Product(nn.Embedding):
    """An embedding by a product with one-hot vectors, which the gradient of the padding does not reach."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Rows of the weight, dtype[..., D]."""
        kept = (torch.arange(self.num_embeddings, device=self.weight.device) != self.padding_idx).to(self.weight.dtype)
        return (F.one_hot(tokens, self.num_embeddings).to(self.weight.dtype) * kept) @ self.weight


def _by_product() -> nn.Module:
    reader = Reader()
    product = _Product(*reader.words.weight.shape, padding_idx=reader.words.padding_idx)
    product.load_state_dict(reader.words.state_dict())
    reader.words = product
    return reader


def _patched() -> nn.Module:
    """A layer whose method is replaced by a function that holds it, as LoRA's implementations do it."""
    reader = Reader()
    words, usual = reader.words, reader.words.forward
    words.forward = lambda tokens: usual(tokens) + 0 * words.weight[0]
    return reader


# Losses by hand


def _by_one_hot(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return -(F.one_hot(target, output.shape[1]) * output.log_softmax(1)).sum() / len(output)


def _by_maximum(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Softmax with its maximum taken off, in steps."""
    shifted = output - output.detach().max(1, keepdim=True).values
    return (shifted.exp().sum(1).log() - shifted.gather(1, target[:, None])[:, 0]).mean()


def _squares(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((output - target) ** 2).sum() / output.numel()


# Loops


def _fused(kind: Callable[..., torch.optim.Optimizer], how: str, **settings: Any) -> Loop:
    """An optimizer in one of its implementations: "foreach", "fused" or "loop"."""
    chosen = {"foreach": how == "foreach", "fused": True if how == "fused" else None}
    if how == "fused":
        chosen["foreach"] = None
    return replace(PERCEPTRON, optimizer=lambda model: kind(model.parameters(), **settings, **chosen))


def _implementations() -> list[Pair]:
    """Each of torch's optimizers in its foreach and its fused implementation, beside its loop."""
    settings: dict[Callable[..., torch.optim.Optimizer], dict[str, Any]] = {
        torch.optim.SGD: {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2},
        torch.optim.Adam: {"lr": 1e-3, "weight_decay": 1e-2},
        torch.optim.AdamW: {"lr": 1e-3},
    }
    source = "pytorch/pytorch #172505: fused and for-loop optimizers differ by rounding"
    return [
        right(
            f"{kind.__name__}_{how}", "optimizer", source, _fused(kind, "loop", **chosen), _fused(kind, how, **chosen)
        )
        for kind, chosen in settings.items()
        for how in ("foreach", "fused")
    ]


def _grouped(model: nn.Module) -> torch.optim.Optimizer:
    groups = [{"params": list(layer.parameters())} for layer in model if list(layer.parameters())]
    return torch.optim.AdamW(groups, 1e-3, foreach=False)


def _on_the_fly(steps: int) -> Any:
    """Batches that are made when they are asked for."""

    class Batches:
        def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            inputs, target = points(steps)[step]
            return inputs.clone(), target.clone()

    return Batches()


class _WithUnused(nn.Sequential):
    """A perceptron with a layer that no batch passes."""

    def __init__(self) -> None:
        super().__init__(*perceptron())
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            x = x if name == "unused" else layer(x)
        return x


def _with_unused() -> nn.Module:
    return _WithUnused()


def _backward_with_unused(t: Training) -> None:
    (t.loss + 0 * sum(parameter.sum() for parameter in t.model.parameters())).backward()


def _without_gradients(made: Callable[[torch.Tensor], torch.Tensor | None]) -> Hook:
    def ready(t: Training) -> None:
        if t.step >= 5:
            for parameter in t.model[0].parameters():
                parameter.grad = made(parameter)

    return ready


def _as_dict(*names: str) -> dict[str, Any]:
    """Inputs as a dict of halves, in an order of its keys."""

    def batches(steps: int) -> Any:
        def halves(x: torch.Tensor) -> dict[str, torch.Tensor]:
            return dict(sorted({"left": x[:, :4], "right": x[:, 4:]}.items(), key=lambda item: names.index(item[0])))

        return [(halves(x), y) for x, y in points(steps)]

    return {
        "batches": batches,
        "forward": lambda t: t.model(torch.cat([t.inputs["left"], t.inputs["right"]], 1)),
    }


def _strided(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same numbers, every second column of a wider tensor."""
    return [(torch.stack([x, -x], 2).flatten(1)[:, ::2], y) for x, y in points(steps)]


@torch.no_grad()
def _validate(t: Training) -> None:
    t.model.eval()
    t.model(t.inputs + 1)
    t.model.train()


def _decay_by_hand(t: Training) -> None:
    with torch.no_grad():
        for parameter in t.model.parameters():
            assert parameter.grad is not None
            parameter.grad += 1e-2 * parameter


def _schedule_by_hand(t: Training) -> None:
    setting("lr", lambda lr: 1e-3 * 0.9**t.step)(t)


def _begin_schedule(t: Training) -> None:
    t.scheduler = torch.optim.lr_scheduler.LambdaLR(t.optimizer, lambda step: 0.9**step)


SCALED_BY_1024 = replace(PERCEPTRON, **scaled(1024.0, clip=clip_norm(0.1)))
SAME = "made for this corpus: a loop recorded twice"
# Where the reported number alone differs, "report-only" is right.
LOSS = "identical report-only rounding"
BY_HAND = "made for this corpus: a layer by hand, as ports and papers have it"

PAIRS = [
    # The same loop twice
    right("again", "again", SAME, PERCEPTRON, PERCEPTRON, passes="identical"),
    right("again_with_dropout", "again", SAME, DROPPING, DROPPING, passes="identical"),
    right("again_with_convolutions", "again", SAME, SEEING, SEEING, passes="identical"),
    right(
        "again_in_autocast",
        "again",
        SAME,
        replace(PERCEPTRON, forward=_autocast),
        replace(PERCEPTRON, forward=_autocast),
        passes="identical",
    ),
    # Kernels
    right(
        "two_threads",
        "kernel",
        "pytorch/pytorch #88718: the number of threads changes the bits",
        replace(PERCEPTRON, model=_wide, steps=3),
        replace(PERCEPTRON, model=_wide, steps=3, threads=2),
    ),
    right(
        "two_threads_of_convolutions",
        "kernel",
        "pytorch/pytorch #2201: the number of threads changes the bits",
        replace(SEEING, steps=3),
        replace(SEEING, steps=3, threads=2),
    ),
    right(
        "channels_last",
        "kernel",
        "pytorch/pytorch #121651: BatchNorm2d in another memory format",
        SEEING,
        replace(SEEING, **_channels_last(convolutional)),
    ),
    right(
        "channels_last_with_biases",
        "kernel",
        "pytorch/pytorch #121651: BatchNorm2d in another memory format; biases before it have no gradient",
        replace(SEEING, model=_convolutional_with_biases),
        replace(SEEING, **_channels_last(_convolutional_with_biases)),
    ),
    right(
        "convolution_as_product",
        "kernel",
        BY_HAND,
        *in_layers(SEEING, _convolution_as_product),
    ),
    right(
        "compiled",
        "kernel",
        "pytorch/pytorch #151098: eager and compiled attention",
        PERCEPTRON,
        replace(PERCEPTRON, model=_compiled(perceptron)),
    ),
    right(
        "sdpa",
        "kernel",
        "pytorch/pytorch #119188: SDPA and its reference differ",
        READING,
        replace(READING, model=lambda: Reader(sdpa)),
    ),
    right(
        "attention_by_einsum",
        "kernel",
        BY_HAND,
        READING,
        replace(READING, model=lambda: Reader(_attention_by_einsum)),
    ),
    right(
        "sdpa_in_bfloat16",
        "kernel",
        "meta-pytorch/attention-gym #131: attention in bfloat16",
        replace(READING, model=narrow(attention_by_hand)),
        replace(READING, model=narrow(sdpa)),
    ),
    right(
        "strided_inputs",
        "kernel",
        "made for this corpus: equal numbers in another layout",
        PERCEPTRON,
        replace(PERCEPTRON, batches=_strided),
    ),
    # Layers
    right(
        "checkpointed",
        "layer",
        "pytorch/pytorch #62471: checkpointing",
        *in_layers(PERCEPTRON, _checkpointed),
        passes="identical",
    ),
    right(
        "checkpointed_dropout",
        "layer",
        "pytorch/pytorch #62471: checkpointing; preserve_rng_state draws the same numbers again",
        *in_layers(DROPPING, _checkpointed),
        passes="identical",
    ),
    right(
        "functional",
        "layer",
        BY_HAND,
        *in_layers(PERCEPTRON, _functional),
    ),
    *(
        right(
            name,
            "layer",
            BY_HAND,
            *in_layers(base, call),
        )
        for name, base, call in [
            ("matmul", PERCEPTRON, _matmul),
            ("einsum", PERCEPTRON, _einsum),
            ("gelu_by_hand", PERCEPTRON, _gelu_by_hand),
            ("layer_norm_by_hand", PERCEPTRON, _layer_norm_by_hand),
            ("batch_norm_by_hand", NORMED, _batch_norm_by_hand),
        ]
    ),
    right(
        "batch_norm_by_hand_after_a_bias",
        "layer",
        BY_HAND,
        *in_layers(replace(BIASED, optimizer=sgd()), _batch_norm_by_hand),
    ),
    right(
        "lstm_by_hand",
        "layer",
        BY_HAND,
        replace(PERCEPTRON, model=lambda: _Recurrent(by_hand=False)),
        replace(PERCEPTRON, model=lambda: _Recurrent(by_hand=True)),
    ),
    right("words_by_product", "layer", BY_HAND, READING, replace(READING, model=_by_product)),
    right(
        "forward_patched",
        "layer",
        "kohya-ss/sd-scripts #989: LoRA replaces forward() of layers; a copy of the model calls the original's",
        READING,
        replace(READING, model=_patched),
    ),
    right(
        "other_names",
        "layer",
        "made for this corpus: a port of a model; its parameters have other names",
        PERCEPTRON,
        replace(PERCEPTRON, model=lambda: _Port(perceptron)),
        passes="identical",
    ),
    right(
        "other_names_and_another_loss",
        "layer",
        "made for this corpus: a port of a model and of its loss",
        PERCEPTRON,
        replace(PERCEPTRON, model=lambda: _Port(perceptron), loss=of(by_logsumexp)),
    ),
    # Losses
    *(
        right(
            name,
            "loss",
            "made for this corpus: a loss by hand",
            PERCEPTRON,
            replace(PERCEPTRON, loss=of(loss)),
            passes=LOSS,
        )
        for name, loss in [
            ("logsumexp", by_logsumexp),
            ("one_hot", _by_one_hot),
            ("maximum_taken_off", _by_maximum),
        ]
    ),
    right(
        "squares",
        "loss",
        "made for this corpus: a loss by hand",
        MEASURING,
        replace(MEASURING, loss=of(_squares)),
        passes=LOSS,
    ),
    right(
        "logsumexp_after_batch_norm",
        "loss",
        "made for this corpus: a bias before batch norm and Adam",
        BIASED,
        replace(BIASED, loss=of(by_logsumexp)),
    ),
    # Optimizers
    *_implementations(),
    right(
        "adamw_by_hand",
        "optimizer",
        "goodfire-ai/spd #602: a port of Adam",
        PERCEPTRON,
        replace(PERCEPTRON, optimizer=adamw_by_hand(by_hand.right_adamw)),
    ),
    right(
        "adamw_by_hand_under_autocast",
        "optimizer",
        "goodfire-ai/spd #602: a port of Adam",
        replace(PERCEPTRON, forward=autocast),
        replace(PERCEPTRON, forward=autocast, optimizer=adamw_by_hand(by_hand.right_adamw)),
    ),
    right(
        "momentum_by_hand",
        "optimizer",
        "pytorch/pytorch #1099: momentum as torch has it",
        replace(PERCEPTRON, optimizer=sgd(momentum=0.9)),
        replace(PERCEPTRON, optimizer=sgd_by_hand(by_hand.right_momentum)),
    ),
    right(
        "velocity_of_tensorflow_at_one_rate",
        "optimizer",
        "pytorch/pytorch #1099: with the learning rate inside the velocity, the same while it stays",
        replace(PERCEPTRON, optimizer=sgd(momentum=0.9)),
        replace(PERCEPTRON, optimizer=sgd_by_hand(by_hand.rate_in_velocity)),
    ),
    right(
        "rmsprop_by_hand",
        "optimizer",
        "pytorch/pytorch #23796: RMSprop as torch has it",
        replace(
            PERCEPTRON,
            optimizer=lambda model: torch.optim.RMSprop(model.parameters(), 1e-3, foreach=False),
        ),
        replace(PERCEPTRON, optimizer=rmsprop_by_hand(by_hand.right_rmsprop)),
    ),
    right(
        "adam_without_decay",
        "optimizer",
        "made for this corpus: AdamW with a decay of zero is Adam",
        replace(PERCEPTRON, optimizer=adam()),
        replace(PERCEPTRON, optimizer=adamw(weight_decay=0.0)),
    ),
    right(
        "rate_as_a_tensor",
        "optimizer",
        "made for this corpus: lr may be a tensor",
        PERCEPTRON,
        replace(
            PERCEPTRON, optimizer=lambda model: torch.optim.AdamW(model.parameters(), torch.tensor(1e-3), foreach=False)
        ),
    ),
    right(
        "groups_of_equal_settings",
        "optimizer",
        "made for this corpus: a group for each layer",
        PERCEPTRON,
        replace(PERCEPTRON, optimizer=_grouped),
    ),
    right(
        "decay_by_hand",
        "optimizer",
        "pytorch/pytorch #21250: L2 and weight decay are the same for SGD",
        replace(PERCEPTRON, optimizer=sgd(weight_decay=1e-2)),
        replace(PLAIN, ready=_decay_by_hand),
    ),
    right(
        "schedule_by_hand",
        "optimizer",
        "made for this corpus: a schedule by hand",
        replace(PERCEPTRON, begin=_begin_schedule, after=lambda t: t.scheduler.step()),
        replace(PERCEPTRON, before=_schedule_by_hand),
        passes="identical",
    ),
    # Loops
    right(
        "scaler_of_another_scale",
        "loop",
        "rwth-i6/returnn #1595: unscaled before clipping, the scale does not matter",
        SCALED_BY_1024,
        replace(PERCEPTRON, **scaled(65536.0, clip=clip_norm(0.1))),
    ),
    right(
        "scaler_on_one_side",
        "loop",
        "rwth-i6/returnn #1595: unscaled before clipping, the scale does not matter",
        replace(PERCEPTRON, ready=clip_norm(0.1)),
        SCALED_BY_1024,
    ),
    right(
        "gradients_zeroed",
        "loop",
        "made for this corpus: gradients set to zero instead of None",
        PERCEPTRON,
        replace(PERCEPTRON, clear=lambda t: t.optimizer.zero_grad(set_to_none=False)),
        passes="identical",
    ),
    right(
        "unused_parameters_times_zero",
        "loop",
        "pytorch/pytorch #43259: the loss plus 0 times the parameters that DistributedDataParallel finds unused",
        replace(PLAIN, model=_with_unused),
        replace(PLAIN, model=_with_unused, backward=_backward_with_unused),
    ),
    right(
        "unused_parameters_times_zero_with_a_state",
        "loop",
        "pytorch/pytorch #43259: the same; the optimizer makes a state for gradients of zero",
        replace(PERCEPTRON, model=_with_unused, optimizer=adam(), criterion=None),
        replace(PERCEPTRON, model=_with_unused, optimizer=adam(), criterion=None, backward=_backward_with_unused),
        passes="identical rounding inconclusive",
    ),
    right(
        "frozen_by_zeros",
        "loop",
        "made for this corpus: gradients of a layer that are None from step 5 on, or zero",
        replace(PLAIN, ready=_without_gradients(lambda p: None)),
        replace(PLAIN, ready=_without_gradients(torch.zeros_like)),
    ),
    right(
        "validated_in_evaluation_mode",
        "loop",
        "pytorch/tutorials #1540: an evaluation, and back to training",
        NORMED,
        replace(NORMED, before=_validate),
        passes="identical",
    ),
    right(
        "made_on_the_fly",
        "loop",
        "made for this corpus: batches prepared, or made when they are asked for",
        PERCEPTRON,
        replace(PERCEPTRON, batches=_on_the_fly),
        passes="identical",
    ),
    right(
        "inputs_of_another_order",
        "loop",
        "made for this corpus: a dict whose keys come in another order",
        replace(PERCEPTRON, **_as_dict("left", "right")),
        replace(PERCEPTRON, **_as_dict("right", "left")),
        passes="identical",
    ),
]
