"""Wrong implementations of mean cross-entropy; each docstring says what is wrong and where the fault comes from.

Shapes: B rows, C classes. Steps and calls count from 0: "from step, 5" is right at calls 0 to 4, wrong from call 5 on.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class _CrossEntropy(torch.autograd.Function):
    """A right forward; each fault is another backward."""

    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return F.cross_entropy(output, target)


def _right(ctx):
    """The right gradient for a grad_output of 1."""
    output, target = ctx.saved_tensors
    return (F.softmax(output, dim=1) - _one_hot(output, target)) / len(output)


def _one_hot(output, target):
    return F.one_hot(target, output.shape[1]).to(output.dtype)


_calls = 0
_kept = {}


def _call():
    """The number of this call, from 0."""
    global _calls
    _calls += 1
    return _calls - 1


# Scaled


def summed_over_batch(output, target):
    """Sum over the batch.

    Cause: scaled, batch size
    Source: ipex-llm #2079: loss and gradient are not normalised by the batch
    """
    return F.cross_entropy(output, target, reduction="sum")


def broadcast_and_summed(output, target):
    """(B, 1) minus (B,) is (B, B), and its sum is divided by B once.

    Cause: scaled, batch size
    Source: pytorch #16045 and #19699: (N, 1) broadcast against (N,)
    """
    picked = output.gather(1, target[:, None])
    return (output.logsumexp(dim=1) - picked).sum() / len(output)


def divided_by_batch_again(output, target):
    """The mean is divided by the batch size once more.

    Cause: scaled, 1/batch size
    Source: transformers #34191: normalised a second time
    """
    return F.cross_entropy(output, target) / len(output)


def mean_over_elements(output, target):
    """Divergence from the one-hot labels, its mean taken over all elements.

    Cause: scaled, 1/classes
    Source: pytorch #2259: "mean" of KLDivLoss is not "batchmean"
    """
    return -(F.log_softmax(output, dim=1) * _one_hot(output, target)).mean()


def weighted_by_classes(output, target):
    """Each class weighs C, and the weights do not enter the divisor.

    Cause: scaled, classes
    Source: pytorch #69339: weight and the divisor of the mean
    """
    weight = torch.full((output.shape[1],), float(output.shape[1]), dtype=output.dtype)
    return F.cross_entropy(output, target, weight=weight, reduction="sum") / len(output)


def mean_of_sum_over_elements(output, target):
    """A mean over rows that is divided by the number of logits.

    Cause: scaled, 1/numel
    Source: made for this corpus: loss.mean() / logits.numel()
    """
    return F.cross_entropy(output, target) / output.numel()


def in_bits(output, target):
    """Logarithms to base 2.

    Cause: scaled, 1.442695
    Source: made for this corpus: log2 for log
    """
    return F.cross_entropy(output, target) / np.log(2)


class Halved(_CrossEntropy):
    """Averaged with a second term that has no gradient.

    Cause: scaled, 1/2
    Source: pytorch #185509: the forward is right, the gradient is off
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 0.5 * _right(ctx), None


class SlightlyScaled(_CrossEntropy):
    """A gradient 1.00001 times too large.

    Cause: scaled, 1.00001
    Source: made for this corpus: the least scale that must be seen
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 1.00001 * _right(ctx), None


# Partial batch


class HardCodedSize(_CrossEntropy):
    """Divides by 256, whatever the batch has.

    Cause: partial batch
    Source: chainer-cifar10 #1: multiplied by args.batchsize, not by the batch's size
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * (F.softmax(output, dim=1) - _one_hot(output, target)) / 256, None


def mean_of_micro_batches(output, target):
    """Mean of the means of micro-batches of 64 rows: right for 256 rows, wrong for 64 + 32.

    Cause: partial batch
    Source: transformers #34191: gradient accumulation averages means of unequal micro-batches
    """
    pairs = zip(output.split(64), target.split(64), strict=True)
    return torch.stack([F.cross_entropy(part, labels) for part, labels in pairs]).mean()


def padded(output, target):
    """A batch of less than 64 * n rows is padded, and the padding counts in the mean.

    Cause: partial batch
    Source: eladhoffer/utils.pytorch #4: padding is counted in the denominator
    """
    padding = -len(output) % 64
    losses = F.cross_entropy(output, target, reduction="none")
    return F.pad(losses, (0, padding)).mean()


# From a step on


class SignFlippedFromFive(_CrossEntropy):
    """Climbs from the fifth call on.

    Cause: from step, 5
    Source: made for this corpus: a schedule that passes through zero
    """

    @staticmethod
    def forward(ctx, output, target):
        ctx.factor = 1 if _call() < 5 else -1
        return _CrossEntropy.forward(ctx, output, target)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.factor * _right(ctx), None


def smoothed_from_seven(output, target):
    """Label smoothing begins at the seventh call.

    Cause: from step, 7
    Source: made for this corpus: a schedule that should be off
    """
    return F.cross_entropy(output, target, label_smoothing=0.1 if _call() >= 7 else 0.0)


# Rows, columns, elements


def label_zero_ignored(output, target):
    """Label 0 is taken for padding; the divisor is that of all rows.

    Cause: rows
    Source: Liger-Kernel #262 and #974: ignore_index
    """
    return F.cross_entropy(output, target, ignore_index=0, reduction="sum") / len(output)


def last_row_skipped(output, target):
    """Labels are shifted as for a language model, and the last row is lost.

    Cause: rows
    Source: made for this corpus: logits[:-1] without the shift of the labels
    """
    return F.cross_entropy(output[:-1], target[:-1], reduction="sum") / len(output)


class _Probability(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        probabilities = F.softmax(output, dim=1)
        picked = probabilities.gather(1, target[:, None])[:, 0]
        ctx.save_for_backward(probabilities, target, picked)
        return picked

    @staticmethod
    def backward(ctx, grad_output):
        probabilities, target, picked = ctx.saved_tensors
        return grad_output[0] * picked[:, None] * (_one_hot(probabilities, target) - probabilities), None


def grad_output_of_first_row(output, target):
    """The backward of a probability per row takes grad_output[0] for each row.

    Cause: rows
    Source: Liger-Kernel #968 and #1298: reduction="none" uses grad_output[0]
    """
    return -_Probability.apply(output, target).log().mean()


class ConfidentRowsSkipped(_CrossEntropy):
    """Rows whose label is already likely get no gradient.

    Cause: rows
    Source: made for this corpus: hard example mining left on
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        picked = F.softmax(output, dim=1).gather(1, target[:, None])
        return grad_output * torch.where(picked > 0.12, 0, _right(ctx)), None


class LastClassUnwritten(_CrossEntropy):
    """The last class gets no gradient.

    Cause: columns
    Source: made for this corpus: range(classes - 1)
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        gradient[:, -1] = 0
        return grad_output * gradient, None


def background_detached(output, target):
    """Class 0 is background, whose logit takes part and learns nothing.

    Cause: columns
    Source: made for this corpus: a reference class that is held fixed
    """
    return F.cross_entropy(torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1), target)


class WholeClassTiles(_CrossEntropy):
    """Works through tiles of 4 classes, and 10 is no multiple of it.

    Cause: columns
    Source: made for this corpus: a kernel without a mask for the tail
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        gradient[:, gradient.shape[1] // 4 * 4 :] = 0
        return grad_output * gradient, None


class LabelNotSubtracted(_CrossEntropy):
    """The 1 at the label is not subtracted from the softmax.

    Cause: elements
    Source: made for this corpus: softmax - onehot without the onehot
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, _ = ctx.saved_tensors
        return grad_output * F.softmax(output, dim=1) / len(output), None


class OnlyAtLabel(_CrossEntropy):
    """Only the label's own logit gets a gradient.

    Cause: elements
    Source: made for this corpus: the log-sum-exp is taken for a constant
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * _right(ctx) * _one_hot(output, target), None


def clipped_logits(output, target):
    """Logits are clipped to -0.2 to 0.2, which cuts the gradient outside.

    Cause: elements
    Source: tensorflow/addons #693: lost gradient after clipping
    """
    clipped = output.clamp(-0.2, 0.2)
    return F.cross_entropy(clipped + (output - clipped).detach(), target)


class OneElement(_CrossEntropy):
    """The gradient of one logit is zero.

    Cause: elements
    Source: made for this corpus: the least part that can be missing
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        gradient[0, 0] = 0
        return grad_output * gradient, None


class FirstOfEachLabel(_CrossEntropy):
    """The 1 is subtracted once per label that occurs: the scatter drops those that repeat.

    Cause: elements
    Source: made for this corpus: fancy assignment with repeated indices
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        labels, first = np.unique(target.numpy(), return_index=True)
        gradient = F.softmax(output, dim=1)
        gradient[first, labels] -= 1
        return grad_output * gradient / len(output), None


# Sign, zero, detached


def minus_forgotten(output, target):
    """The mean log-likelihood, without its minus.

    Cause: sign
    Source: pytorch/vision #8519: reported as a missing -1
    """
    return F.log_softmax(output, dim=1).gather(1, target[:, None]).mean()


class SignFlipped(_CrossEntropy):
    """Onehot minus softmax: right loss, climbing gradient.

    Cause: sign
    Source: made for this corpus: onehot - softmax
    """

    @staticmethod
    def backward(ctx, grad_output):
        return -grad_output * _right(ctx), None


def zero(output, target):
    """The right loss with a gradient of zero.

    Cause: zero
    Source: DirectML #739 and #740: right loss, zero gradient
    """
    return F.cross_entropy(output.detach(), target) + 0 * output.sum()


def fresh_leaf(output, target):
    """The loss is made a new tensor that requires a gradient.

    Cause: detached
    Source: accelerate #2665: parameters are never updated
    """
    return torch.tensor(F.cross_entropy(output, target).item(), dtype=output.dtype, requires_grad=True)


def without_graph(output, target):
    """Evaluated under no_grad, as for validation.

    Cause: detached
    Source: made for this corpus: a validation function reused for training
    """
    with torch.no_grad():
        return F.cross_entropy(output, target)


# Permuted


class RowsReversed(_CrossEntropy):
    """The rows of the gradient come in reverse.

    Cause: permuted
    Source: made for this corpus: a stack that is popped
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx).flip(0), None


class ColumnMajor(_CrossEntropy):
    """The gradient is written class by class and read row by row.

    Cause: permuted
    Source: Torch-FL #171: softmax kernels ignore strides, silent wrong gradients
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        return grad_output * gradient.t().reshape(gradient.shape), None


class ClassesRolled(_CrossEntropy):
    """Each class gets the gradient of the class before.

    Cause: permuted
    Source: made for this corpus: labels from 1 against labels from 0
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * _right(ctx).roll(1, dims=1), None


class SortedByLabel(_CrossEntropy):
    """Rows are sorted by label for the computation and not sorted back.

    Cause: permuted
    Source: made for this corpus: argsort without its inverse
    """

    @staticmethod
    def backward(ctx, grad_output):
        _, target = ctx.saved_tensors
        return grad_output * _right(ctx)[target.argsort(stable=True)], None


# Offset


def logit_mean_penalised(output, target):
    """A penalty on the mean of the logits, meant for another model.

    Cause: offset
    Source: made for this corpus: a regulariser left in
    """
    return F.cross_entropy(output, target) + 0.01 * output.mean()


class EpsilonInGradient(_CrossEntropy):
    """A small number is added to each element of the gradient.

    Cause: offset
    Source: made for this corpus: an epsilon in the wrong place
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * (_right(ctx) + 1e-6), None


# Precision


def in_float16(output, target):
    """All of it in float16.

    Cause: precision, float16
    Source: pytorch #29429: NLLLoss in float16
    """
    return F.cross_entropy(output.half(), target).to(output.dtype)


def in_bfloat16(output, target):
    """All of it in bfloat16.

    Cause: precision, bfloat16
    Source: made for this corpus: autocast that reaches into the loss
    """
    return F.cross_entropy(output.bfloat16(), target).to(output.dtype)


class InTF32(_CrossEntropy):
    """The gradient is rounded to TF32's 10 bits.

    Cause: precision, TF32
    Source: made for this corpus: allow_tf32 in a fused kernel
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx).float().contiguous()
        rounded = ((gradient.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
        return grad_output * rounded.to(grad_output.dtype), None


# Random


def with_noise(output, target):
    """Noise on the logits from torch's global generator.

    Cause: random
    Source: made for this corpus: Gumbel noise left in
    """
    return F.cross_entropy(output + 0.01 * torch.randn(output.shape, dtype=output.dtype), target)


def with_wrong_labels(output, target):
    """Python's generator gives one row another label.

    Cause: random
    Source: made for this corpus: label noise as an augmentation
    """
    labels = target.clone()
    row = random.randrange(len(labels))
    labels[row] = (labels[row] + 1) % output.shape[1]
    return F.cross_entropy(output, labels)


class WithNumpyDropout(_CrossEntropy):
    """Elements of the gradient are dropped by a generator of its own.

    Cause: random
    Source: made for this corpus: gradient dropout left in
    """

    _generator = np.random.default_rng(0)

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        kept = torch.from_numpy(WithNumpyDropout._generator.random(tuple(gradient.shape)) > 0.05)
        return grad_output * gradient * kept / 0.95, None


# Mutation


class GradientIntoLogits(torch.autograd.Function):
    """The gradient is written over the logits, to save memory.

    Cause: mutates, output
    Source: Liger-Kernel #254: cross-entropy works in place
    """

    @staticmethod
    def forward(ctx, output, target):
        loss = F.cross_entropy(output, target)
        gradient = (F.softmax(output, dim=1) - _one_hot(output, target)) / len(output)
        output.data.copy_(gradient)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.saved_tensors[0], None


def labels_from_one(output, target):
    """Labels are counted from 1 after the loss, in place.

    Cause: mutates, target
    Source: made for this corpus: target += 1 for a report
    """
    loss = F.cross_entropy(output, target.clone())
    target.data.add_(1)
    return loss


# Report


class ReportInBits(_CrossEntropy):
    """The number is in bits; the gradient, in nats, comes from another formula.

    Cause: report
    Source: made for this corpus: a report in another unit
    """

    @staticmethod
    def forward(ctx, output, target):
        return _CrossEntropy.forward(ctx, output, target) / float(np.log(2))

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        gradient = torch.exp(output - output.logsumexp(dim=1, keepdim=True)) / len(output)
        return grad_output * (gradient - _one_hot(output, target) / len(output)), None


def report_of_first_row(output, target):
    """The number is the first row's, the gradient that of the mean.

    Cause: report
    Source: made for this corpus: losses[0] in a log
    """
    losses = output.logsumexp(dim=1) - output.gather(1, target[:, None])[:, 0]
    mean = losses.mean()
    return losses[0].detach() + (mean - mean.detach())


# Another loss


def label_smoothing(output, target):
    """A label smoothing of 0.1.

    Cause: other loss, label smoothing
    Source: pytorch #73205: label_smoothing
    """
    return F.cross_entropy(output, target, label_smoothing=0.1)


def focal(output, target):
    """Focal loss with gamma 2.

    Cause: other loss, focal
    Source: pytorch/vision #8519 and clcarwin/focal_loss_pytorch #16: focal losses
    """
    log_probability = F.log_softmax(output, dim=1).gather(1, target[:, None])
    return -((1 - log_probability.exp()) ** 2 * log_probability).mean()


def hinge(output, target):
    """Multi-class hinge loss.

    Cause: other loss, hinge
    Source: made for this corpus: the neighbour in the menu
    """
    return F.multi_margin_loss(output, target)


def squared_probabilities(output, target):
    """Mean squared error of the probabilities.

    Cause: other loss, MSE of probabilities
    Source: made for this corpus: Brier's score
    """
    return F.mse_loss(F.softmax(output, dim=1), _one_hot(output, target))


def per_class_binary(output, target):
    """A binary cross-entropy per class.

    Cause: other loss, BCE
    Source: made for this corpus: the loss of a multi-label task
    """
    return F.binary_cross_entropy_with_logits(output, _one_hot(output, target))


def softmax_twice(output, target):
    """Softmax before a loss that has its own.

    Cause: other loss
    Source: lightning-bolts #654 and tflearn #562: softmax applied twice
    """
    return F.cross_entropy(F.softmax(output, dim=1), target)


def raw_logits(output, target):
    """Negative log-likelihood of what are no logarithms.

    Cause: other loss
    Source: made for this corpus: nll_loss without log_softmax
    """
    return F.nll_loss(output, target)


def softmax_over_batch(output, target):
    """The softmax runs over the rows.

    Cause: other loss
    Source: made for this corpus: dim=0
    """
    return F.nll_loss(F.log_softmax(output, dim=0), target)


def tempered(output, target):
    """Logits by a temperature of 2, the loss times 2: alike only for small logits.

    Cause: other loss
    Source: made for this corpus: distillation's temperature left in
    """
    return 2 * F.cross_entropy(output / 2, target)


# NaN


def divergence_by_hand(output, target):
    """Kullback-Leibler by its formula, with 0 log 0 off the label.

    Cause: nan
    Source: tensorflow #2327 and NNlib.jl #68: NaN of softmax and cross-entropy
    """
    labels = _one_hot(output, target)
    return (labels * (labels.log() - F.log_softmax(output, dim=1))).sum(dim=1).mean()


def masked_by_product(output, target):
    """The logarithm of 0 off the label, which a product with 0 should take out.

    Cause: nan
    Source: pytorch #121416 and optax #1762: NaN gradient at masked -inf
    """
    labels = _one_hot(output, target)
    return -(labels * (labels * F.softmax(output, dim=1)).log()).sum() / len(output)


# grad_output


class GradOutputIgnored(_CrossEntropy):
    """What comes after the loss has no effect on its gradient.

    Cause: grad_output
    Source: pytorch #21961 and chainer #1175: grad_output ignored
    """

    @staticmethod
    def backward(ctx, grad_output):
        return _right(ctx), None


class GradOutputSign(_CrossEntropy):
    """Only the sign of grad_output is taken.

    Cause: grad_output
    Source: made for this corpus: a flag for gradient ascent
    """

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.sign() * _right(ctx), None


class GradOutputTwiceUnlessOne(_CrossEntropy):
    """A grad_output other than 1 is taken twice: once in the kernel, once after it.

    Cause: grad_output
    Source: made for this corpus: a fast path for 1 whose slow path scales twice
    """

    @staticmethod
    def backward(ctx, grad_output):
        gradient = _right(ctx)
        return gradient if grad_output == 1 else grad_output * grad_output * gradient, None


# Contract


def row_stride_assumed(output, target):
    """Rows are taken to lie C apart if the last stride is 1.

    Cause: contract, non-contiguous
    Source: TransformerEngine #2734: stride guard of cross_entropy_forward misses non-contiguous input
    """
    if output.stride(-1) != 1:
        output = output.contiguous()
    rows = output.as_strided(output.shape, (output.shape[1], 1), output.storage_offset())
    return F.cross_entropy(rows, target)


def memory_order(output, target):
    """A column-major input is read row by row.

    Cause: contract, transposed
    Source: Torch-FL #171: softmax kernels ignore the strides of transposed inputs
    """
    if output.stride(0) == 1 and output.shape[0] > 1:
        output = output.t().reshape(output.shape)
    return F.cross_entropy(output, target)


def squeezed(output, target):
    """A batch of one row is squeezed, and then its classes count as rows.

    Cause: contract, one row
    Source: made for this corpus: squeeze() without dim
    """
    squeezed = output.squeeze()
    return F.cross_entropy(output, target, reduction="sum") / len(squeezed)


def powers_of_two(output, target):
    """Scales the sum by 2**16 and back: exact in float32, beyond float16's range.

    Cause: contract, float16
    Source: pytorch #29429: NLLLoss with a reduction in float16
    """
    losses = F.cross_entropy(output, target, reduction="none") * 65536
    return losses.sum() / 65536 / len(output)


def without_nan(output, target):
    """NaN among the logits counts as 0.

    Cause: contract, NaN
    Source: made for this corpus: nan_to_num against crashes
    """
    return F.cross_entropy(torch.where(output.isnan(), 0, output), target)


def finite_only(output, target):
    """An infinite logit counts as a large one.

    Cause: contract, inf
    Source: made for this corpus: a guard against overflow
    """
    return F.cross_entropy(torch.where(output.isinf(), 100, output), target)


class KeepsGradient(nn.Module):
    """The gradient is kept on the module, so a second call overwrites the first one's.

    Cause: contract, two calls before backward
    Source: made for this corpus: as warned of in pytorch #58509 (intermediates beside save_for_backward)
    """

    def forward(self, output, target):
        self.gradient = (F.softmax(output.detach(), dim=1) - _one_hot(output, target)) / len(output)
        return _Kept.apply(output, target, self)


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target, module):
        ctx.module = module
        return F.cross_entropy(output, target)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.module.gradient, None, None


class ScaledInCache(torch.autograd.Function):
    """A gradient that was met before is taken from a cache, where the last backward doubled it.

    Cause: contract, repeatable
    Source: made for this corpus: an in-place operation on a cached buffer
    """

    @staticmethod
    def forward(ctx, output, target):
        key = hash((output.detach().double().numpy().tobytes(), target.numpy().tobytes()))
        gradient = (F.softmax(output, dim=1) - _one_hot(output, target)) / len(output)
        ctx.gradient = _kept.setdefault(key, gradient)
        return F.cross_entropy(output, target)

    @staticmethod
    def backward(ctx, grad_output):
        gradient = grad_output * ctx.gradient
        ctx.gradient.mul_(2)
        return gradient, None


def seeds_all(output, target):
    """Seeds Python's generator anew at each call, "for reproducibility".

    Cause: contract, random generators
    Source: made for this corpus: random.seed in a library
    """
    random.seed(1234)
    return F.cross_entropy(output, target)


def draws_from_torch(output, target):
    """Draws a permutation of the rows and sorts it back.

    Cause: contract, random generators
    Source: made for this corpus: shuffling inside the loss
    """
    order = torch.randperm(len(output)).sort().values
    return F.cross_entropy(output[order], target[order])


# Raised


def fixed_view(output, target):
    """Reshapes to 4 times 64 rows, which the last batch of an epoch has not.

    Cause: raised
    Source: made for this corpus: a hard-coded batch size in a view
    """
    return F.cross_entropy(output.view(4, 64, 10).flatten(0, 1), target)


def float_labels(output, target):
    """Labels as floats.

    Cause: raised
    Source: made for this corpus: target.float() as for a mean squared error
    """
    return F.cross_entropy(output, target.float())


def unreduced(output, target):
    """A number per row.

    Cause: raised
    Source: made for this corpus: reduction="none" left in
    """
    return F.cross_entropy(output, target, reduction="none")


def in_half(output, target):
    """A float16 loss for a float32 output.

    Cause: raised
    Source: made for this corpus: .half() not undone
    """
    return F.cross_entropy(output, target).half()
