"""Wrong operations of the model, some of them for some inputs only."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .hooks import at, in_layers, sgd
from .loop import Loop, Training, of
from .models import (
    TOKENS,
    Batches,
    Language,
    Reader,
    attention_by_hand,
    called,
    convolutional,
    images,
    perceptron,
    points,
    sentences,
    texts,
)
from .pair import wrong

BASE = Loop(model=perceptron)
PLAIN = replace(BASE, optimizer=sgd())
READING = Loop(model=Reader, batches=texts)
SPEAKING = Loop(model=Language, batches=sentences)
SEEING = Loop(model=convolutional, batches=images, optimizer=sgd(), steps=10)

FUNCTION = "output|function"


def _reads(**options: Any) -> Loop:
    return replace(READING, model=lambda: Reader(**options))


def _scaled_attention(scale: float) -> Callable[..., torch.Tensor]:
    return lambda q, k, v, mask: attention_by_hand(q, k, v, mask, scale=scale)


def _unmasked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return attention_by_hand(q, k, v, torch.ones_like(mask))


def _long_rows_late(steps: int) -> Batches:
    """Texts of at most nine words until step 8, and all lengths from then on."""
    batches = texts(steps)
    for step, (tokens, _) in enumerate(batches):
        if step < 8:
            tokens[:, 9:] = 0
        else:
            tokens[0] = torch.arange(1, TOKENS + 1)
    return batches


def _mask_of_at_most_nine(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Has room for nine words: it attends to the first nine of longer rows only."""
    short = mask.clone()
    short[..., 9:] = False
    return attention_by_hand(q, k, v, short)


def _tanh_gelu(inner: Any, x: torch.Tensor) -> torch.Tensor:
    return inner[3](inner[2](F.gelu(inner[0](x), approximate="tanh")))


def _other_eps(inner: Any, x: torch.Tensor) -> torch.Tensor:
    return inner[3](F.layer_norm(inner[1](inner[0](x)), (32,), inner[2].weight, inner[2].bias, eps=1e-6))


def _unbiased_norm(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = inner[1](inner[0](x))
    hidden = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.std(-1, keepdim=True) + 1e-5)
    return inner[3](hidden * inner[2].weight + inner[2].bias)


def _wrong_axis_where_square(inner: Any, x: torch.Tensor) -> torch.Tensor:
    """Takes the axis whose length is that of the features: the first one where the batch has as many rows."""
    hidden = inner[1](inner[0](x))
    axis = hidden.shape.index(32)
    hidden = (hidden - hidden.mean(axis, keepdim=True)) / (hidden.var(axis, keepdim=True, correction=0) + 1e-5).sqrt()
    return inner[3](hidden * inner[2].weight + inner[2].bias)


def _square_late(steps: int) -> Batches:
    """Batches of 16 rows, and of 32, as many as there are features, at step 6."""
    return [(x, y) if step == 6 else (x[:16], y[:16]) for step, (x, y) in enumerate(points(steps))]


def _detached_branch(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = inner[0](x)
    return inner[3](inner[2](inner[1](hidden) - 0.5 * hidden + 0.5 * hidden.detach()))


def _cancelled_branch(inner: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = inner[0](x)
    return inner[3](inner[2](inner[1](hidden) - 0.5 * hidden + 0.5 * hidden))


def _one_of_equals(hidden: torch.Tensor) -> torch.Tensor:
    return hidden.gather(2, hidden.argmax(2, keepdim=True))[..., 0]


def _ties(reduce: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """The largest of each pair of features, which begin as equals."""

    def call(inner: Any, x: torch.Tensor) -> torch.Tensor:
        hidden = inner[0](x).unflatten(1, (16, 2))
        return inner[3](torch.cat([reduce(hidden)] * 2, 1))

    return call


@torch.no_grad()
def _begin_as_equals(t: Training) -> None:
    layer = t.model.inner[0]
    layer.weight[1::2] = layer.weight[::2]
    layer.bias[1::2] = layer.bias[::2]


def _lengths(root: bool) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Features divided by 1 + their length, which is zero for a row of zeros."""

    def call(inner: Any, x: torch.Tensor) -> torch.Tensor:
        hidden = F.linear(x, inner[0].weight)
        length = (hidden**2).sum(1, keepdim=True).sqrt() if root else hidden.norm(dim=1, keepdim=True)
        return inner[3](hidden / (1 + length))

    return call


def _zero_row_late(steps: int) -> Batches:
    """A row of zeros at step 9."""
    batches = points(steps)
    batches[9][0][3] = 0
    return batches


def _large_late(steps: int) -> Batches:
    """Inputs that are a thousand times as large at step 9."""
    return [(x * 1000 if step == 9 else x, y) for step, (x, y) in enumerate(points(steps))]


def _linear(inner: Any, x: torch.Tensor) -> torch.Tensor:
    return inner[3](inner[0](x))


LINEAR = replace(PLAIN, model=called(_linear, perceptron))


def _naive_cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    powers = output.exp()
    return -(powers.gather(1, target[:, None])[:, 0] / powers.sum(1)).log().mean()


def _leaky(slope: float) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    return lambda inner, x: inner[3](F.leaky_relu(inner[0](x), slope))


def _padded_unlike(inner: Any, x: torch.Tensor) -> torch.Tensor:
    """A stride of 2 with TensorFlow's "same" padding: one column and row at the end, none at the beginning."""
    return _strided(inner, F.pad(x, (0, 1, 0, 1)), 0)


def _strided(inner: Any, x: torch.Tensor, padding: int = 1) -> torch.Tensor:
    hidden = F.conv2d(x, inner[0].weight, stride=2, padding=padding)
    return inner[9](inner[8](inner[7](inner[6](inner[5](inner[4](inner[2](inner[1](hidden))))))))


def _pooled(**options: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def call(inner: Any, x: torch.Tensor) -> torch.Tensor:
        hidden = F.avg_pool2d(inner[0](x), 3, 2, padding=1, **options)
        return inner[9](inner[8](inner[7](hidden.repeat(1, 2, 1, 1))))

    return call


def _resized(align: bool) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def call(inner: Any, x: torch.Tensor) -> torch.Tensor:
        return inner(F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=align))

    return call


@torch.no_grad()
def _zero_padding(t: Training) -> None:
    t.model.words.weight[0] = 0


def _untie(t: Training) -> None:
    t.model.head.weight = nn.Parameter(t.model.words.weight.detach().clone())
    t.optimizer.add_param_group({"params": [t.model.head.weight]})


PAIRS = [
    wrong(
        "gelu_by_tanh",
        "operation",
        "goodfire-ai/spd #624: GELU by erf and by tanh",
        *in_layers(BASE, _tanh_gelu),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "eps_of_the_norm",
        "operation",
        "karpathy/makemore #1: eps of LayerNorm is 1e-5 and 1e-6",
        *in_layers(BASE, _other_eps),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "deviation_of_the_norm",
        "operation",
        "FluxML/Flux.jl #1187: (x - m) / (s + eps) instead of the root of s**2 + eps",
        *in_layers(BASE, _unbiased_norm),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "wrong_axis_where_square",
        "operation",
        "ctallec/world-models #10: softmax over the batch; here only where the batch is square",
        *in_layers(replace(BASE, batches=_square_late), _wrong_axis_where_square),
        step=6,
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "branch_detached",
        "operation",
        "bboylyg/NAD #8: a detach() before the backward",
        replace(BASE, model=called(_cancelled_branch, perceptron)),
        replace(BASE, model=called(_detached_branch, perceptron)),
        at="param_grad",
        says="param_grad|gradient|backward",
    ),
    wrong(
        "gradient_of_ties",
        "operation",
        "pytorch/pytorch #56734: the gradient of a maximum of equals, all of it or half",
        replace(BASE, model=called(_ties(_one_of_equals), perceptron), begin=_begin_as_equals),
        replace(BASE, model=called(_ties(lambda hidden: hidden.amax(2)), perceptron), begin=_begin_as_equals),
        at="param_grad",
        says="param_grad|gradient|backward",
    ),
    wrong(
        "root_of_zero",
        "operation",
        "pytorch/pytorch #2421: the gradient of a norm of zeros is NaN",
        replace(BASE, model=called(_lengths(False), perceptron), batches=_zero_row_late),
        replace(BASE, model=called(_lengths(True), perceptron), batches=_zero_row_late),
        step=9,
        at="param_grad",
        says="nan",
    ),
    wrong(
        "softmax_without_its_maximum",
        "operation",
        "numenta/nupic-legacy #3818: softmax overflows without the maximum taken off",
        replace(LINEAR, batches=_large_late),
        replace(LINEAR, batches=_large_late, loss=of(_naive_cross_entropy)),
        step=9,
        at="loss",
        says="nan|inf",
    ),
    wrong(
        "slope_of_the_leak",
        "operation",
        "made for this corpus: the slope of a leaky ReLU is 0.01 in torch and 0.2 in TensorFlow's",
        replace(BASE, model=called(_leaky(0.01), perceptron)),
        replace(BASE, model=called(_leaky(0.2), perceptron)),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "attention_scale_off",
        "operation",
        "made for this corpus: a scale that a kernel rounds; DESIGN.md section 6 has it",
        READING,
        _reads(attend=_scaled_attention(1.001)),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "padding_attended",
        "operation",
        "unslothai/unsloth #903: the attention mask is ignored in training",
        READING,
        _reads(attend=_unmasked),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "long_rows_cut",
        "operation",
        "unslothai/unsloth #903: masks, here wrong for long rows only",
        replace(READING, batches=_long_rows_late),
        replace(_reads(attend=_mask_of_at_most_nine), batches=_long_rows_late),
        step=8,
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "mean_over_the_padding",
        "operation",
        "hiyoung123/SoftMaskedBert #20: padding is counted",
        READING,
        _reads(count=lambda mask: mask.shape[1]),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "half_the_words_as_an_integer",
        "operation",
        "made for this corpus: // where / is meant, on lengths",
        _reads(count=lambda mask: mask.sum(1, keepdim=True) / 2),
        _reads(count=lambda mask: mask.sum(1, keepdim=True) // 2),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "places_off_by_two",
        "operation",
        "huggingface/sentence-transformers #3879: places of RoBERTa begin behind the padding's index",
        READING,
        _reads(first_place=2),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "padding_learns",
        "operation",
        "huggingface/transformers #1258: the index of the padding",
        _reads(attend=_unmasked, padding_idx=0),
        replace(_reads(attend=_unmasked, padding_idx=None), begin=_zero_padding),
        at="param_grad",
        says="words|embedding|param_grad|gradient",
    ),
    wrong(
        "padded_at_the_end",
        "operation",
        "taehoonlee/tensornets #25: the padding of a stride of 2 differs between frameworks",
        replace(SEEING, model=called(_strided, convolutional)),
        replace(SEEING, model=called(_padded_unlike, convolutional)),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "padding_in_the_mean",
        "operation",
        "made for this corpus: count_include_pad differs between frameworks",
        replace(SEEING, model=called(_pooled(), convolutional)),
        replace(SEEING, model=called(_pooled(count_include_pad=False), convolutional)),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "corners_aligned",
        "operation",
        "kazuto1011/deeplab-pytorch #37: align_corners, whose default has changed",
        replace(SEEING, model=called(_resized(False), convolutional)),
        replace(SEEING, model=called(_resized(True), convolutional)),
        at="output",
        says=FUNCTION,
    ),
    wrong(
        "untied",
        "operation",
        "NVIDIA/Megatron-LM #656: the head is untied from the embedding",
        SPEAKING,
        replace(SPEAKING, model=lambda: Language(tied=False)),
        at="state param_grad",
        says="tied|shared|parameters|words.weight|head.weight",
    ),
    wrong(
        "untied_late",
        "operation",
        "NVIDIA/Megatron-LM #656: the head is untied from the embedding, here at step 8",
        SPEAKING,
        replace(SPEAKING, before=at(8, _untie)),
        step=8,
        at="state param_grad",
        says="tied|shared|parameters|words.weight|head.weight",
    ),
]
