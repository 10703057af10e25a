"""Resumed and uninterrupted trainings, micro-batches and whole batches, ranks and one process: wrong and right ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

from .hooks import adamw, clip_norm, restoring, scaled, scheduled, sgd, split
from .loop import Loop, Training
from .models import dropping, normed, perceptron, points
from .pair import Pair, right, wrong

FIRST = 10

# Resumed


def _resumed(name: str, source: str, whole: Loop, *parts: str, step: int = FIRST, at: str, says: str) -> Pair:
    resumed = replace(whole, first_step=FIRST, restore=restoring(*parts))
    return wrong(name, "resume", source, whole, resumed, step=step, at=at, says=says)


def _rightly(name: str, whole: Loop, *parts: str) -> Pair:
    resumed = replace(whole, first_step=FIRST, restore=restoring(*parts))
    return right(
        name,
        "resume",
        "huggingface/transformers #8878: resumed is to be the same as uninterrupted",
        whole,
        resumed,
        passes="identical",
    )


def _without_buffers(saved: dict[str, Any], t: Training) -> None:
    t.model.load_state_dict({name: saved["model"][name] for name, _ in t.model.named_parameters()}, strict=False)
    t.optimizer.load_state_dict(saved["optimizer"])


def _one_batch_again(saved: dict[str, Any], t: Training) -> None:
    restoring("model", "optimizer")(saved, t)
    t.batches = [*t.batches[:FIRST], t.batches[FIRST - 1], *t.batches[FIRST:-1]]


def _one_batch_skipped(saved: dict[str, Any], t: Training) -> None:
    restoring("model", "optimizer")(saved, t)
    t.batches = [*t.batches[:FIRST], *t.batches[FIRST + 1 :], t.batches[FIRST]]


def _one_step_too_many(saved: dict[str, Any], t: Training) -> None:
    restoring("model", "optimizer")(saved, t)
    inputs, target = t.batches[FIRST - 1]
    t.optimizer.zero_grad()
    nn.functional.cross_entropy(t.model(inputs), target).backward()
    t.optimizer.step()


def _narrow_checkpoint(saved: dict[str, Any], t: Training) -> None:
    restoring("model", "optimizer")(saved, t)
    with torch.no_grad():
        for parameter in t.model.parameters():
            parameter.copy_(parameter.bfloat16())


def _states_of_other_parameters(saved: dict[str, Any], t: Training) -> None:
    """The states of two parameters of equal shape are exchanged, as they are where groups have another order."""
    restoring("model", "optimizer")(saved, t)
    states = t.optimizer.state
    first, second = t.model[1].weight, t.model[1].bias
    states[first], states[second] = states[second], states[first]


ADAM = Loop(model=normed)
SCHEDULED = replace(ADAM, **scheduled(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20)))
DROPPING = replace(ADAM, model=dropping)
# The scale is doubled each fourth step, so that a new scaler has another one.
SCALED = replace(ADAM, **scaled(clip=clip_norm(0.1)))
OPTIMIZER = (
    "huggingface/transformers #8878 and NVlabs/stylegan2-ada-pytorch #108: the optimizer's state is not restored"
)

RESUMED = [
    _rightly("resumed", ADAM, "model", "optimizer"),
    _rightly("resumed_with_schedule", SCHEDULED, "model", "optimizer", "scheduler"),
    _rightly("resumed_with_dropout", DROPPING, "model", "optimizer", "generator"),
    _rightly("resumed_with_scaler", SCALED, "model", "optimizer", "scaler"),
    _resumed("resumed_without_optimizer", OPTIMIZER, ADAM, "model", at="state", says="state"),
    _resumed(
        "resumed_without_momentum",
        "neuroailab/tfutils #72: momentum is not in the checkpoint",
        replace(ADAM, optimizer=sgd(momentum=0.9)),
        "model",
        at="state",
        says="state|momentum",
    ),
    _resumed(
        "resumed_without_scheduler",
        "DeepLabCut/DeepLabCut #2788: the schedule restarts at epoch 0",
        SCHEDULED,
        "model",
        "optimizer",
        # The optimizer's settings are restored, and the new schedule overwrites them at its first step.
        step=FIRST + 1,
        at="state",
        says="learning rate|lr",
    ),
    _resumed(
        "resumed_without_generators",
        "vllm-project/speculators #1027: dropout diverges after a resume",
        DROPPING,
        "model",
        "optimizer",
        at="state output",
        says="generator|random",
    ),
    _resumed(
        "resumed_without_scaler",
        "huggingface/transformers #11663: the scaler's state is not saved",
        replace(SCALED, **scaled(clip=clip_norm(0.1), early=True)),
        "model",
        "optimizer",
        at="state",
        says="scale",
    ),
    *(
        wrong(
            name, "resume", source, ADAM, replace(ADAM, first_step=FIRST, restore=restore), step=FIRST, at=at, says=says
        )
        for name, source, restore, at, says in [
            (
                "resumed_without_buffers",
                "FlyreelAI/sesemi #36: BatchNorm's statistics are those of the beginning",
                _without_buffers,
                "state buffer",
                "buffer|running_",
            ),
            (
                "resumed_with_a_batch_again",
                "thinking-machines-lab/tinker-cookbook #935: the last batch is trained again",
                _one_batch_again,
                "input",
                "input|target",
            ),
            (
                "resumed_with_a_batch_skipped",
                "Red-Hat-AI-Innovation-Team/mini_trainer #79: batches are skipped off by one",
                _one_batch_skipped,
                "input",
                "input|target",
            ),
            (
                "resumed_with_a_step_too_many",
                "thinking-machines-lab/tinker-cookbook #935: a second update with the same batch",
                _one_step_too_many,
                "state output",
                "state|step",
            ),
            (
                "resumed_from_bfloat16",
                "TensorAuto/OpenTau #185: master weights are rebuilt from bfloat16",
                _narrow_checkpoint,
                "state output",
                "parameter|bfloat16|precision|state",
            ),
            (
                "resumed_with_states_exchanged",
                "pytorch/pytorch #1489: states go by the order of the parameters, and the order has changed",
                _states_of_other_parameters,
                "state",
                "state",
            ),
        ]
    ),
]

# Micro-batches

PLAIN = Loop(model=perceptron, optimizer=sgd())
PERCEPTRON = Loop(model=perceptron)


def _mean(rows: int, whole: int, parts: int) -> float:
    return 1 / parts


def _share(rows: int, whole: int, parts: int) -> float:
    return rows / whole


def _sum(rows: int, whole: int, parts: int) -> float:
    return 1.0


def _of_four(rows: int, whole: int, parts: int) -> float:
    return 1 / 4


def _short_last(t: Training) -> Any:
    """Four micro-batches a step, three in the last step of an epoch, which are divided by four all the same."""
    rows = (8, 8, 8) if t.step % 5 == 4 else (8, 8, 8, 8)
    return split(*rows, factor=_of_four)(t)


def _short_last_batches(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x[:24], y[:24]) if step % 5 == 4 else (x, y) for step, (x, y) in enumerate(points(steps))]


def _cleared_each_time(t: Training) -> None:
    """Clears the gradient of the micro-batches before: zero_grad() is inside of the inner loop."""
    t.optimizer.zero_grad()
    (t.loss * t.factor).backward()


def _only_last_clipped(t: Training) -> None:
    """Clips after each micro-batch what has been added up so far."""
    (t.loss * t.factor).backward()
    nn.utils.clip_grad_norm_(t.model.parameters(), 0.05)


MICRO = [
    right(
        "micro_batches_of_8",
        "accumulation",
        "huggingface/blog #2414: accumulation is to be the same as one batch",
        PLAIN,
        replace(PLAIN, split=split(8, 8, 8, 8, factor=_mean)),
        passes="rounding",
    ),
    right(
        "micro_batches_with_adam",
        "accumulation",
        "huggingface/blog #2414: accumulation is to be the same as one batch",
        PERCEPTRON,
        replace(PERCEPTRON, split=split(16, 16, factor=_mean)),
        passes="rounding",
    ),
    right(
        "unequal_micro_batches",
        "accumulation",
        "ml-explore/mlx-lm #1413: micro-batches weighted by what they count",
        PLAIN,
        replace(PLAIN, split=split(20, 8, 4, factor=_share)),
        passes="rounding",
    ),
    wrong(
        "mean_of_means",
        "accumulation",
        "meta-pytorch/torchtune #1875: the mean of means over unequal counts",
        PLAIN,
        replace(PLAIN, split=split(20, 8, 4, factor=_mean)),
        at="loss output_grad param_grad",
        says="mean of means|factor|rows|unequal",
    ),
    wrong(
        "micro_batches_summed",
        "accumulation",
        "paiml/aprender #2123: the sum over micro-batches instead of their mean",
        PLAIN,
        replace(PLAIN, split=split(8, 8, 8, 8, factor=_sum)),
        at="loss output_grad param_grad",
        says="factor|4|1/k|sum",
    ),
    wrong(
        "short_last_window",
        "accumulation",
        "modelscope/ms-swift #10084: a partial window is divided by the whole one",
        replace(PLAIN, batches=_short_last_batches),
        replace(PLAIN, batches=_short_last_batches, split=_short_last),
        step=4,
        at="loss output_grad param_grad",
        says="factor|window|0.75|3",
    ),
    wrong(
        "cleared_in_the_inner_loop",
        "accumulation",
        "bytetriper/RAE #67: zero_grad() is called for each micro-batch",
        PLAIN,
        replace(PLAIN, split=split(8, 8, 8, 8, factor=_mean), backward=_cleared_each_time),
        at="param_grad",
        says="param_grad|zero_grad|accumulat|gradient",
    ),
    wrong(
        "clipped_in_the_inner_loop",
        "accumulation",
        "Deci-AI/super-gradients #653: clipping was done each batch",
        replace(PLAIN, ready=clip_norm(0.05)),
        replace(PLAIN, split=split(16, 16, factor=_mean), backward=_only_last_clipped),
        at="param_grad",
        says="param_grad|clip|gradient",
    ),
]

# Ranks


def _part(whole: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    return whole.chunk(ranks)[rank]


def _first(whole: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """Every rank takes the rows of the first."""
    return whole.chunk(ranks)[0]


def _reduced(divided_by: float) -> Callable[[Training], None]:
    """Adds up the gradients of all ranks by hand."""

    def backward(t: Training) -> None:
        t.loss.backward()
        for parameter in t.model.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter.grad /= divided_by

    return backward


def _seeded_by_rank() -> nn.Module:
    torch.manual_seed(dist.get_rank() if dist.is_initialized() else 0)
    return perceptron()


SINGLE = Loop(model=perceptron, optimizer=adamw(), steps=10)
RANKS = replace(SINGLE, wrap=DistributedDataParallel, rank_share=_part)
BY_HAND = replace(SINGLE, rank_share=_part, backward=_reduced(2))

RANKED = [
    right(
        "ranks",
        "ranks",
        "huggingface/blog #2414: two ranks are to be the same as one batch",
        SINGLE,
        RANKS,
        passes="rounding",
    ),
    right("ranks_reduced_by_hand", "ranks", "NVIDIA/apex #696: the mean over ranks", RANKS, BY_HAND),
    wrong(
        "module_called_instead_of_its_wrapper",
        "ranks",
        "moojink/openvla-oft #160: the forward of DDP is bypassed, and nothing is synchronised",
        SINGLE,
        replace(RANKS, forward=lambda t: t.model(t.inputs)),
        at="param_grad",
        says="rank|synchron|all-reduce",
    ),
    wrong(
        "gradients_summed_over_ranks",
        "ranks",
        "NVIDIA/apex #696: sum or mean over ranks",
        # Adam would hide it.
        replace(SINGLE, optimizer=sgd()),
        replace(BY_HAND, optimizer=sgd(), backward=_reduced(1)),
        at="param_grad",
        says="2|scaled|sum",
    ),
    wrong(
        "ranks_of_other_seeds",
        "ranks",
        "NVlabs/LongLive #71: seeds that differ by rank; here of the model, which nobody broadcasts",
        SINGLE,
        replace(BY_HAND, model=_seeded_by_rank),
        at="state output",
        says="rank|parameter|state",
    ),
    wrong(
        "every_rank_has_all_rows",
        "ranks",
        "openspeech-team/openspeech #149: all ranks have the same rows",
        SINGLE,
        replace(RANKS, rank_share=_first),
        at="input",
        says="input|rows|rank",
    ),
]

PAIRS = [*RESUMED, *MICRO, *RANKED]
