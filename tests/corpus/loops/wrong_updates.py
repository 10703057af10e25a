"""Wrong between the gradient and the parameters: optimizers, schedules, clipping, scalers."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from . import optimizers as by_hand
from .hooks import adam, adamw, at, autocast, clip_norm, scaled, scheduled, setting, sgd
from .loop import Loop, Training, nothing
from .models import perceptron
from .optimizers import adamw_by_hand, rmsprop_by_hand, sgd_by_hand
from .pair import wrong

BASE = Loop(model=perceptron)
BY_HAND = replace(BASE, optimizer=adamw_by_hand(by_hand.right_adamw))
DECAYING = replace(BASE, optimizer=adamw(weight_decay=0.1))
MOMENTUM = replace(BASE, optimizer=sgd(momentum=0.9))
PLAIN = replace(BASE, optimizer=sgd())
RMSPROP = replace(BASE, optimizer=lambda model: torch.optim.RMSprop(model.parameters(), 1e-3, foreach=False))
RMSPROP_LARGE = replace(
    BASE, optimizer=lambda model: torch.optim.RMSprop(model.parameters(), 1e-3, eps=1e-3, foreach=False)
)
# An epoch of these loops has this many steps.
EPOCH = 5


def _ported(rule: by_hand.Rule, **settings: Any) -> Loop:
    return replace(BASE, optimizer=adamw_by_hand(rule, **settings))


def _groups(*, biases_decay: bool) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        matrices = [each for each in model.parameters() if each.ndim > 1]
        vectors = [each for each in model.parameters() if each.ndim < 2]
        first, second = (vectors, matrices) if biases_decay else (matrices, vectors)
        return torch.optim.AdamW(
            [{"params": first, "weight_decay": 0.1}, {"params": second, "weight_decay": 0.0}], 1e-3, foreach=False
        )

    return make


def _without_the_head(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([*model[0].parameters(), *model[2].parameters()], 1e-3, foreach=False)


@torch.no_grad()
def _to_bfloat16(t: Training) -> None:
    """Keeps no master weights: what the step leaves is rounded."""
    for parameter in t.model.parameters():
        parameter.copy_(parameter.bfloat16())


def _clip_each(t: Training) -> None:
    for parameter in t.model.parameters():
        nn.utils.clip_grad_norm_([parameter], 0.05)


def _step_schedule(t: Training) -> None:
    with warnings.catch_warnings():
        # torch warns of what is wrong here.
        warnings.simplefilter("ignore")
        t.scheduler.step()


def _without_the_scaler(t: Training) -> None:
    t.optimizer.step()


def _scheduled(make: Callable[[torch.optim.Optimizer], Any]) -> Loop:
    return replace(BASE, **scheduled(make))


def _lambda(factor: Callable[[int], float]) -> Callable[[torch.optim.Optimizer], Any]:
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor)


EXPONENTIAL = _scheduled(lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9))
STEPPED = _scheduled(lambda optimizer: lr_scheduler.StepLR(optimizer, 6, 0.1))
WARM = _scheduled(_lambda(lambda step: min(1.0, (step + 1) / 10)))
COSINE = _scheduled(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20))
HALVED = {"before": at(10, setting("lr", lambda lr: lr / 2))}
# Gradients of these loops have norms near 0.3 to 1.
CLIPPED = replace(BASE, ready=clip_norm(0.1))
SCALED = replace(BASE, **scaled(clip=clip_norm(0.1)))
RATE = "learning rate|lr"
UPDATE = "update param"
# The update in float64 of the baseline's optimizer from equal state is asked to name these.
CORRECTION, EPS, DECAY = "bias correction", "eps", "decay"
TORCH = "optimizer"

PAIRS = [
    wrong(
        "bias_correction_one_too_few",
        TORCH,
        "goodfire-ai/spd #602: the bias correction of a ported Adam",
        BY_HAND,
        _ported(by_hand.one_too_few),
        step=1,
        at=UPDATE,
        says=CORRECTION,
    ),
    wrong(
        "bias_correction_one_too_few_in_a_port",
        TORCH,
        "goodfire-ai/spd #602: the bias correction of a ported Adam",
        BASE,
        _ported(by_hand.one_too_few),
        step=1,
        at=UPDATE,
        says=CORRECTION,
        slack=1,
    ),
    wrong(
        "no_bias_correction",
        TORCH,
        "google-research/bert, optimization.py: AdamWeightDecayOptimizer has no bias correction",
        BASE,
        _ported(by_hand.uncorrected),
        at=UPDATE,
        says=CORRECTION,
    ),
    wrong(
        "eps_inside_the_root",
        TORCH,
        "keras-team/keras #17391: eps inside of the root",
        BY_HAND,
        _ported(by_hand.eps_inside),
        at=UPDATE,
        says=EPS,
    ),
    wrong(
        "eps_inside_the_root_in_a_port",
        TORCH,
        "goodfire-ai/spd #602: eps after the root in a ported Adam",
        BASE,
        _ported(by_hand.eps_inside),
        at=UPDATE,
        says=EPS,
    ),
    wrong(
        "eps_before_bias_correction",
        TORCH,
        "tensorflow/tensorflow #35102: eps is scaled by the bias correction",
        replace(BASE, optimizer=adamw(eps=1e-4)),
        _ported(by_hand.eps_before_correction, eps=1e-4),
        at=UPDATE,
        says=EPS,
    ),
    wrong(
        "decay_coupled",
        TORCH,
        "keras-team/keras #19051: AdamW became Adam with L2",
        DECAYING,
        replace(BASE, optimizer=adam(weight_decay=0.1)),
        at=f"state {UPDATE}",
        says=DECAY,
    ),
    wrong(
        "decay_coupled_by_hand",
        TORCH,
        "keras-team/keras #19051: AdamW became Adam with L2",
        BY_HAND,
        _ported(by_hand.decay_in_gradient),
        at=UPDATE,
        says=DECAY,
    ),
    wrong(
        "decay_without_the_rate",
        TORCH,
        "tensorflow/addons #2282: the decay is not multiplied by the learning rate",
        DECAYING,
        _ported(by_hand.decay_without_rate, weight_decay=0.1),
        at=UPDATE,
        says=DECAY,
    ),
    wrong(
        "decay_last",
        TORCH,
        "huggingface/transformers #14539: the decay is taken of the parameter after its update",
        DECAYING,
        _ported(by_hand.decay_last, weight_decay=0.1),
        at=UPDATE,
        says=DECAY,
    ),
    wrong(
        "decay_of_the_biases",
        TORCH,
        "facebookresearch/BalancingGroups #6: decay for biases and norms instead of weights",
        replace(BASE, optimizer=_groups(biases_decay=False)),
        replace(BASE, optimizer=_groups(biases_decay=True)),
        at=f"state {UPDATE}",
        says="weight_decay|weight decay|decay",
    ),
    wrong(
        "second_beta_by_hand",
        TORCH,
        "made for this corpus: a constant of a port",
        BY_HAND,
        _ported(by_hand.other_second_beta),
        step=1,
        at=f"state {UPDATE}",
        says="beta|exp_avg_sq",
    ),
    wrong(
        "amsgrad_forgotten",
        TORCH,
        "made for this corpus: a setting that a port does not know",
        replace(BASE, optimizer=adamw(amsgrad=True)),
        BASE,
        # The largest average so far differs from the average only after it has fallen.
        step=0,
        at="state",
        says="amsgrad",
        inexact="the step at which the parameters part is that at which an average first falls",
    ),
    wrong(
        "parameters_left_out",
        TORCH,
        "zjunlp/HVPNeT #5: parameters are not given to the optimizer",
        BASE,
        replace(BASE, optimizer=_without_the_head),
        at=f"state {UPDATE}",
        says="not updated|unchanged|no update|not in|frozen|3.weight|3.bias",
    ),
    wrong(
        "momentum_dampened",
        TORCH,
        "HIPS/autograd #289: the gradient enters the velocity with 1 - momentum",
        MOMENTUM,
        replace(BASE, optimizer=sgd_by_hand(by_hand.dampened)),
        step=1,
        at=f"state {UPDATE}",
        says="momentum|dampening",
        slack=1,
    ),
    wrong(
        "momentum_dampened_setting",
        TORCH,
        "HIPS/autograd #289: the gradient enters the velocity with 1 - momentum",
        MOMENTUM,
        replace(BASE, optimizer=sgd(momentum=0.9, dampening=0.9)),
        step=0,
        at="state",
        says="dampening",
        inexact="the parameters part at step 1, the setting at step 0",
    ),
    wrong(
        "nesterov_of_one_side",
        TORCH,
        "keras-team/keras #14115: how Nesterov's momentum is written",
        MOMENTUM,
        replace(BASE, optimizer=sgd_by_hand(by_hand.nesterov)),
        at=UPDATE,
        says="nesterov|momentum",
    ),
    wrong(
        "tensorflows_velocity",
        TORCH,
        "pytorch/pytorch #1099: the learning rate inside the velocity is another training once it changes",
        replace(MOMENTUM, **HALVED),
        replace(BASE, optimizer=sgd_by_hand(by_hand.rate_in_velocity), **HALVED),
        step=10,
        at=UPDATE,
        says="momentum|velocity",
        slack=1,
    ),
    wrong(
        "biases_twice_as_fast",
        TORCH,
        "made for this corpus: lr_mult of Caffe's examples, carried over",
        PLAIN,
        replace(BASE, optimizer=sgd_by_hand(by_hand.double_rate_of_biases, momentum=0)),
        at=UPDATE,
        says="bias|learning rate|lr|2",
    ),
    wrong(
        "rmsprop_of_tensorflow",
        TORCH,
        "pytorch/pytorch #23796: eps is inside of the root in TensorFlow",
        RMSPROP_LARGE,
        replace(BASE, optimizer=rmsprop_by_hand(by_hand.tensorflow_rmsprop, eps=1e-3)),
        at=UPDATE,
        says=EPS,
    ),
    wrong(
        "rmsprop_from_one",
        TORCH,
        "narumiruna/efficientnet-pytorch #24: TensorFlow's RMSprop, whose average begins at one",
        RMSPROP,
        replace(BASE, optimizer=rmsprop_by_hand(by_hand.rmsprop_from_one)),
        at=UPDATE,
        says="square_avg|state|update",
    ),
    wrong(
        "rate_of_half",
        TORCH,
        "made for this corpus: another learning rate on one side",
        BASE,
        replace(BASE, optimizer=adamw(5e-4)),
        at="state",
        says=RATE,
    ),
    wrong(
        "eps_of_tensorflow",
        TORCH,
        "juntang-zhuang/Adabelief-Optimizer #12: eps is 1e-7 in TensorFlow and 1e-8 in PyTorch",
        BASE,
        replace(BASE, optimizer=adamw(eps=1e-7)),
        at="state",
        says=EPS,
    ),
    wrong(
        "clipped_otherwise_under_autocast",
        "precision",
        "made for this corpus: 6 % apart, which bfloat16 would explain, but the gradients are float32",
        replace(PLAIN, forward=autocast, ready=clip_norm(0.1)),
        replace(PLAIN, forward=autocast, ready=clip_norm(0.106)),
        at="step_grad",
        says="clipping",
    ),
    wrong(
        "decay_forgotten_under_autocast",
        "precision",
        "made for this corpus: the same of a decay that a port of AdamW lacks",
        replace(BASE, forward=autocast, optimizer=adamw_by_hand(by_hand.right_adamw, weight_decay=0.1)),
        replace(BASE, forward=autocast, optimizer=adamw_by_hand(by_hand.right_adamw, weight_decay=0.0)),
        at=f"state {UPDATE}",
        says="decay",
    ),
    wrong(
        "no_master_weights",
        "precision",
        "NVIDIA/apex #1728: no master weights for bfloat16",
        BASE,
        replace(BASE, after=_to_bfloat16),
        at=UPDATE,
        says="bfloat16|precision|rounded",
    ),
    wrong(
        "narrow_state",
        "precision",
        "karpathy/llm.c #772: the optimizer's averages in bfloat16",
        BY_HAND,
        _ported(by_hand.narrow_state),
        at=f"state {UPDATE}",
        says="bfloat16|precision|exp_avg",
    ),
    wrong(
        "scheduler_of_epochs",
        "schedule",
        "ivadomed/ivadomed #55 the other way round: stepped once an epoch where it should be each step",
        EXPONENTIAL,
        replace(EXPONENTIAL, after=lambda t: t.scheduler.step() if t.step % EPOCH == EPOCH - 1 else None),
        step=1,
        at="state",
        says=RATE,
    ),
    wrong(
        "scheduler_of_steps",
        "schedule",
        "ivadomed/ivadomed #55: stepped each step where it should be once an epoch",
        replace(EXPONENTIAL, after=lambda t: t.scheduler.step() if t.step % EPOCH == EPOCH - 1 else None),
        EXPONENTIAL,
        step=1,
        at="state",
        says=RATE,
    ),
    wrong(
        "scheduler_first",
        "schedule",
        "pytorch/pytorch #22107: scheduler.step() before optimizer.step() skips the first value",
        EXPONENTIAL,
        replace(EXPONENTIAL, before=_step_schedule, after=nothing),
        at="state",
        says=RATE,
    ),
    wrong(
        "scheduler_a_step_late",
        "schedule",
        "pytorch/pytorch #20527: a schedule that is one decay off",
        STEPPED,
        _scheduled(lambda optimizer: lr_scheduler.StepLR(optimizer, 7, 0.1)),
        step=6,
        at="state",
        says=RATE,
    ),
    wrong(
        "warm_up_from_zero",
        "schedule",
        "google-research/bert #1293: the first learning rate of a warm-up is zero",
        WARM,
        _scheduled(_lambda(lambda step: min(1.0, step / 10))),
        at="state",
        says=RATE,
    ),
    wrong(
        "cosine_of_epochs",
        "schedule",
        "ScrollPrize/villa #1495: a schedule by steps is given a number of epochs",
        COSINE,
        _scheduled(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20 // EPOCH)),
        step=1,
        at="state",
        says=RATE,
    ),
    wrong(
        "stepped_for_each_of_two_ranks",
        "schedule",
        "tracel-ai/burn #5695: the schedule advances with each peer",
        COSINE,
        replace(COSINE, after=lambda t: [t.scheduler.step() for _ in range(2)]),
        step=1,
        at="state",
        says=RATE,
    ),
    wrong(
        "schedule_with_a_rounded_pi",
        "schedule",
        "made for this corpus: a cosine by hand, with 3.14 for pi",
        COSINE,
        _scheduled(_lambda(lambda step: (1 + math.cos(3.14 * step / 20)) / 2)),
        step=1,
        at="state",
        says=RATE,
    ),
    wrong(
        "clipped_by_value",
        "clipping",
        "Happy-Algorithms-League/hal-cgp #210: clipping by value turns the gradient",
        CLIPPED,
        replace(BASE, ready=lambda t: nn.utils.clip_grad_value_(t.model.parameters(), 0.1)),
        at="step_grad",
        says="clip",
    ),
    wrong(
        "clipped_one_by_one",
        "clipping",
        "made for this corpus: the norm of each tensor is clipped instead of that of all",
        replace(BASE, ready=clip_norm(0.05)),
        replace(BASE, ready=_clip_each),
        at="step_grad",
        says="clip",
    ),
    wrong(
        "clipped_at_one",
        "clipping",
        "neuroailab/tfutils #115: the limit is always 1",
        CLIPPED,
        replace(BASE, ready=clip_norm(1.0)),
        at="step_grad",
        says="clip",
    ),
    wrong(
        "clipped_after_the_step",
        "clipping",
        "Deci-AI/super-gradients #653: when the gradient is clipped",
        CLIPPED,
        replace(BASE, after=clip_norm(0.1)),
        at="step_grad",
        says="clip",
    ),
    wrong(
        "clipped_before_unscaling",
        "clipping",
        "milesial/Pytorch-UNet #468: gradients are clipped before they are unscaled",
        SCALED,
        replace(BASE, **scaled(clip=clip_norm(0.1), early=True)),
        at="step_grad",
        says="clip|scale",
    ),
    wrong(
        "never_unscaled",
        "clipping",
        "victorchall/EveryDream2trainer #175: what is done to gradients that are still scaled",
        replace(PLAIN, **scaled(4.0)),
        replace(PLAIN, **{**scaled(4.0), "ready": lambda t: None, "update": _without_the_scaler}),
        at="step_grad",
        says="scale",
    ),
]
