import contextlib
import itertools
import random
import re
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audited_tasks import clamped_huber, huber, marked, marked_branches, marked_mean, marked_sum

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import make_oracle
from parity.observe.audit import oracle_of as criterion_oracle
from parity.observe.contract.checking import ITEMS, STATUSES, check_contract
from parity.plan.loss_spec import parse_losses
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task
from parity.tasks.loading import load_task
from parity.tasks.losses import load_loss

TASKS = {"mse": "mnist-autoencoder", "cross_entropy": "mnist-classifier"}


def loaded(short, text="builtin"):
    (spec,) = parse_losses([text], shipped=SHIPPED_LOSSES)
    return load_loss(spec, load_task(parse_task(TASKS[short])))


def oracle_of(short):
    (spec,) = parse_losses(["builtin"], shipped=SHIPPED_LOSSES)
    return make_oracle(spec, load_task(parse_task(TASKS[short])))


def tensors(short="mse"):
    """Output and target: float32[8, 5] twice, or logits float32[8, 4] and labels int64[8]."""
    generator = torch.Generator().manual_seed(3)
    if short == "mse":
        return torch.rand(8, 5, generator=generator), torch.rand(8, 5, generator=generator)
    return torch.randn(8, 4, generator=generator), torch.randint(4, (8,), generator=generator)


def held(candidate, short="mse", *, baseline=None, oracle=None, pair=None):
    """The outcome of each item, by name."""
    output, target = pair or tensors(short)
    items = check_contract(candidate, baseline or loaded(short), oracle or oracle_of(short), output, target)
    assert tuple(item.name for item in items) == ITEMS
    assert all(item.status in STATUSES and (item.status == "passed") == (item.reason == "") for item in items)
    return {item.name: item for item in items}


def having(status, items):
    return {name for name, item in items.items() if item.status == status}


def says(item, reason):
    """Whether an item begins with this reason, in which "…" stands for anything."""
    return re.match(".*".join(map(re.escape, reason.split("…"))), item.reason) is not None


# Wrong losses, each of which breaks one item


class _MSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return (output - target).square().mean()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx), -grad_output * _right(ctx)


def _right(ctx):
    output, target = ctx.saved_tensors
    return 2 * (output - target) / output.numel()


def mse_with(backward, forward=_MSE.forward):
    """The loss of a Function with a backward of its own."""
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Planted", (torch.autograd.Function,), methods).apply


def per_row(output, target):
    return (output - target).square().mean(dim=1)


def widened(output, target):
    return F.mse_loss(output.double(), target.double())


def moved(output, target):
    return F.mse_loss(output, target).to("meta")


def without_graph(output, target):
    return F.mse_loss(output.detach(), target)


def with_nan_gradient(output, target):
    return F.mse_loss(output, target) + (0 * output).sqrt().sum()


def doubled(output, target):
    return 2 * F.mse_loss(output, target)


grad_output_ignored = mse_with(lambda ctx, grad_output: (_right(ctx), -_right(ctx)))


def _noisy(ctx, grad_output, generator=torch.Generator().manual_seed(0)):  # noqa: B008 - one for all calls
    noise = torch.randint(2, (), generator=generator) * torch.finfo(grad_output.dtype).eps
    return grad_output * _right(ctx) * (1 + 2 * noise), -grad_output * _right(ctx)


def seen_before(output, target, seen=[]):  # noqa: B006 - kept from call to call
    """What it returns is that of the call before, if the shapes are alike."""
    loss = F.mse_loss(output, target)
    seen.append(loss.detach())
    return loss + (seen[-2] - loss.detach() if len(seen) > 1 else 0)


def changes_target(output, target):
    loss = F.mse_loss(output, target.clone())
    with torch.no_grad():
        target.add_(1)
    return loss


def changes_output(output, target):
    loss = F.mse_loss(output.clone(), target)
    output.data.zero_()
    return loss


def _changing_in_backward(ctx, grad_output):
    gradient = _right(ctx)
    ctx.saved_tensors[1].numpy()[...] = 0
    return grad_output * gradient, None


def squeezes_target(output, target):
    loss = F.mse_loss(output, target.clone())
    target.unsqueeze_(0)
    return loss


def draws_from_torch(output, target):
    return F.mse_loss(output, target) + 0 * torch.rand(())


def draws_from_numpy(output, target):
    return F.mse_loss(output, target) + 0 * np.random.rand()


def draws_from_python(output, target):
    return F.mse_loss(output, target) + 0 * random.random()


def seeds_torch(output, target):
    torch.manual_seed(1)
    return F.mse_loss(output, target)


def row_stride_assumed(output, target):
    if output.stride(-1) != 1:
        output = output.contiguous()
    return F.mse_loss(output.as_strided(output.shape, (output.shape[1], 1), output.storage_offset()), target)


def viewed(output, target):
    return F.mse_loss(output.view(-1), target.reshape(-1)) if output.stride(-1) == 1 else F.mse_loss(output, target)


def read_by_rows(output, target):
    if output.stride(0) == 1 and len(output) > 1:
        output = output.t().reshape(output.shape)
    return F.mse_loss(output, target)


def both_strides_of_output(output, target):
    if target.stride(0) == 1 and len(target) > 1:
        target = target.t().reshape(target.shape)
    return F.mse_loss(output, target)


def squeezed(output, target):
    features = output.shape[1]
    output, target = output.squeeze(), target.squeeze()
    return (output - target).square().sum() / features / len(output)


def in_float32(output, target):
    return F.mse_loss(output.float(), target.float()).to(output.dtype)


def never_float64(output, target):
    return F.mse_loss(output.float(), target.float()) if output.dtype == torch.float64 else F.mse_loss(output, target)


def doubled_in_float64(output, target):
    return F.mse_loss(output, target) * (2 if output.dtype == torch.float64 else 1)


def _in_place(ctx, grad_output):
    if not hasattr(ctx, "gradient"):
        ctx.gradient = _right(ctx).detach()
    gradient = ctx.gradient.mul_(grad_output).clone()
    return gradient, -gradient


def powers_of_two(output, target):
    return ((output - target) * 4096).square().sum() / 2**24 / output.numel()


def float32_of_float16(output, target):
    return F.mse_loss(output.float(), target.float()) if output.dtype == torch.float16 else F.mse_loss(output, target)


def doubled_in_bfloat16(output, target):
    return F.mse_loss(output, target) * (2 if output.dtype == torch.bfloat16 else 1)


def divided_by_output(output, target):
    return (output - target).square().sum() / output.numel()


class _FromGlobal(torch.autograd.Function):
    """Mean squared error whose backward reads the tensors of the latest call."""

    @staticmethod
    def forward(ctx, output, kept):
        ctx.kept = kept
        return (output - kept[1]).square().mean()

    @staticmethod
    def backward(ctx, grad_output):
        output, target = (each.detach() for each in ctx.kept)
        return grad_output * 2 * (output - target) / output.numel(), None


def without_nan(output, target):
    return F.mse_loss(torch.where(output.isnan(), 0, output), target)


def without_nan_targets(output, target):
    return torch.where(target.isnan(), 0, output - target).square().mean()


def without_nan_gradient(output, target):
    loss = F.mse_loss(torch.where(output.isnan(), 0, output), target)
    return loss + (F.mse_loss(output, target) - loss).detach()


def saturated(output, target):
    return F.mse_loss(torch.where(output.isinf(), 100, output), target)


def _target_sign(ctx, grad_output):
    return grad_output * _right(ctx), grad_output * _right(ctx)


class _SavedOnClass(torch.autograd.Function):
    saved = ()

    @staticmethod
    def forward(ctx, output, target):
        type(ctx)._forward_cls.saved = (output, target)
        return (output - target).square().mean()

    @staticmethod
    def backward(ctx, grad_output):
        output, target = _SavedOnClass.saved
        gradient = grad_output * 2 * (output - target) / output.numel()
        return gradient, -gradient


def _without_second(ctx, grad_output):
    gradient = (grad_output * _right(ctx)).detach()
    return gradient, -gradient


def _raising(when, error=None):
    def loss(output, target):
        if when(output, target):
            raise error or ValueError("planted")
        return F.mse_loss(output, target)

    return loss


PLANTED = [
    ("scalar", per_row, "returned shape [8], a scalar is needed"),
    ("scalar", lambda output, target: F.mse_loss(output, target).item(), "returned float, a tensor is needed"),
    ("scalar", _raising(lambda output, target: True), "raised ValueError: planted"),
    ("scalar", _raising(lambda output, target: True, SystemExit(3)), "raised SystemExit: 3"),
    ("dtype and device", widened, "returned torch.float64, the output's torch.float32 is needed"),
    ("gradient", without_graph, "the loss has no gradient; a detour through NumPy needs a torch.autograd.Function"),
    (
        "gradient",
        lambda output, target: without_graph(output, target).requires_grad_(),
        "the loss has no gradient for its output, which it must depend on",
    ),
    ("gradient", with_nan_gradient, "40 of 40 gradient elements are not finite"),
    ("gradient", mse_with(lambda ctx, grad_output: 1 / 0), "raised ZeroDivisionError: division by zero"),
    ("gradient", mse_with(lambda ctx, grad_output: sys.exit("planted")), "raised SystemExit: planted"),
    ("repeatable", mse_with(_noisy), "the gradient of equal tensors differs from call to call by …"),
    ("value", doubled, "the gradient is 100 % off, rounding explains … %; ratio 2"),
    (
        "grad_output",
        grad_output_ignored,
        "grad_output is ignored: with 3 the gradient is the same as with 1",
    ),
    (
        "grad_output",
        mse_with(lambda ctx, grad_output: (grad_output * grad_output * _right(ctx), None)),
        "with a grad_output of 3 the gradient is 9 times the one with 1",
    ),
    (
        "grad_output",
        mse_with(lambda ctx, grad_output: ((grad_output if grad_output else 1) * _right(ctx), None)),
        "with a grad_output of 0 the gradient is not zero",
    ),
    ("mutation", changes_target, "changes its target in place; work on a copy, target.clone()"),
    ("mutation", changes_output, "changes its output in place; work on a copy, output.clone()"),
    ("mutation", squeezes_target, "changes its target in place; work on a copy, target.clone()"),
    ("random generators", draws_from_torch, "draws from or seeds torch's global generator"),
    ("random generators", draws_from_numpy, "draws from or seeds NumPy's global generator"),
    ("random generators", draws_from_python, "draws from or seeds Python's global generator"),
    ("random generators", seeds_torch, "draws from or seeds torch's global generator"),
    ("non-contiguous", row_stride_assumed, "with strided rows the loss is nan instead of 0."),
    ("non-contiguous", viewed, "raised RuntimeError: view size is not compatible with input tensor's size and stride"),
    ("transposed", read_by_rows, "with a transposed output the loss is 0.… instead of 0."),
    (
        "transposed",
        both_strides_of_output,
        "with output and target transposed the loss is 0.… instead of 0.",
    ),
    ("one row", squeezed, "the gradient is 80 % off, rounding explains … %; ratio 0.2"),
    ("one row", _raising(lambda output, target: len(output) == 1), "raised ValueError: planted"),
    ("float64", doubled_in_float64, "the gradient is 100 % off, rounding explains …e-15; ratio 2"),
    (
        "gradcheck",
        mse_with(_in_place),
        "a second backward through the same graph gives another gradient",
    ),
    ("float16", powers_of_two, "the gradient is … % off, rounding explains … %"),
    ("bfloat16", doubled_in_bfloat16, "the gradient is 100 % off, rounding explains … %; ratio 2.0"),
    ("NaN", without_nan, "hides a NaN in the output: the loss is 0.…, the baseline's is nan"),
    ("NaN", without_nan_targets, "hides a NaN in the target: the loss is 0.…, the baseline's is nan"),
    ("NaN", _raising(lambda output, target: output.isnan().any(), SystemExit("no")), "raised SystemExit: no"),
    ("inf", saturated, "hides an infinity in the output: the loss is …, the baseline's is inf"),
    (
        "target gradient",
        mse_with(_target_sign),
        "the target's gradient differs from the baseline's by 200 %, rounding explains … %",
    ),
    (
        "two calls before backward",
        _SavedOnClass.apply,
        "the gradient of the first of two calls differs from that of a call alone by … %, rounding explains … %",
    ),
]
LIMITED = [
    ("float64", in_float32, "computes in float32 internally: for float64 tensors it is …e-08 off"),
    ("float64", never_float64, "for float64 tensors it returns torch.float32"),
    ("float64", _raising(lambda output, target: output.dtype == torch.float64), "raised ValueError: planted"),
    ("float16", float32_of_float16, "for torch.float16 tensors it returns torch.float32"),
    ("float16", _raising(lambda output, target: output.dtype == torch.float16), "raised ValueError: planted"),
    ("bfloat16", _raising(lambda output, target: output.dtype == torch.bfloat16), "raised ValueError: planted"),
    ("broadcast", divided_by_output, "for shapes [8, 1] and [8] the loss is 1.…, the baseline's is 0."),
    ("broadcast", _raising(lambda output, target: target.dim() == 1), "raised ValueError: planted"),
    (
        "NaN",
        lambda output, target: torch.linalg.vector_norm(output - target).square() / output.numel(),
        "with a NaN in the output, 40 gradient elements are not finite, 1 with the baseline",
    ),
    ("NaN", without_nan_gradient, "with a NaN in the output, the gradient is finite, up to 0.…, the baseline's is not"),
    (
        "target gradient",
        lambda output, target: F.mse_loss(output, target.detach()),
        "no gradient for the target",
    ),
    (
        "target gradient",
        _raising(lambda output, target: target.requires_grad),
        "with a target that requires a gradient it raised ValueError: planted",
    ),
    ("second derivative", mse_with(_without_second), "no second derivative: the gradient has no graph"),
]


@pytest.mark.parametrize(("item", "loss", "reason"), PLANTED, ids=[item for item, *_ in PLANTED])
def test_a_planted_fault_fails_its_item_and_no_other(item, loss, reason):
    items = held(loss)
    assert having("failed", items) == {item}
    assert says(items[item], reason)


@pytest.mark.parametrize(("item", "loss", "reason"), LIMITED, ids=[item for item, *_ in LIMITED])
def test_what_cannot_affect_the_training_is_a_limit_of_its_item(item, loss, reason):
    items = held(loss)
    assert not having("failed", items)
    assert item in having("limited", items)
    assert says(items[item], reason)


def test_an_error_beside_zero_and_one_that_is_not_finite_are_told_apart():
    def nothing(output, target):
        return (output - target).mul(0).sum()

    items = held(F.mse_loss, baseline=nothing, oracle=criterion_oracle(nothing))
    assert says(items["value"], "the gradient is not zero, as it should be, rounding explains … %")
    assert "nan" not in items["value"].reason

    def spoilt(output, target):
        loss = F.mse_loss(output, target)
        return loss * float("inf") if output.dtype == torch.float16 else loss

    assert says(held(spoilt)["float16"], "the gradient is not finite, rounding explains … %")


def test_each_item_has_a_planted_fault():
    assert {item for item, *_ in PLANTED + LIMITED} == set(ITEMS)
    assert {item for item, *_ in PLANTED} >= set(ITEMS) - {"broadcast", "second derivative"}


def test_a_loss_on_another_device_fails_and_does_not_stop_the_contract():
    items = held(moved)
    assert items["dtype and device"].status == "failed"
    assert items["dtype and device"].reason == "returned a tensor on meta, the output's cpu is needed"
    assert items["value"].reason == 'needs "dtype and device", which failed'


@pytest.mark.parametrize("candidate", [lambda output, target: torch.complex(output, target).sum(), print, seen_before])
def test_whatever_a_loss_returns_it_is_an_item_that_fails(candidate):
    assert having("failed", held(candidate))


def test_a_loss_that_keeps_the_number_of_the_call_before_is_not_repeatable():
    items = held(seen_before)
    assert items["repeatable"].status == "failed"
    assert items["repeatable"].reason.startswith("the loss of equal tensors differs from call to call by ")


def test_what_follows_from_a_failed_item_is_not_asked_for_again():
    items = held(grad_output_ignored)
    assert (items["float16"].status, items["float16"].reason) == (
        "not applicable",
        'needs "grad_output", which failed',
    )


def test_a_target_that_is_changed_in_the_backward_is_a_mutation():
    items = held(mse_with(_changing_in_backward))
    assert items["mutation"].status == "failed"
    assert items["mutation"].reason == "changes its target in place; work on a copy, target.clone()"


def test_a_right_number_with_a_wrong_slope_fails_both_value_and_gradcheck():
    items = held(mse_with(lambda ctx, grad_output: (grad_output * _right(ctx) / 2, None)))
    assert having("failed", items) == {"value", "gradcheck"}
    assert items["gradcheck"].reason.startswith("the gradient is not the slope of the loss: Jacobian mismatch")


def test_a_gradient_of_the_slope_of_a_wrong_number_passes_gradcheck():
    assert held(doubled)["gradcheck"].status == "passed"


def test_a_target_that_learns_in_this_training_needs_its_gradient():
    output, target = tensors()
    items = held(lambda output, target: F.mse_loss(output, target.detach()), pair=(output, target.requires_grad_()))
    assert having("failed", items) == {"target gradient"}
    assert items["target gradient"].reason == "no gradient for the target, which requires one in this training"


# Marks and labels among the targets


def marked_doubled_in_float16(output, target):
    return marked_sum(output, target) * (2 if output.dtype == torch.float16 else 1)


def held_marked(candidate, labels=(0.0, 1.0)):
    generator = torch.Generator().manual_seed(3)
    target = torch.tensor(labels)[torch.randint(len(labels), (8, 64), generator=generator)]
    target[torch.rand(8, 64, generator=generator) < 0.2] = -100
    pair = torch.randn(8, 64, generator=generator), target
    return held(candidate, baseline=marked, oracle=criterion_oracle(marked), pair=pair)


@pytest.mark.parametrize("loss", [marked, marked_sum, marked_branches])
def test_a_mark_among_labels_keeps_its_meaning(loss):
    assert not having("failed", held_marked(loss))


def test_a_mark_among_soft_labels_keeps_its_meaning():
    assert not having("failed", held_marked(marked_sum, labels=(0.1, 0.55, 0.9)))


@pytest.mark.parametrize(("loss", "item"), [(marked_mean, "value"), (marked_doubled_in_float16, "float16")])
def test_a_fault_beside_marks_is_found(loss, item):
    assert having("failed", held_marked(loss)) == {item}


def test_a_nan_that_a_comparison_of_labels_hides_is_a_limit():
    items = held_marked(marked_branches)
    assert having("limited", items) >= {"NaN", "inf"}
    assert items["NaN"].reason.startswith("hides a NaN in the target: the loss is 0.")


def test_numbers_too_large_for_float16_are_a_limit_of_a_loss_that_overflows():
    output, target = tensors()
    pair = output, torch.where(target > 0.9, -6e4, target)

    def baseline(output, target):
        keep = target != -6e4
        return F.mse_loss(output[keep], target[keep])

    def overflowing(output, target):
        keep = target != -6e4
        # The square of a mark is beyond float16, and infinity times 0 is NaN.
        return ((output - target).square() * keep).sum() / keep.sum()

    reference = {"baseline": baseline, "oracle": criterion_oracle(baseline)}
    assert not having("failed", held(baseline, **reference, pair=pair))
    items = held(overflowing, **reference, pair=pair)
    assert not having("failed", items)
    assert (items["float16"].status, items["float16"].reason) == (
        "limited",
        "with numbers of this size it overflows in torch.float16, where the baseline does not",
    )


def test_a_loss_that_is_nan_hides_nothing_by_a_finite_gradient():
    items = held(clamped_huber, baseline=huber, oracle=criterion_oracle(huber))
    assert not having("failed", items)
    assert items["NaN"].status == "limited"
    wrong = held(
        lambda output, target: F.smooth_l1_loss(output, target, beta=0.1),
        baseline=huber,
        oracle=criterion_oracle(huber),
    )
    assert wrong["value"].status == "failed" and wrong["value"].reason.endswith("ratio 10")


def test_a_kink_in_the_target_may_have_another_gradient():
    output, _ = tensors()
    target = torch.randint(2, (8, 5), generator=torch.Generator().manual_seed(3)).float()

    def clamped(output, target):
        return F.mse_loss(output, target.clamp(min=0))  # the gradient of clamp at its bound is 0

    assert held(clamped, pair=(output, target))["target gradient"].status == "passed"
    halved = mse_with(lambda ctx, grad_output: (grad_output * _right(ctx), -grad_output * _right(ctx) / 2))
    assert held(halved, pair=(output, target))["target gradient"].status == "failed"


# Shipped losses


def test_the_baseline_itself_passes_every_item():
    assert having("passed", held(loaded("mse"))) == set(ITEMS)
    assert having("passed", held(loaded("cross_entropy"), "cross_entropy")) == set(ITEMS) - {
        "broadcast",
        "target gradient",
    }


def test_the_numpy_mse_passes_with_its_limits_named():
    items = held(loaded("mse", "numpy"))
    assert {name: item.reason for name, item in items.items() if item.status != "passed"} == {
        "bfloat16": "raised TypeError: Got unsupported ScalarType BFloat16",
        "broadcast": "for shapes [8, 1] and [8] the norm of the gradient is 8 times the baseline's",
        "target gradient": "no gradient for the target",
    }
    assert having("limited", items) == {"bfloat16", "broadcast", "target gradient"}


def test_the_numpy_cross_entropy_passes_with_its_limits_named():
    items = held(loaded("cross_entropy", "numpy"), "cross_entropy")
    assert {name: item.reason for name, item in items.items() if item.status == "limited"} == {
        "bfloat16": "raised TypeError: Got unsupported ScalarType BFloat16",
        "second derivative": "no second derivative: the gradient has no graph",
    }
    assert {name: item.reason for name, item in items.items() if item.status == "not applicable"} == {
        "broadcast": "the target does not have the output's shape and a floating-point dtype",
        "target gradient": "the target is torch.int64, which has no gradient",
    }
    assert not having("failed", items)


# Side effects


@pytest.mark.parametrize(
    "candidate", [draws_from_torch, draws_from_numpy, draws_from_python, seeds_torch, F.mse_loss, per_row]
)
def test_the_global_generators_are_left_as_they_were(candidate):
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = float(torch.rand(())), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    held(candidate)
    assert (float(torch.rand(())), np.random.rand(), random.random()) == expected


@pytest.mark.parametrize("candidate", [changes_target, changes_output, squeezes_target, F.mse_loss])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_given_tensors_are_untouched(candidate, dtype):
    output, target = (side.to(dtype).requires_grad_() for side in tensors())
    before = output.detach().clone(), target.detach().clone()
    held(candidate, pair=(output, target))
    assert torch.equal(output, before[0]) and torch.equal(target, before[1])
    assert output.grad is None and target.grad is None and output.is_leaf and target.shape == (8, 5)


def test_labels_survive_a_baseline_that_writes_to_them():
    output, target = tensors("cross_entropy")

    def writing(output, target):
        loss = F.cross_entropy(output, target.clone())
        target.zero_()
        return loss

    def oracle(output, target):
        writing(output, target)
        return oracle_of("cross_entropy")(output, target)

    kept = target.clone()
    items = held(F.cross_entropy, "cross_entropy", baseline=writing, oracle=oracle, pair=(output, target))
    assert torch.equal(target, kept)
    assert items["mutation"].reason.startswith("the baseline itself does not do this: changes its target in place")


def test_a_loss_that_leaves_gradients_off_does_not_disable_the_contract():
    def switching(output, target):
        loss = F.mse_loss(output, target)
        torch.set_grad_enabled(False)
        return loss

    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        assert having("passed", held(switching)) == set(ITEMS)
        assert torch.is_grad_enabled()


# What the baseline does not do


float16_refused = _raising(lambda output, target: output.dtype == torch.float16)


@pytest.mark.parametrize(
    ("item", "baseline", "reason"),
    [
        ("float16", float16_refused, "raised ValueError: planted"),
        ("gradient", without_graph, "the loss has no gradient; a detour through NumPy needs"),
        ("mutation", changes_target, "changes its target in place"),
        ("random generators", draws_from_numpy, "draws from or seeds NumPy's global generator"),
        ("repeatable", mse_with(_noisy), "the gradient of equal tensors differs from call to call"),
        ("grad_output", grad_output_ignored, "grad_output is ignored"),
        ("target gradient", lambda output, target: F.mse_loss(output, target.detach()), "no gradient for the target"),
        ("second derivative", mse_with(_without_second), "no second derivative"),
    ],
)
def test_what_the_baseline_does_not_do_is_not_asked_of_the_candidate(item, baseline, reason):
    items = held(F.mse_loss, baseline=baseline)
    assert items[item].status == "not applicable"
    assert items[item].reason.startswith(f"the baseline itself does not do this: {reason}")
    assert not having("failed", items)


def test_a_nan_that_the_baseline_hides_may_be_hidden():
    items = held(without_nan, baseline=without_nan)
    assert items["NaN"].status in ("passed", "not applicable")
    assert not having("failed", items)


@pytest.mark.parametrize(
    "error", [OracleUnavailable("in float64 it raised ValueError: planted"), SystemExit("planted")]
)
def test_a_baseline_without_float64_form_leaves_the_value_unjudged(error):
    def oracle(output, target):
        raise error

    items = held(doubled, oracle=oracle)
    assert items["value"].status == "not applicable"
    assert items["value"].reason.startswith("the baseline has no float64 form: in float64 it raised ")
    assert {"scalar", "gradient", "grad_output", "mutation"} <= having("passed", items)


# Limits


def test_a_slow_loss_gets_the_outcomes_of_a_fast_one(monkeypatch):
    kept = []

    def in_a_global(output, target):
        kept[:] = [output, target]
        return _FromGlobal.apply(output, kept)

    fast = held(in_a_global)
    with monkeypatch.context() as patch:
        for clock in ("monotonic", "perf_counter", "time"):
            # An hour later each time that somebody looks.
            patch.setattr(time, clock, itertools.count(step=3600.0).__next__)
        slow = held(in_a_global)
    assert fast == slow
    assert having("failed", slow) == {"two calls before backward"}


def test_a_contract_calls_a_loss_at_most_so_often():
    calls = itertools.count()  # not a list, whose entries the contract would take out again

    def counted(output, target):
        next(calls)
        return F.mse_loss(output, target)

    held(counted, pair=(torch.rand(8, 784), torch.rand(8, 784)))
    assert 200 < next(calls) < 400


def test_what_is_compiled_runs_as_it_is_written():
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    loss = torch.compile(lambda output, target: (output - target).square().mean(), backend=backend)
    assert not having("failed", held(loss))
    assert calls == []


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("short", TASKS)
def test_outputs_of_any_size_fail_no_shipped_loss(short, scale):
    output, target = tensors(short)
    pair = (output * scale, target * scale if short == "mse" else target)
    for name in SHIPPED_LOSSES:
        items = held(loaded(short, name), short, pair=pair)
        assert {name: items[name].reason for name in having("failed", items)} == {}


def test_a_flat_output_and_a_column_of_outputs_are_held_to_the_contract_too():
    output, target = tensors()
    assert not having("failed", held(F.mse_loss, pair=(output[:, 0], target[:, 0])))
    assert held(F.mse_loss, pair=(output[:, 0], target[:, 0]))["transposed"].reason == "the output has one dimension"
    assert not having("failed", held(F.mse_loss, pair=(output[:, :1], target[:, :1])))


def test_an_output_that_equals_its_target_fails_nothing():
    output, _ = tensors()
    items = held(loaded("mse", "numpy"), pair=(output, output.clone()))
    assert not having("failed", items)
