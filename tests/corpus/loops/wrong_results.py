"""Wrong losses, buffers, averages of the model, and precisions."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .hooks import at, in_layers, sgd
from .loop import Loop, Training, of
from .models import (
    Language,
    called,
    measured,
    normed,
    perceptron,
    points,
    sentences,
)
from .pair import wrong

BASE = Loop(model=perceptron)
PLAIN = replace(BASE, optimizer=sgd())
NORMED = replace(BASE, model=normed, optimizer=sgd())
SPEAKING = Loop(model=Language, batches=sentences)

NARROW = "bfloat16 exists beside float32 only"


# Losses


def _divided_by(number: float) -> Callable[[Training], torch.Tensor]:
    return lambda t: F.cross_entropy(t.output, t.target) / number


def _with_penalty(t: Training) -> torch.Tensor:
    return F.cross_entropy(t.output, t.target) + 1e-2 * sum((each**2).sum() for each in t.model.parameters())


WEIGHTS = (1.0, 1.0, 1.0, 2.0)


def _weighted(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, target, weight=output.new_tensor(WEIGHTS))


def _weighted_mean(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Divides by the number of rows instead of by the sum of their weights."""
    each = F.cross_entropy(output, target, weight=output.new_tensor(WEIGHTS), reduction="none")
    return each.mean()


def _ignoring(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, target, ignore_index=0)


def _ignoring_by_hand(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Words that are ignored count in the mean."""
    return F.cross_entropy(output, target, ignore_index=0, reduction="none").mean()


# Buffers


def _momentum(value: float) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32, momentum=value), nn.ReLU(), nn.Linear(32, 1))


def _body(inner: Any, x: torch.Tensor) -> torch.Tensor:
    return inner[3](inner[2](inner[1](inner[0](x))))


def _checkpointed(inner: Any, x: torch.Tensor) -> torch.Tensor:
    return inner[3](checkpoint(lambda x: inner[2](inner[1](inner[0](x))), x, use_reentrant=False))


MEASURING = Loop(
    model=called(_body, _momentum(0.1)), batches=measured, optimizer=sgd(), loss=of(F.mse_loss), criterion=F.mse_loss
)


def _biased_statistics(inner: Any, x: torch.Tensor) -> torch.Tensor:
    """BatchNorm whose running variance is that of the batch, which torch corrects for its size."""
    hidden, norm = inner[0](x), inner[1]
    output = F.batch_norm(hidden, None, None, norm.weight, norm.bias, training=True)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(hidden.mean(0), 0.1)
        norm.running_var.lerp_(hidden.var(0, correction=0), 0.1)
    return inner[3](inner[2](output))


def _extra_call(t: Training) -> Any:
    """Calls the model once more, to log what it says."""
    with torch.no_grad():
        t.model(t.inputs)
    return t.model(t.inputs)


@torch.no_grad()
def _reset_statistics(t: Training) -> None:
    t.model.inner[1].reset_running_stats()


# Averages


def _averaged(decay: float, *, buffers: bool = True, early: bool = False) -> dict[str, Any]:
    """The hooks of an exponential average of the model."""

    def begin(t: Training) -> None:
        t.ema = copy.deepcopy(t.model)

    @torch.no_grad()
    def average(t: Training) -> None:
        assert t.ema is not None
        for mean, value in zip(t.ema.parameters(), t.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for mean, value in zip(t.ema.buffers(), t.model.buffers(), strict=True):
            if buffers:
                mean.copy_(value)

    return {"begin": begin, "ready" if early else "after": average}


AVERAGED = replace(NORMED, **_averaged(0.9))


# Precision


def _autocast(t: Training) -> Any:
    with torch.autocast(t.target.device.type, dtype=torch.bfloat16):
        output = t.model(t.inputs)
    return output.float()


def _shortened(values: torch.Tensor) -> torch.Tensor:
    """With 10 bits of mantissa, as TF32 has; the gradient passes."""
    kept = (values.detach().float().view(torch.int32) + 0x1000) & ~0x1FFF
    return values + (kept.view(torch.float32).to(values.dtype) - values.detach())


def _tf32(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = F.linear(_shortened(x), _shortened(inner[0].weight), inner[0].bias)
    return inner[3](inner[2](inner[1](hidden)))


def _half_sums(inner: Any, x: torch.Tensor) -> torch.Tensor:
    """A matrix product whose sums are rounded to float16 after each term."""
    total = torch.zeros(len(x), 32, dtype=x.dtype, device=x.device)
    for feature in range(x.shape[1]):
        total = total + x[:, feature, None] * inner[0].weight[:, feature]
        total = total + (total.detach().half().to(x.dtype) - total.detach())
    return inner[3](inner[2](inner[1](total + inner[0].bias)))


def _half_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.half().to(output.dtype), target)


PAIRS = [
    # Losses
    wrong(
        "divided_otherwise",
        "loss",
        "huggingface/transformers #34191, as the corpus of losses cites it: normalised twice; here without factor=",
        replace(PLAIN, loss=_divided_by(4)),
        replace(PLAIN, loss=_divided_by(3)),
        at="loss output_grad",
        says="factor|divided|scaled|times",
    ),
    wrong(
        "divided_on_one_side",
        "loss",
        "huggingface/transformers #34191, as the corpus of losses cites it: the loss is normalised twice",
        PLAIN,
        replace(PLAIN, loss=_divided_by(4)),
        at="loss output_grad",
        says="factor|divided|scaled|0.25",
    ),
    wrong(
        "penalty_on_one_side",
        "loss",
        "made for this corpus: an L2 term that one side lacks",
        replace(PLAIN, loss=_with_penalty),
        PLAIN,
        at="loss param_grad",
        says="loss|criterion|output gradients",
    ),
    wrong(
        "mean_of_weighted_rows",
        "loss",
        "made for this corpus: class weights, divided by the rows instead of by their weights",
        replace(PLAIN, loss=of(_weighted), criterion=_weighted),
        replace(PLAIN, loss=of(_weighted_mean), criterion=_weighted),
        at="loss output_grad",
        says="scaled|loss",
    ),
    wrong(
        "ignored_words_counted",
        "loss",
        "meta-pytorch/torchtune #1875: the mean over the words that count",
        replace(SPEAKING, optimizer=sgd(0.5), loss=of(_ignoring), criterion=_ignoring),
        replace(SPEAKING, optimizer=sgd(0.5), loss=of(_ignoring_by_hand), criterion=_ignoring),
        at="loss output_grad",
        says="scaled|loss",
    ),
    wrong(
        "fewer_steps",
        "loss",
        "facebookresearch/fairseq #4973: training ends early",
        BASE,
        replace(BASE, batches=lambda _: points(BASE.steps), steps=12),
        # Equal as far as both go: that it cannot be decided is right as well.
        undecided=True,
        says="steps|missing",
        inexact="there is nothing to compare where the two part",
    ),
    # Buffers
    wrong(
        "statistics_of_another_momentum",
        "buffer",
        "Cadene/pretrained-models.pytorch #44: the momentum of BatchNorm",
        replace(NORMED, model=_momentum(0.1), batches=measured, loss=of(F.mse_loss), criterion=F.mse_loss),
        replace(NORMED, model=_momentum(0.01), batches=measured, loss=of(F.mse_loss), criterion=F.mse_loss),
        at="buffer",
        says="buffer|running_",
    ),
    wrong(
        "momentum_of_tensorflow",
        "buffer",
        "pytorch/vision #8250: TensorFlow's momentum taken for torch's",
        MEASURING,
        replace(MEASURING, model=called(_body, _momentum(0.99))),
        at="buffer",
        says="buffer|running_",
    ),
    wrong(
        "checkpointed_batch_norm",
        "buffer",
        "pytorch/pytorch #96136: checkpointing updates BatchNorm's statistics twice",
        MEASURING,
        replace(MEASURING, model=called(_checkpointed, _momentum(0.1))),
        at="buffer",
        says="buffer|running_|num_batches",
    ),
    wrong(
        "variance_not_corrected",
        "buffer",
        "made for this corpus: the running variance of a BatchNorm by hand",
        MEASURING,
        replace(MEASURING, model=called(_biased_statistics, _momentum(0.1))),
        at="buffer",
        says="buffer|running_var",
    ),
    wrong(
        "called_once_more",
        "buffer",
        "m2lines/Samudra #572: a forward pass more in each step moves BatchNorm's statistics",
        NORMED,
        replace(NORMED, forward=_extra_call),
        at="buffer",
        says="buffer|running_|num_batches",
    ),
    wrong(
        "statistics_reset",
        "buffer",
        "CuriousAI/mean-teacher #9: statistics that are those of the beginning",
        MEASURING,
        replace(MEASURING, before=at(8, _reset_statistics)),
        step=8,
        at="state buffer",
        says="buffer|running_",
    ),
    # Averages
    wrong(
        "average_of_another_decay",
        "average",
        "r9y9/wavenet_vocoder #132: an average of the model beside it",
        AVERAGED,
        replace(NORMED, **_averaged(0.99)),
        at="also ema state buffer",
        says="ema|average",
    ),
    wrong(
        "average_a_step_early",
        "average",
        "made for this corpus: the average is taken before the optimizer's step",
        AVERAGED,
        replace(NORMED, **_averaged(0.9, early=True)),
        at="also ema state buffer",
        says="ema|average",
    ),
    wrong(
        "average_without_buffers",
        "average",
        "FlyreelAI/sesemi #36: BatchNorm's statistics are not in the average",
        AVERAGED,
        replace(NORMED, **_averaged(0.9, buffers=False)),
        at="also ema state buffer",
        says="ema|average|running_|buffer",
    ),
    # Precision
    wrong(
        "autocast_on_one_side",
        "precision",
        "pytorch/pytorch #120376: bfloat16 on one side",
        BASE,
        replace(BASE, forward=_autocast),
        at="output",
        says="bfloat16|precision",
        inexact=NARROW,
    ),
    wrong(
        "tf32_by_hand",
        "precision",
        "made for this corpus: matrix products with ten bits of mantissa, as TF32 has",
        *in_layers(BASE, _tf32),
        at="output",
        says="precision|tf32|rounded|function",
    ),
    wrong(
        "sums_in_float16",
        "precision",
        "made for this corpus: a matrix product that adds up in float16",
        *in_layers(BASE, _half_sums),
        at="output",
        says="precision|float16|rounded|function",
    ),
    wrong(
        "loss_in_float16",
        "precision",
        "made for this corpus: the scores are cast before the loss",
        PLAIN,
        replace(PLAIN, loss=of(_half_loss)),
        at="loss output_grad",
        says="precision|float16",
    ),
]
