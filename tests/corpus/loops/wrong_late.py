"""Wrong from a step on: the two loops are equal to the bit until then, or already apart by rounding."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from .hooks import Scaled, adamw, at, backward, by_logsumexp, clip_norm, cross_entropy, setting, sgd, since
from .loop import Loop, Training, of
from .models import attention_by_hand, biased, dropping, narrow, points, sdpa, texts
from .pair import wrong

LATE = 12
BASE = Loop()
# Right, and apart from BASE by rounding from the first step on.
PARTED = replace(BASE, loss=of(by_logsumexp))
MOMENTUM = replace(BASE, optimizer=sgd(momentum=0.9))
DROPPING = replace(BASE, model=dropping)
NO_DECAY = replace(BASE, optimizer=adamw(weight_decay=0.0))


def _halve_gradient(t: Training) -> None:
    t.loss.backward()
    t.model[0].weight.grad.mul_(0.5)


def _halve_gradient_of_the_head(t: Training) -> None:
    t.loss.backward()
    t.model.head.weight.grad.mul_(0.5)


def _half_of_the_rows_of_a_gradient(t: Training) -> None:
    t.loss.backward()
    t.model[3].weight.grad[::2] = 0


def _stale_gradient(t: Training) -> None:
    """Takes the gradient of the step before for one layer."""
    t.loss.backward()
    weight = t.model[3].weight
    now = weight.grad.clone()
    if t.step >= LATE:
        weight.grad.copy_(t.kept["gradient"])
    t.kept["gradient"] = now


@torch.no_grad()
def _double_a_weight(t: Training) -> None:
    t.model[3].weight[0, 0] *= 2


def _freeze(t: Training) -> None:
    t.model[0].requires_grad_(False)


def _lose_momentum(t: Training) -> None:
    for state in t.optimizer.state.values():
        state["momentum_buffer"].zero_()


def _restart_step_count(t: Training) -> None:
    for state in t.optimizer.state.values():
        state["step"].zero_()


@torch.no_grad()
def _validate_in_training_mode(t: Training) -> None:
    t.model(points(1, seed=7)[0][0].to(t.inputs.device))


def _shift_a_label(t: Training) -> None:
    t.target = (t.target + 1) % 4


def _bias_of_the_head_forgotten(t: Training) -> torch.Tensor:
    output = t.model(t.inputs)
    return output - t.model[3].bias if t.step >= LATE else output


def _wrong_output_gradient(t: Training) -> torch.Tensor:
    return cross_entropy(t) if t.step < LATE else F.cross_entropy(Scaled.apply(t.output, 1.05), t.target)


def _smoothed(t: Training) -> torch.Tensor:
    return F.cross_entropy(t.output, t.target, label_smoothing=0.1 if t.step >= LATE else 0.0)


RATE = "learning rate|lr"
# Each: name, source, what changes, quantities, words of the cause.
FAULTS = [
    (
        "learning_rate_tenth",
        "pytorch/pytorch #22107: MultiStepLR decays once more than it should",
        {"before": at(LATE, setting("lr", lambda lr: lr / 10))},
        "state",
        RATE,
    ),
    (
        "learning_rate_one_percent_up",
        "made for this corpus: the smallest wrong schedule that people care about; DESIGN.md section 7 has it",
        {"before": at(LATE, setting("lr", lambda lr: lr * 1.01))},
        "state",
        RATE,
    ),
    (
        "weight_decay_appears",
        "ServiceNow/Fast-LLM #542: a decay that was excluded comes back",
        {"before": at(LATE, setting("weight_decay", lambda decay: decay + 1e-4))},
        "state",
        "weight_decay|weight decay",
    ),
    (
        "evaluation_mode_stays",
        "pytorch/tutorials #1540: model.train() is not called again after an evaluation",
        {"before": at(LATE, lambda t: t.model.eval())},
        "output state",
        "eval|mode|batch norm|output",
    ),
    (
        "gradients_not_cleared",
        "wenet-e2e/wekws #73: optimizer.zero_grad() was missing",
        {"clear": since(LATE, lambda t: None, lambda t: t.optimizer.zero_grad())},
        "param_grad",
        "zero_grad|step before|accumulat|cleared",
    ),
    (
        "layer_frozen",
        "ultralytics/yolov5 #1213: what is frozen and what is not is not what was asked for",
        {"before": at(LATE, _freeze)},
        "state param_grad",
        "frozen|no gradient|zero",
    ),
    (
        "half_of_a_layers_gradient",
        "pytorch/pytorch #185509, as the corpus of losses cites it: the forward is right, the gradient is off",
        {"backward": since(LATE, _halve_gradient, backward)},
        "param_grad",
        "0.weight|half|0.5|1/2|scaled",
    ),
    (
        "weight_doubled",
        "made for this corpus: a corrupted weight, as memory faults and races on shared weights leave it",
        {"before": at(LATE, _double_a_weight)},
        "state output param",
        "3.weight|changed|parameter",
    ),
    (
        "optimizer_state_lost",
        "NVlabs/stylegan2-ada-pytorch #108: the optimizer's state is not restored",
        {"before": at(LATE, lambda t: t.optimizer.state.clear())},
        "state",
        "state",
    ),
    (
        "update_skipped",
        "made for this corpus: a step that a scaler skips on one side only; here by hand",
        {"update": lambda t: None if t.step == LATE else t.optimizer.step()},
        "state update param",
        "skipped|not updated|unchanged|no update|no step",
    ),
    (
        "clipping_appears",
        "pytorchbearer/torchbearer #158: clipping does not do what it says",
        {"ready": since(LATE, clip_norm(0.05))},
        "step_grad",
        "clip",
    ),
    (
        "validated_in_training_mode",
        "princeton-vl/pytorch_stacked_hourglass #44: validation in training mode moves BatchNorm's statistics",
        {"before": at(LATE, _validate_in_training_mode)},
        "state buffer",
        "buffer|running_",
    ),
    (
        "gradient_of_the_step_before",
        "made for this corpus: pipelined training without a wait, one layer's gradient is stale",
        {"backward": _stale_gradient},
        "param_grad",
        "3.weight|step before|stale",
    ),
    (
        "step_count_restarts",
        "EvolvingLMMs-Lab/OneVision-Encoder #65: the step count of bias correction is lost",
        {"before": at(LATE, _restart_step_count)},
        "state",
        "step|state",
    ),
    (
        "normalisation_forgotten",
        "facebookresearch/maskrcnn-benchmark #587: the inputs' mean and deviation",
        {"before": since(LATE, lambda t: setattr(t, "inputs", t.inputs * 2 + 0.5))},
        "input",
        "input",
    ),
    (
        "labels_shifted",
        "huggingface/transformers #47394: labels are shifted twice",
        {"before": since(LATE, _shift_a_label)},
        "input",
        "input|target",
    ),
    (
        "a_row_of_zeros_of_a_gradient",
        "made for this corpus: half of a sharded gradient is never gathered",
        {"backward": since(LATE, _half_of_the_rows_of_a_gradient, backward)},
        "param_grad",
        "3.weight|zero|half",
    ),
    (
        "bias_forgotten",
        "made for this corpus: a fused layer that drops its bias in one of its code paths",
        {"forward": _bias_of_the_head_forgotten},
        "output",
        "output|function",
    ),
]
# Twins of these, in loops that are apart by rounding already.
TWINS = {
    "learning_rate_tenth",
    "learning_rate_one_percent_up",
    "weight_decay_appears",
    "evaluation_mode_stays",
    "gradients_not_cleared",
    "layer_frozen",
    "half_of_a_layers_gradient",
    "weight_doubled",
    "optimizer_state_lost",
    "update_skipped",
    "clipping_appears",
    "validated_in_training_mode",
    "labels_shifted",
}
# Other ways to be apart by rounding, each with some of the faults.
FUSED = replace(BASE, optimizer=adamw(fused=True))
BIASED = replace(BASE, model=biased)
WAYS = [
    ("parted", BASE, PARTED, TWINS),
    ("fused", BASE, FUSED, {"learning_rate_one_percent_up", "half_of_a_layers_gradient", "gradients_not_cleared"}),
    (
        "after_a_bias",
        BIASED,
        replace(BIASED, loss=of(by_logsumexp)),
        {"learning_rate_one_percent_up", "half_of_a_layers_gradient", "optimizer_state_lost"},
    ),
]
NARROW = Loop(model=narrow(attention_by_hand), batches=texts)

PAIRS = [
    *(
        wrong(name, "late", source, BASE, replace(BASE, **change), step=LATE, at=quantities, says=words)
        for name, source, change, quantities, words in FAULTS
    ),
    *(
        wrong(
            f"{name}_{way}",
            "late",
            source,
            baseline,
            replace(parted, **change),
            step=LATE,
            at=quantities,
            says=words,
            slack=1,
        )
        for way, baseline, parted, some in WAYS
        for name, source, change, quantities, words in FAULTS
        if name in some
    ),
    wrong(
        "half_of_a_layers_gradient_in_bfloat16",
        "late",
        "made for this corpus: a fault between kernels that differ by bfloat16's rounding",
        NARROW,
        replace(NARROW, model=narrow(sdpa), backward=since(LATE, _halve_gradient_of_the_head, backward)),
        step=LATE,
        at="param_grad",
        says="head.weight|half|0.5|1/2|scaled",
        slack=1,
    ),
    wrong(
        "temperature_a_little_off",
        "late",
        "made for this corpus: logits divided by 1.0005 in steps of which none is checked against float64",
        BASE,
        replace(BASE, forward=since(LATE, lambda t: t.called(t.inputs) / 1.0005, lambda t: t.called(t.inputs))),
        says="output",
        undecided=True,
        inexact="no step is asked of a pair that need not be decided",
    ),
    wrong(
        "momentum_zeroed",
        "late",
        "neuroailab/tfutils #72: the momentum is not in the checkpoint",
        MOMENTUM,
        replace(MOMENTUM, before=at(LATE, _lose_momentum)),
        step=LATE,
        at="state",
        says="momentum",
    ),
    wrong(
        "momentum_switched_off",
        "late",
        "made for this corpus: a schedule of the momentum that reaches its end",
        MOMENTUM,
        replace(MOMENTUM, before=at(LATE, setting("momentum", lambda momentum: 0.0))),
        step=LATE,
        at="state",
        says="momentum",
    ),
    wrong(
        "generator_seeded_again",
        "late",
        "Lightning-AI/pytorch-lightning #20412: seeding makes every epoch draw the same numbers",
        DROPPING,
        replace(DROPPING, before=at(LATE, lambda t: torch.manual_seed(1))),
        step=LATE,
        at="state output",
        says="generator|random",
    ),
    wrong(
        "dropout_switched_off",
        "late",
        "MILVLG/mcan-vqa #26: training goes on in evaluation mode, with dropout",
        DROPPING,
        replace(DROPPING, before=at(LATE, lambda t: t.model.eval())),
        step=LATE,
        at="state output",
        says="eval|mode|dropout|output",
    ),
    wrong(
        "output_gradient_five_percent_up",
        "late",
        "pytorch/pytorch #185509, as the corpus of losses cites it: the forward is right, the gradient is off",
        BASE,
        replace(BASE, loss=_wrong_output_gradient),
        step=LATE,
        at="output_grad",
        says="1.05",
    ),
    wrong(
        "labels_smoothed",
        "late",
        "made for this corpus: a regularisation that is switched on by an epoch's number",
        BASE,
        replace(BASE, loss=_smoothed),
        step=LATE,
        at="loss output_grad",
        says="label smoothing|loss",
    ),
    wrong(
        "decay_of_one_in_ten_thousand",
        "late",
        "facebookresearch/BalancingGroups #6: decay where none was meant",
        NO_DECAY,
        replace(NO_DECAY, before=at(LATE, setting("weight_decay", lambda decay: 1e-4))),
        step=LATE,
        at="state",
        says="weight_decay|weight decay",
    ),
    wrong(
        "another_beta",
        "late",
        "made for this corpus: settings of an optimizer that a callback changes",
        BASE,
        replace(BASE, before=at(LATE, setting("betas", lambda betas: (betas[0], 0.99)))),
        step=LATE,
        at="state",
        says="beta",
    ),
]
