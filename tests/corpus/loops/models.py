"""Models and batches of the loops: small, seeded by the loop, made in the default dtype.

Letters: S steps, B rows, F features, C classes, T tokens of a row, D width, V words.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

FEATURES, HIDDEN, CLASSES = 8, 32, 4
WORDS, TOKENS, WIDTH = 20, 10, 16
PADDING = 0
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def normed(*, bias: bool = False) -> nn.Module:
    """With batch normalisation; a bias before it has a gradient that is zero but for rounding."""
    return nn.Sequential(
        nn.Linear(FEATURES, HIDDEN, bias=bias), nn.BatchNorm1d(HIDDEN), nn.GELU(), nn.Linear(HIDDEN, CLASSES)
    )


def biased() -> nn.Module:
    """With a bias before batch normalisation."""
    return normed(bias=True)


def perceptron() -> nn.Module:
    """With layer normalisation, and without buffers."""
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.GELU(), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, CLASSES))


def dropping() -> nn.Module:
    """With dropout."""
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, CLASSES))


def convolutional() -> nn.Module:
    """Two convolutions with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


class Layers(nn.Module):
    """A model with the layers of another, called by hand: (layers, inputs) -> output."""

    def __init__(self, make: Callable[[], nn.Module], call: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner = make()
        self.call = call

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The output of the layers."""
        return self.call(self.inner, inputs)


@cache
def called(
    call: Callable[[nn.Module, torch.Tensor], torch.Tensor], make: Callable[[], nn.Module]
) -> Callable[[], nn.Module]:
    """Makes a model whose layers are called by hand."""
    # Cached: loops are recorded once, and those of equal hooks are equal.
    return lambda: Layers(make, call)


def attention_by_hand(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *, scale: float = 1.0
) -> torch.Tensor:
    """Softmax of the masked scores, times the values; dtype[B, T, D]."""
    scores = query @ key.transpose(-1, -2) * (scale / query.shape[-1] ** 0.5)
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value


class Reader(nn.Module):
    """Words and their places, one attention, the mean over the words of a row, classes.

    Args:
        attend: (query, key, value, mask[B, 1, T]) -> dtype[B, T, D].
        count: (mask[B, T]) -> what the sum over a row's words is divided by, dtype[B, 1].
        eps: Of the normalisation.
        padding_idx: Of the embedding.
        first_place: Number of the first word's place.
    """

    def __init__(
        self,
        attend: Callable[..., torch.Tensor] = attention_by_hand,
        *,
        count: Callable[[torch.Tensor], torch.Tensor] = lambda mask: mask.sum(1, keepdim=True),
        eps: float = 1e-5,
        padding_idx: int | None = PADDING,
        first_place: int = 0,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=padding_idx)
        self.places = nn.Embedding(TOKENS + 2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=eps)
        self.projection = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.attend, self.count, self.first_place = attend, count, first_place

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, dtype[B, C]."""
        mask = tokens != PADDING
        places = torch.arange(tokens.shape[1], device=tokens.device) + self.first_place
        hidden = self.words(tokens) + self.places(places)
        query, key, value = self.projection(self.norm(hidden)).chunk(3, -1)
        hidden = hidden + self.attend(query, key, value, mask[:, None, :])
        return self.head((hidden * mask[..., None]).sum(1) / self.count(mask))


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same by torch's own function; dtype[B, T, D]."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def narrow(attend: Callable[..., torch.Tensor]) -> Callable[[], nn.Module]:
    """Makes a reader in bfloat16; where loops are made in float64, to be compared exactly, in float64."""
    dtypes = {torch.float32: torch.bfloat16, torch.float64: torch.float64}
    return lambda: Reader(attend).to(dtypes[torch.get_default_dtype()])


class Language(nn.Module):
    """Predicts each next word; its embedding is its head, unless they are untied."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight if tied else nn.Parameter(self.words.weight.detach().clone())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the next words, dtype[B, V, T]."""
        return self.head(self.body(self.words(tokens))).transpose(1, 2)


def _labels(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Classes that can be learnt: the largest of some fixed projections; int64[B]."""
    return (values @ torch.randn(values.shape[1], CLASSES, generator=generator)).argmax(1)


def points(steps: int, *, rows: int = 32, seed: int = 0) -> Batches:
    """S batches of points and their classes: dtype[B, F], int64[B]."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(steps * rows, FEATURES, generator=generator)
    return list(zip(inputs.split(rows), _labels(inputs, generator).split(rows), strict=True))


def images(steps: int, *, rows: int = 16) -> Batches:
    """S batches of images and their classes: dtype[B, 3, 16, 16], int64[B]."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(steps * rows, 3, 16, 16, generator=generator)
    return list(zip(inputs.split(rows), _labels(inputs.flatten(1), generator).split(rows), strict=True))


def texts(steps: int, *, rows: int = 16) -> Batches:
    """S batches of words, padded at their ends, and their classes: int64[B, T], int64[B]."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, WORDS, (steps * rows, TOKENS), generator=generator)
    lengths = torch.randint(3, TOKENS + 1, (steps * rows, 1), generator=generator)
    tokens[torch.arange(TOKENS) >= lengths] = PADDING
    labels = _labels(F.one_hot(tokens, WORDS).sum(1).to(torch.get_default_dtype()), generator)
    return list(zip(tokens.split(rows), labels.split(rows), strict=True))


def sentences(steps: int, *, rows: int = 16) -> Batches:
    """S batches of words and the words that follow them: int64[B, T], int64[B, T]."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(WORDS, (steps * rows, 1), generator=generator)
    words = (starts + 3 * torch.arange(TOKENS + 1)) % WORDS
    return [(each[:, :-1], each[:, 1:]) for each in words.split(rows)]


def measured(steps: int) -> Batches:
    """S batches of points far from zero, and their sums: dtype[B, F], dtype[B, 1]."""
    generator = torch.Generator().manual_seed(0)
    inputs = 3 + 2 * torch.randn(steps * 32, FEATURES, generator=generator)
    return [(each, each.sum(1, keepdim=True)) for each in inputs.split(32)]
