"""Wrong implementations of the mean squared error; each docstring says what is wrong and where the fault comes from.

Shapes: B rows, F features. Steps and calls count from 0: "from step, 5" is right at calls 0 to 4, wrong from call 5 on.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class _MSE(torch.autograd.Function):
    """A right forward; each fault is another backward."""

    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return ((output - target) ** 2).mean()


def _right(ctx):
    """The right gradient for a grad_output of 1."""
    output, target = ctx.saved_tensors
    return 2 * (output - target) / output.numel()


_calls = 0
_kept = {}


def _call():
    """The number of this call, from 0."""
    global _calls
    _calls += 1
    return _calls - 1


# Scaled


class ForgottenTwo(_MSE):
    """The exponent is not brought down: the gradient lacks its factor of 2.

    Cause: scaled, 1/2
    Source: made for this corpus: the habit of 1/2 (o - t)**2, whose derivative is o - t
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx) / 2, None


class CountedTwice(_MSE):
    """The gradients for the output and for the target are both added to the output's.

    Cause: scaled, 2
    Source: pytorch #185509: the forward is right, the gradient is off
    """

    @staticmethod
    def backward(ctx, grad_output):
        for_output, for_target = _right(ctx), -_right(ctx)
        return grad_output * (for_output - for_target), None


def summed_over_batch(output, target):
    """Mean over the features, but sum over the batch.

    Cause: scaled, batch size
    Source: ipex-llm #2079: loss and gradient are not normalised by the batch
    """
    return F.mse_loss(output, target, reduction="none").mean(dim=1).sum()


def summed_over_features(output, target):
    """Sum over the features, mean over the batch.

    Cause: scaled, features
    Source: pytorch #2259: "mean" of KLDivLoss is not "batchmean"
    """
    return F.mse_loss(output, target, reduction="none").sum(dim=1).mean()


def summed(output, target):
    """Sum over everything.

    Cause: scaled, numel
    Source: ipex-llm #2079: sizeAverage=false sums
    """
    return F.mse_loss(output, target, reduction="sum")


def divided_by_batch_again(output, target):
    """The mean is divided by the batch size once more.

    Cause: scaled, 1/batch size
    Source: transformers #34191: normalised a second time
    """
    return F.mse_loss(output, target) / len(output)


class DividedByFeaturesAgain(_MSE):
    """The mean over features is taken in the loss and again in its gradient.

    Cause: scaled, 1/features
    Source: pytorch #2259: mean over the elements where it should be over the batch
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx) / ctx.saved_tensors[0].shape[1], None


def mean_of_mean(output, target):
    """The mean is divided by the number of elements once more.

    Cause: scaled, 1/numel
    Source: made for this corpus: "sum / numel" to which somebody gave reduction="mean"
    """
    return F.mse_loss(output, target, reduction="mean") / output.numel()


class SlightlyScaled(_MSE):
    """A gradient 1.00001 times too large: the least fault that must be seen.

    Cause: scaled, 1.00001
    Source: made for this corpus: the least scale that must be seen
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 1.00001 * _right(ctx), None


class NeverUnscaled(_MSE):
    """A loss scale of 65536, as for mixed precision, that nobody takes out again.

    Cause: scaled, 65536
    Source: made for this corpus: GradScaler.scale without unscale_
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 65536 * _right(ctx), None


def in_pixels(output, target):
    """Differences in pixels of 0 to 255, of which only one factor of 255 is taken out.

    Cause: scaled, 255
    Source: made for this corpus: a change of units that forgets the square
    """
    return (255 * output - 255 * target).square().mean() / 255


# Partial batch


class HardCodedSize(_MSE):
    """Divides by 256 * 784, whatever the batch has.

    Cause: partial batch
    Source: chainer-cifar10 #1: multiplied by args.batchsize, not by the batch's size
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * (output - target) / (256 * 784), None


def remembered_size(output, target):
    """Divides by the number of elements of the first batch.

    Cause: partial batch
    Source: ipex-llm #3021: wrong once the mini-batch's size differs
    """
    numel = _kept.setdefault("numel", output.numel())
    return F.mse_loss(output, target, reduction="sum") / numel


def mean_of_micro_batches(output, target):
    """Mean of the means of micro-batches of 64 rows: right for 256 rows, wrong for 64 + 32.

    Cause: partial batch
    Source: transformers #34191: gradient accumulation averages means of unequal micro-batches
    """
    pairs = zip(output.split(64), target.split(64), strict=True)
    return torch.stack([F.mse_loss(part, wanted) for part, wanted in pairs]).mean()


class WholeTiles(_MSE):
    """Works through tiles of 64 rows and leaves out the rest.

    Cause: partial batch
    Source: made for this corpus: a kernel whose grid is rounded down
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        gradient[len(gradient) // 64 * 64 :] = 0
        return grad_output * gradient, None


# From a step on


class DoubledFromFive(_MSE):
    """Twice the gradient from the fifth call on.

    Cause: from step, 5
    Source: made for this corpus: a warm-up that goes on to 2 where it should end at 1
    """

    @staticmethod
    def forward(ctx, output, target):
        ctx.factor = 1 if _call() < 5 else 2
        return _MSE.forward(ctx, output, target)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.factor * _right(ctx), None


def stale_target_from_seven(output, target):
    """From the seventh call on, the target of the call before is compared with.

    Cause: from step, 7
    Source: made for this corpus: a prefetch buffer that runs over
    """
    if _call() >= 7 and _kept["target"].shape == target.shape:
        before, _kept["target"] = _kept["target"], target.clone()
        return F.mse_loss(output, before)
    _kept["target"] = target.clone()
    return F.mse_loss(output, target)


def growing_scale(output, target):
    """A loss scale that doubles every 6 calls and is not taken out of the gradient.

    Cause: from step, 6
    Source: made for this corpus: growth_interval of a GradScaler without unscale_
    """
    loss = F.mse_loss(output, target)
    scaled = loss * 2.0 ** (_call() // 6)
    return scaled + (loss - scaled).detach()


# Rows, columns, elements


def first_row_skipped(output, target):
    """The loop over rows starts at 1.

    Cause: rows
    Source: made for this corpus: off by one
    """
    return (output[1:] - target[1:]).square().sum() / output.numel()


class EveryOtherRow(_MSE):
    """The row index steps by 2, so odd rows have no gradient.

    Cause: rows
    Source: pytorch #175188: wrong result where a stride is taken for another
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = torch.zeros_like(ctx.saved_tensors[0])
        gradient[::2] = _right(ctx)[::2]
        return grad_output * gradient, None


class _RowNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        norms = (output - target).norm(dim=1)
        ctx.save_for_backward(output, target, norms)
        return norms

    @staticmethod
    def backward(ctx, grad_output):
        output, target, norms = ctx.saved_tensors
        return grad_output[0] * (output - target) / norms[:, None], None


def grad_output_of_first_row(output, target):
    """The backward of a loss per row takes grad_output[0] for each row.

    Cause: rows
    Source: Liger-Kernel #968 and #1298: reduction="none" uses grad_output[0]
    """
    return _RowNorms.apply(output, target).square().sum() / output.numel()


class LastRowUnwritten(_MSE):
    """The last row of the gradient is never written and stays zero.

    Cause: rows
    Source: made for this corpus: range(len(output) - 1)
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        gradient[-1] = 0
        return grad_output * gradient, None


def last_column_skipped(output, target):
    """The last feature is left out.

    Cause: columns
    Source: made for this corpus: [:, :-1] for [:, :]
    """
    return (output[:, :-1] - target[:, :-1]).square().sum() / output.numel()


class WholeColumnTiles(_MSE):
    """Works through tiles of 256 features, and 784 is no multiple of it.

    Cause: columns
    Source: made for this corpus: a kernel without a mask for the tail
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        gradient[:, gradient.shape[1] // 256 * 256 :] = 0
        return grad_output * gradient, None


def inked_pixels(output, target):
    """Only where the target is not 0, though the mean is over all elements.

    Cause: elements
    Source: sockeye #200: the mask is the wrong way round
    """
    return torch.where(target != 0, output - target, 0).square().sum() / output.numel()


def clipped_difference(output, target):
    """Differences are clipped to 0.4, so the gradient is zero where it should be largest.

    Cause: elements
    Source: deep_q_rl #46: gradient zero when diff is clipped
    """
    return (output - target).clamp(-0.4, 0.4).square().mean()


def clipped_output(output, target):
    """The output is clipped to 0.05 to 0.95, which cuts the gradient outside.

    Cause: elements
    Source: tensorflow/addons #693: lost gradient after clipping
    """
    return F.mse_loss(output.clamp(0.05, 0.95), target)


class OneElement(_MSE):
    """The gradient of one element in 200,704 is zero.

    Cause: elements
    Source: made for this corpus: the least part that can be missing
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        gradient[0, 0] = 0
        return grad_output * gradient, None


# Sign, zero, detached


class SignFlipped(_MSE):
    """Target minus output in the gradient: it climbs.

    Cause: sign
    Source: pytorch/vision #8519: reported as a missing -1
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * (target - output) / output.numel(), None


def maximised(output, target):
    """A score to be maximised, handed over as a loss.

    Cause: sign
    Source: made for this corpus: the minus of "negative mean squared error"
    """
    return -F.mse_loss(output, target)


class Zero(_MSE):
    """No gradient at all, though one is returned and the loss is right.

    Cause: zero
    Source: DirectML #739 and #740: right loss, zero gradient
    """

    @staticmethod
    def backward(ctx, grad_output):
        return torch.zeros_like(ctx.saved_tensors[0]), None


def quantised(output, target):
    """The output is rounded to 1/255, and the gradient of rounding is zero.

    Cause: zero
    Source: made for this corpus: round() without a straight-through estimator
    """
    return F.mse_loss((output * 255).round() / 255, target)


def numpy_detour(output, target):
    """A detour through NumPy without a Function: the loss has no graph.

    Cause: detached
    Source: made for this corpus: detach().numpy() in a loss
    """
    difference = output.detach().numpy() - target.numpy()
    return torch.tensor(np.mean(difference**2), dtype=output.dtype)


def fresh_leaf(output, target):
    """The loss is made a leaf that requires a gradient, which stops the error message and trains nothing.

    Cause: detached
    Source: accelerate #2665: parameters are never updated
    """
    return F.mse_loss(output.detach(), target).requires_grad_()


# Permuted


class RowsReversed(_MSE):
    """The rows of the gradient come in reverse.

    Cause: permuted
    Source: made for this corpus: a stack that is popped
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx).flip(0), None


class RowsRolled(_MSE):
    """Each row gets the gradient of the row before.

    Cause: permuted
    Source: made for this corpus: a double buffer that is read one too late
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx).roll(1, dims=0), None


class ColumnMajor(_MSE):
    """The gradient is written column by column and read row by row.

    Cause: permuted
    Source: Torch-FL #171: kernels ignore strides, wrong gradients on transposed tensors
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        return grad_output * gradient.t().reshape(gradient.shape), None


class ColumnsReversed(_MSE):
    """Each row of the gradient is mirrored.

    Cause: permuted
    Source: made for this corpus: a negative stride lost on the way
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx).flip(1), None


# Offset


def epsilon_in_difference(output, target):
    """A small number is added to each difference "for stability".

    Cause: offset
    Source: made for this corpus: as in torch.nn.PairwiseDistance, whose eps is added to the difference
    """
    return (output - target + 1e-3).square().mean()


class EpsilonInGradient(_MSE):
    """A small number is added to each element of the gradient.

    Cause: offset
    Source: made for this corpus: an epsilon in the wrong place
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * (_right(ctx) + 1e-8), None


# Precision


def in_float16(output, target):
    """All of it in float16: most of the gradient is subnormal.

    Cause: precision, float16
    Source: chainer #6702 and pytorch #29429: reduction in float16
    """
    return F.mse_loss(output.half(), target.half()).to(output.dtype)


def in_bfloat16(output, target):
    """All of it in bfloat16.

    Cause: precision, bfloat16
    Source: made for this corpus: autocast that reaches into the loss
    """
    return F.mse_loss(output.bfloat16(), target.bfloat16()).to(output.dtype)


class SavedInBfloat16(torch.autograd.Function):
    """The tensors are saved for backward in bfloat16, to halve the memory.

    Cause: precision, bfloat16
    Source: made for this corpus: compressed activations
    """

    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output.bfloat16(), target.bfloat16())
        return ((output - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        output, target = (saved.to(grad_output.dtype) for saved in ctx.saved_tensors)
        return grad_output * 2 * (output - target) / output.numel(), None


def _tf32(tensor):
    """Rounded to the 10 bits of TF32's fraction; float32."""
    return ((tensor.float().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class InTF32(_MSE):
    """The differences of the gradient have TF32's 10 bits.

    Cause: precision, TF32
    Source: made for this corpus: allow_tf32 in a fused kernel
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        difference = _tf32(output) - _tf32(target)
        return (grad_output * 2 * difference / output.numel()).to(output.dtype), None


# Random


def with_dropout(output, target):
    """Dropout on the differences that is never switched off.

    Cause: random
    Source: made for this corpus: F.dropout, whose training defaults to True
    """
    return F.dropout(output - target, 0.1).square().mean()


def with_numpy_noise(output, target):
    """Noise from NumPy's global generator on the target.

    Cause: random
    Source: made for this corpus: augmentation inside the loss
    """
    noise = torch.from_numpy(np.random.normal(0, 0.01, tuple(target.shape))).to(target.dtype)
    return F.mse_loss(output, target + noise)


def with_random_row(output, target):
    """A row chosen by Python's generator is left out.

    Cause: random
    Source: made for this corpus: subsampling inside the loss
    """
    weights = torch.ones(len(output), 1, dtype=output.dtype)
    weights[random.randrange(len(output))] = 0
    return ((output - target).square() * weights).sum() / output.numel()


class StochasticRounding(_MSE):
    """The gradient gets relative noise from a generator of its own.

    Cause: random
    Source: made for this corpus: stochastic rounding with a step far too coarse
    """

    _generator = torch.Generator().manual_seed(0)

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        noise = torch.rand(gradient.shape, generator=StochasticRounding._generator, dtype=gradient.dtype)
        return grad_output * gradient * (1 + (noise - 0.5) / 256), None


# Mutation


def difference_into_output(output, target):
    """The difference is written over the output, whose values the sigmoid's backward needs.

    Cause: mutates, output
    Source: Liger-Kernel #254: works in place
    """
    loss = _SavedDifference.apply(output, target)
    output.detach().numpy()[...] -= target.numpy()
    return loss


class _SavedDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output - target)
        return ((output - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        (difference,) = ctx.saved_tensors
        return grad_output * 2 * difference / difference.numel(), None


def binarised_target(output, target):
    """The target, which is also the model's input, is rounded to 0 and 1 in place after the loss.

    Cause: mutates, target
    Source: made for this corpus: np.round with out= the target's own memory
    """
    loss = _SavedDifference.apply(output, target)
    array = target.numpy()
    np.round(array, out=array)
    return loss


# Report


def tripled_report(output, target):
    """Three times the number, with a right gradient that is summed by rows.

    Cause: report
    Source: made for this corpus: the report of three accumulated steps
    """
    loss = ((output - target) / output.shape[1] ** 0.5).square().sum(dim=1).mean()
    return loss + 2 * loss.detach()


class StaleReport(torch.autograd.Function):
    """The number of the call before, with a right gradient.

    Cause: report
    Source: made for this corpus: an asynchronous copy that is not waited for
    """

    _last = None

    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output / output.numel(), target / output.numel())
        loss = ((output - target) ** 2).mean()
        last, StaleReport._last = StaleReport._last, loss.clone()
        return loss if last is None or last.dtype != loss.dtype else last

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * (output - target), None


# Another loss


def absolute(output, target):
    """Mean absolute error.

    Cause: other loss, L1
    Source: made for this corpus: the neighbour in the menu
    """
    return F.l1_loss(output, target)


def huber(output, target):
    """Huber's loss with delta 0.1.

    Cause: other loss, Huber
    Source: made for this corpus: a "robust" replacement
    """
    return F.huber_loss(output, target, delta=0.1)


def smooth_absolute(output, target):
    """Smooth L1 with beta 0.3.

    Cause: other loss, smooth L1
    Source: made for this corpus: the neighbour in the menu
    """
    return F.smooth_l1_loss(output, target, beta=0.3)


def log_cosh(output, target):
    """Mean of log cosh of the difference.

    Cause: other loss, log-cosh
    Source: made for this corpus: a "robust" replacement
    """
    return torch.log(torch.cosh(output - target)).mean()


def binary_cross_entropy(output, target):
    """Binary cross-entropy, the other common loss of an autoencoder.

    Cause: other loss, BCE
    Source: made for this corpus: the other common loss of this autoencoder
    """
    return F.binary_cross_entropy(output.clamp(0, 1), target.clamp(0, 1))


def root_mean_square(output, target):
    """The root of the mean squared error: a scale that changes from step to step.

    Cause: other loss, RMSE
    Source: keras #1172: root_mean_squared_error
    """
    return F.mse_loss(output, target).sqrt()


def every_pair(output, target):
    """Each row of the output is compared with each row of the target, as broadcasting does.

    Cause: other loss
    Source: pytorch #16045 and #19699: (N, 1) broadcast against (N,)
    """
    pairs = output.square().sum(dim=1)[:, None] + target.square().sum(dim=1) - 2 * output @ target.t()
    return pairs.mean() / output.shape[1]


# NaN


def masked_where(output, target):
    """Relative error where there is ink, and 0 / 0 in the branch that is not taken.

    Cause: nan
    Source: pytorch #121416: NaN gradient of a masked tensor
    """
    difference = output - target
    return torch.where(target > 0, difference.square() / target * target, difference.square()).mean()


def standardised(output, target):
    """Differences by the spread of their feature, which is 0 for pixels that are never inked.

    Cause: nan
    Source: made for this corpus: division by a standard deviation without an epsilon
    """
    return ((output - target) / target.std(dim=0, correction=0)).square().mean()


def root_with_no_weight(output, target):
    """A root that is 0 where there is no ink, and its infinite derivative there, both times 0.

    Cause: nan
    Source: mmrotate #205: the gradient of sqrt at 0
    """
    return (output - target).square().mean() + 0 * (output * target).sqrt().mean()


# grad_output


class GradOutputIgnored(_MSE):
    """What comes after the loss has no effect on its gradient.

    Cause: grad_output
    Source: pytorch #21961 and chainer #1175: grad_output ignored
    """

    @staticmethod
    def backward(ctx, grad_output):
        return _right(ctx), None


class GradOutputSquared(_MSE):
    """grad_output is multiplied in twice.

    Cause: grad_output
    Source: made for this corpus: scaled in the kernel and again by its caller
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx) * grad_output, None


class GradOutputUnlessZero(_MSE):
    """A grad_output of 0 counts as none given.

    Cause: grad_output
    Source: made for this corpus: `grad_output or 1`
    """

    @staticmethod
    def backward(ctx, grad_output):
        return (grad_output if grad_output else 1) * _right(ctx), None


class GradOutputClipped(_MSE):
    """grad_output is clipped to 1.

    Cause: grad_output
    Source: made for this corpus: gradient clipping inside the loss
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.clamp(max=1) * _right(ctx), None


# Contract


class Memoised(torch.autograd.Function):
    """A gradient that was met before is taken from a cache and added to.

    Cause: contract, repeatable
    Source: made for this corpus: a cache that hands out its own buffer
    """

    @staticmethod
    def forward(ctx, output, target):
        difference = output.detach() - target
        gradient = _kept.setdefault(hash(difference.double().numpy().tobytes()), torch.zeros_like(difference))
        gradient += 2 * difference / difference.numel()
        ctx.gradient = gradient.clone()
        return difference.square().mean()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.gradient, None


def row_stride_assumed(output, target):
    """Rows are taken to lie F apart if the last stride is 1.

    Cause: contract, non-contiguous
    Source: TransformerEngine #2734: stride guard misses non-contiguous input
    """
    if output.stride(-1) != 1:
        output = output.contiguous()
    return F.mse_loss(output.as_strided(output.shape, (output.shape[1], 1), output.storage_offset()), target)


class MemoryOrder(torch.autograd.Function):
    """Flattens in the order of the memory, and unflattens by rows.

    Cause: contract, transposed
    Source: Torch-FL #171: silent wrong gradients on transposed inputs
    """

    @staticmethod
    def forward(ctx, output, target):
        columns_first = output.stride(0) == 1 and output.shape[0] > 1
        ctx.shape = output.shape
        flat_output, flat_target = (x.t().reshape(-1) if columns_first else x.reshape(-1) for x in (output, target))
        ctx.save_for_backward(flat_output - flat_target)
        return (flat_output - flat_target).square().mean()

    @staticmethod
    def backward(ctx, grad_output):
        (difference,) = ctx.saved_tensors
        return grad_output * (2 * difference / difference.numel()).reshape(ctx.shape), None


def squeezed(output, target):
    """A batch of one row is squeezed to a vector, whose length then counts as its rows.

    Cause: contract, one row
    Source: made for this corpus: squeeze() without dim
    """
    features = output.shape[1]
    output, target = output.squeeze(), target.squeeze()
    return (output - target).square().sum() / features / len(output)


def powers_of_two(output, target):
    """Scales by 2**12 and back: exact in float32, beyond float16's range.

    Cause: contract, float16
    Source: chainer #6702: float16 overflows in the reduction
    """
    return ((output - target) * 4096).square().sum() / 2**24 / output.numel()


class TwoByteIsFloat16(torch.autograd.Function):
    """Reads each dtype of two bytes as float16.

    Cause: contract, bfloat16
    Source: made for this corpus: a kernel that is chosen by the element's size
    """

    @staticmethod
    def forward(ctx, output, target):
        if output.element_size() == 2:
            output, target = (x.contiguous().view(torch.float16).to(x.dtype) for x in (output, target))
        ctx.save_for_backward(output, target)
        return ((output - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx), None


def without_nan(output, target):
    """NaN in the output counts as 0.

    Cause: contract, NaN
    Source: made for this corpus: nan_to_num against crashes
    """
    return F.mse_loss(torch.where(output.isnan(), 0, output), target)


def finite_only(output, target):
    """An infinite difference counts as a large one.

    Cause: contract, inf
    Source: made for this corpus: a guard against overflow
    """
    difference = output - target
    return torch.where(difference.isinf(), 100, difference).square().mean()


class SavedOnClass(torch.autograd.Function):
    """What backward needs is kept on the class, so a second call overwrites the first one's.

    Cause: contract, two calls before backward
    Source: made for this corpus: as warned of in pytorch #58509 (intermediates beside save_for_backward)
    """

    _saved = None

    @staticmethod
    def forward(ctx, output, target):
        SavedOnClass._saved = (output.detach() - target) * 2 / output.numel()
        return ((output - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * SavedOnClass._saved, None


def seeds_torch(output, target):
    """Seeds torch's generator anew at each call, "for reproducibility".

    Cause: contract, random generators
    Source: made for this corpus: manual_seed in a library
    """
    torch.manual_seed(1234)
    return F.mse_loss(output, target)


def draws_from_numpy(output, target):
    """Draws a number from NumPy's generator to decide on a print that is never made.

    Cause: contract, random generators
    Source: made for this corpus: sampled logging
    """
    loss = F.mse_loss(output, target)
    if np.random.rand() > 2:
        print(float(loss))
    return loss


class Sampled(nn.Module):
    """Draws rows with Python's generator: all of them, and then in order.

    Cause: contract, random generators
    Source: made for this corpus: random.sample in a loss
    """

    def forward(self, output, target):
        rows = sorted(random.sample(range(len(output)), len(output)))
        return F.mse_loss(output[rows], target[rows])


# Raised


def unreduced(output, target):
    """A number per row.

    Cause: raised
    Source: made for this corpus: reduction="none" left in
    """
    return F.mse_loss(output, target, reduction="none").mean(dim=1)


def widened(output, target):
    """A float64 loss for a float32 output.

    Cause: raised
    Source: made for this corpus: .double() not undone
    """
    return F.mse_loss(output.double(), target.double())


def fixed_view(output, target):
    """Reshapes to 256 rows, which the last batch of an epoch has not.

    Cause: raised
    Source: made for this corpus: a hard-coded batch size in a view
    """
    return (output - target).view(256, 28, 28).square().mean()


def plain_number(output, target):
    """A Python float.

    Cause: raised
    Source: made for this corpus: .item() in the loss
    """
    return F.mse_loss(output, target).item()


class FlatGradient(_MSE):
    """A gradient of another shape than the output.

    Cause: raised
    Source: made for this corpus: a flattened buffer that is returned as it is
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx).reshape(-1), None


def overwrites_sigmoid(output, target):
    """Subtracts in place, which autograd notices when the sigmoid wants its output back.

    Cause: mutates, output
    Source: made for this corpus: output.sub_(target)
    """
    return output.sub_(target).square().mean()
