"""Wrong data: loaders, seeds of loaders, preparation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .hooks import at, sgd
from .loop import Loop, Training
from .models import (
    Batches,
    Language,
    convolutional,
    images,
    perceptron,
    points,
    sentences,
)
from .pair import wrong

BASE = Loop(model=perceptron)
SPEAKING = Loop(model=Language, batches=sentences)
SEEING = Loop(model=convolutional, batches=images, optimizer=sgd(), steps=10)
EPOCH = 5

INPUT = "input|target"


def _moved(change: Callable[[Any, torch.Tensor], tuple[Any, torch.Tensor]]) -> dict[str, Any]:
    """A change of each batch before its step."""

    def before(t: Training) -> None:
        t.inputs, t.target = change(t.inputs, t.target)

    return {"before": before}


def _again(step: int) -> Callable[[Training], None]:
    """The batch of another step."""

    def before(t: Training) -> None:
        t.inputs, t.target = t.batches[step]

    return before


def _partial(steps: int) -> Batches:
    """Epochs whose last batch has 12 rows."""
    batches = points(2 * steps)[:steps]
    return [(x[:12], y[:12]) if step % EPOCH == EPOCH - 1 else (x, y) for step, (x, y) in enumerate(batches)]


def _partial_dropped(steps: int) -> Batches:
    """The same data without the partial batches."""
    return [batch for step, batch in enumerate(points(2 * steps)) if step % EPOCH != EPOCH - 1][:steps]


def _epochs(steps: int, *, shuffled: bool) -> Batches:
    """Epochs of the same rows, in another order each time, or always in the first one."""
    inputs, target = (torch.cat(each) for each in zip(*points(EPOCH), strict=True))
    generator = torch.Generator().manual_seed(3)
    batches: Batches = []
    order = torch.randperm(len(inputs), generator=generator)
    while len(batches) < steps:
        batches += [(inputs[rows], target[rows]) for rows in order.split(32)]
        order = torch.randperm(len(inputs), generator=generator) if shuffled else order
    return batches


def _bytes(steps: int, *, whole: bool) -> Batches:
    """Inputs that were bytes, scaled to [0, 1]; or divided as integers."""
    batches = []
    for inputs, target in points(steps):
        byte = (inputs * 64 + 128).clamp(0, 255).to(torch.uint8)
        batches.append(((byte // 64).to(inputs.dtype) / 4 if whole else byte.to(inputs.dtype) / 256, target))
    return batches


def _noisy(steps: int, *, workers_alike: bool) -> Batches:
    """Augmented batches of two workers, which draw numbers of their own or the same ones."""
    generators = [torch.Generator().manual_seed(0 if workers_alike else worker) for worker in range(2)]
    return [
        (inputs + 0.1 * torch.randn(inputs.shape, generator=generators[step % 2]), target)
        for step, (inputs, target) in enumerate(points(steps))
    ]


def _one_row_stale(t: Training) -> None:
    if t.step:
        t.inputs = torch.cat([t.batches[t.step - 1][0][:1], t.inputs[1:]])


PAIRS = [
    wrong(
        "another_order",
        "data",
        "huggingface/accelerate #2016: a loader gives its batches in another order",
        replace(BASE, batches=lambda steps: _epochs(steps, shuffled=True)),
        replace(BASE, batches=lambda steps: _epochs(steps, shuffled=True)[::-1]),
        at="input",
        says=INPUT,
    ),
    wrong(
        "same_order_every_epoch",
        "data",
        "pytorch/pytorch #31771: without set_epoch() every epoch has the same order",
        replace(BASE, batches=lambda steps: _epochs(steps, shuffled=True)),
        replace(BASE, batches=lambda steps: _epochs(steps, shuffled=False)),
        step=EPOCH,
        at="input",
        says=INPUT,
    ),
    wrong(
        "last_batch_dropped",
        "data",
        "facebookresearch/fairseq #4973: --skip-remainder-batch",
        replace(BASE, batches=_partial),
        replace(BASE, batches=_partial_dropped),
        step=EPOCH - 1,
        at="input",
        says=f"{INPUT}|rows",
    ),
    wrong(
        "batch_repeated",
        "data",
        "thinking-machines-lab/tinker-cookbook #935: a batch is trained twice",
        BASE,
        replace(BASE, before=at(6, _again(5))),
        step=6,
        at="input",
        says=INPUT,
    ),
    wrong(
        "not_normalised",
        "data",
        "ultralytics/yolov3 #824: the inputs' mean and deviation",
        replace(BASE, **_moved(lambda x, y: ((x - 0.1) / 1.1, y))),
        BASE,
        at="input",
        says=INPUT,
    ),
    wrong(
        "channels_reversed",
        "data",
        "hustvl/SparseInst #100: BGR where RGB is meant",
        SEEING,
        replace(SEEING, **_moved(lambda x, y: (x.flip(1), y))),
        at="input",
        says=INPUT,
    ),
    wrong(
        "labels_of_the_next_word_but_one",
        "data",
        "huggingface/transformers #47394: labels are shifted twice",
        SPEAKING,
        replace(SPEAKING, **_moved(lambda x, y: (x, (y + 3) % 20))),
        at="input",
        says=INPUT,
    ),
    wrong(
        "divided_as_integers",
        "data",
        "made for this corpus: // where / is meant, on bytes",
        replace(BASE, batches=lambda steps: _bytes(steps, whole=False)),
        replace(BASE, batches=lambda steps: _bytes(steps, whole=True)),
        at="input",
        says=INPUT,
    ),
    wrong(
        "workers_draw_alike",
        "data",
        "pytorch/pytorch #5059: all workers draw the same numbers",
        replace(BASE, batches=lambda steps: _noisy(steps, workers_alike=False)),
        replace(BASE, batches=lambda steps: _noisy(steps, workers_alike=True)),
        step=1,
        at="input",
        says=INPUT,
    ),
    wrong(
        "one_row_of_the_batch_before",
        "data",
        "made for this corpus: a ring buffer that is read one row too early",
        BASE,
        replace(BASE, before=_one_row_stale),
        step=1,
        at="input",
        says=INPUT,
    ),
]
