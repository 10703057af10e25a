"""Right implementations of mean cross-entropy, none of which may be flagged; each docstring says how it computes.

Shapes: B rows, C classes. The files are run anew for each training, so what torch registers once is guarded.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def _one_hot(output, target):
    return F.one_hot(target, output.shape[1]).to(output.dtype)


# From log-softmax


def two_steps(output, target):
    """log_softmax, then nll_loss.

    Source: docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """
    return F.nll_loss(F.log_softmax(output, dim=1), target)


def log_softmax_twice(output, target):
    """log_softmax of log_softmax, which is log_softmax.

    Source: speedinghzl/Pytorch-Deeplab #2: log_softmax before cross_entropy, reported as a bug
    """
    return F.cross_entropy(F.log_softmax(output, dim=1), target)


def gathered(output, target):
    """The label's log-probability by gather.

    Source: made for this corpus: gather
    """
    return -F.log_softmax(output, dim=1).gather(1, target[:, None]).mean()


def indexed(output, target):
    """The label's log-probability by fancy indexing.

    Source: made for this corpus: indexing
    """
    return -F.log_softmax(output, dim=1)[torch.arange(len(target)), target].mean()


def index_selected(output, target):
    """The label's log-probability by its place in the flattened matrix.

    Source: made for this corpus: index_select
    """
    places = torch.arange(len(target)) * output.shape[1] + target
    return -F.log_softmax(output, dim=1).reshape(-1).index_select(0, places).sum() / len(target)


def masked(output, target):
    """The label's log-probability by a mask.

    Source: made for this corpus: boolean mask
    """
    return -F.log_softmax(output, dim=1)[_one_hot(output, target).bool()].mean()


def where(output, target):
    """Zero off the label, by torch.where.

    Source: pytorch #121416: masked without a NaN
    """
    log_probabilities = F.log_softmax(output, dim=1)
    return -torch.where(_one_hot(output, target) == 1, log_probabilities, 0).sum() / len(output)


def one_hot_product(output, target):
    """A product with the one-hot labels.

    Source: made for this corpus: the textbook's formula
    """
    return -(F.log_softmax(output, dim=1) * _one_hot(output, target)).sum(dim=1).mean()


def soft_labels(output, target):
    """cross_entropy with probabilities for labels.

    Source: docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """
    return F.cross_entropy(output, _one_hot(output, target))


def divergence(output, target):
    """Kullback-Leibler from the one-hot labels, by batch mean.

    Source: pytorch #2259: "batchmean" is the right mean
    """
    return F.kl_div(F.log_softmax(output, dim=1), _one_hot(output, target), reduction="batchmean")


def einsum(output, target):
    """The double contraction with the one-hot labels.

    Source: made for this corpus: einsum
    """
    return -torch.einsum("bc,bc->", F.log_softmax(output, dim=1), _one_hot(output, target)) / len(output)


# From log-sum-exp


def logsumexp(output, target):
    """Log-sum-exp minus the label's logit.

    Source: made for this corpus: the other formula
    """
    return (output.logsumexp(dim=1) - output.gather(1, target[:, None])[:, 0]).mean()


def separate_means(output, target):
    """Means of the log-sum-exps and of the labels' logits, subtracted at the end.

    Source: made for this corpus: order of summation
    """
    return output.logsumexp(dim=1).sum() / len(output) - output.gather(1, target[:, None]).sum() / len(output)


def broadcast_mean(output, target):
    """(B,) minus (B, 1) is (B, B), whose mean happens to be right: a harmless slip.

    Source: pytorch #16045 and #19699: (N, 1) broadcast against (N,)
    """
    shifted = output - output.detach().amax(dim=1, keepdim=True)
    return (shifted.exp().sum(dim=1).log() - shifted.gather(1, target[:, None])).mean()


def largest_subtracted(output, target):
    """The largest logit is subtracted by hand, then exp, sum and log.

    Source: P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax functions"
    """
    shifted = output - output.detach().amax(dim=1, keepdim=True)
    return (shifted.exp().sum(dim=1).log() - shifted.gather(1, target[:, None])[:, 0]).mean()


def label_subtracted(output, target):
    """The log of a sum of exponentials of the distances to the label's logit.

    Source: made for this corpus: log sum exp(o - o[t])
    """
    return (output - output.gather(1, target[:, None])).logsumexp(dim=1).mean()


def logaddexp(output, target):
    """The log-sum-exp is built up class by class, after the largest logit is subtracted.

    Source: made for this corpus: torch.logaddexp
    """
    shifted = output - output.detach().amax(dim=1, keepdim=True)
    total = shifted[:, 0]
    for column in shifted.unbind(dim=1)[1:]:
        total = torch.logaddexp(total, column)
    return (total - shifted.gather(1, target[:, None])[:, 0]).mean()


# Orders of summation, wider


def summed_over_rows(output, target):
    """The sum, divided by the number of rows.

    Source: made for this corpus: order of operations
    """
    return F.cross_entropy(output, target, reduction="sum") / len(output)


def unreduced_mean(output, target):
    """The mean of the losses per row, from the last to the first.

    Source: made for this corpus: order of summation
    """
    return F.cross_entropy(output, target, reduction="none").flip(0).mean()


def sequential(output, target):
    """A running sum over the rows.

    Source: N. J. Higham, "The accuracy of floating point summation", 1993
    """
    return F.cross_entropy(output, target, reduction="none").cumsum(0)[-1] / len(output)


def sorted_by_label(output, target):
    """The rows sorted by label, whose mean is the same.

    Source: made for this corpus: a permutation that does no harm
    """
    order = target.argsort(stable=True)
    return F.cross_entropy(output[order], target[order])


def chunked(output, target):
    """Sums of chunks of 50 rows, which divides neither 256 nor 96.

    Source: transformers #34191: the sum of micro-batches, normalised once
    """
    pairs = zip(output.split(50), target.split(50), strict=True)
    return torch.stack([F.cross_entropy(part, labels, reduction="sum") for part, labels in pairs]).sum() / len(output)


def equal_weights(output, target):
    """Each class weighs 3, and the mean divides by the weights.

    Source: pytorch #69339: the divisor of a weighted mean
    """
    return F.cross_entropy(output, target, weight=torch.full((output.shape[1],), 3.0, dtype=output.dtype))


def transposed(output, target):
    """The classes first, the rows as positions of one sequence.

    Source: made for this corpus: the K-dimensional form of cross_entropy
    """
    return F.cross_entropy(output.t()[None], target[None])


def in_float64(output, target):
    """All of it in float64, rounded at the end.

    Source: made for this corpus: wider arithmetic
    """
    return F.cross_entropy(output.double(), target).to(output.dtype)


# The gradient written out


class SoftmaxMinusOneHot(torch.autograd.Function):
    """The gradient from its formula.

    Source: docs.pytorch.org/docs/stable/notes/extending.html
    """

    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return F.cross_entropy(output, target)

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * (F.softmax(output, dim=1) - _one_hot(output, target)) / len(output), None


class GradientInForward(torch.autograd.Function):
    """The gradient is computed in the forward and scaled in the backward, as fused kernels do.

    Source: Liger-Kernel: the gradient is made in the forward
    """

    @staticmethod
    def forward(ctx, output, target):
        log_probabilities = F.log_softmax(output, dim=1)
        gradient = log_probabilities.exp()
        gradient.scatter_add_(1, target[:, None], -torch.ones_like(gradient[:, :1]))
        ctx.save_for_backward(gradient / len(output))
        return F.nll_loss(log_probabilities, target)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.saved_tensors[0], None


class NumpyFloat64(torch.autograd.Function):
    """Loss and gradient in float64 NumPy.

    Source: parity/losses.py: NumpyCrossEntropy, in float64
    """

    @staticmethod
    def forward(ctx, output, target):
        logits, labels = output.detach().numpy().astype(np.float64), target.numpy()
        rows = np.arange(len(labels))
        with np.errstate(all="ignore"):
            shifted = logits - logits.max(axis=1, keepdims=True)
            log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        gradient = np.exp(log_probabilities)
        gradient[rows, labels] -= 1
        ctx.gradient = torch.from_numpy(gradient / len(labels))
        return torch.tensor(-log_probabilities[rows, labels].mean(), dtype=output.dtype)

    @staticmethod
    def backward(ctx, grad_output):
        return (grad_output.double() * ctx.gradient).to(grad_output.dtype), None


# Modules and transformations


class Module(nn.Module):
    """A Module that is given as a class.

    Source: made for this corpus: the form of a loss
    """

    def forward(self, output, target):
        return -F.log_softmax(output, dim=1).take_along_dim(target[:, None], dim=1).mean()


module_instance = nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=0.0)
"""torch's own Module, with options that change nothing.

Source: Liger-Kernel #262: ignore_index that no label has
"""


def per_row_vmap(output, target):
    """The loss of one row, vectorised over the rows.

    Source: docs.pytorch.org/docs/stable/generated/torch.func.vmap.html
    """
    return torch.func.vmap(lambda row, label: -F.log_softmax(row, dim=0).gather(0, label[None])[0])(
        output, target
    ).mean()


def checkpointed(output, target):
    """Evaluated once more in the backward.

    Source: docs.pytorch.org/docs/stable/checkpoint.html
    """
    return checkpoint(F.cross_entropy, output, target, use_reentrant=False)


def _quiet(compiled, output, target):
    """Calls without the warning that tracing makes when it looks at the .grad of an output that is no leaf."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compiled(output, target)


_compiled_eager = torch.compile(gathered, backend="eager")


def compiled_eager(output, target):
    """Traced by torch.compile, run by the eager backend.

    Source: docs.pytorch.org/docs/stable/torch.compiler.html
    """
    return _quiet(_compiled_eager, output, target)


def _register():
    """Registers the custom operator, once in a process."""

    @torch.library.custom_op("parity_corpus::cross_entropy", mutates_args=())
    def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target)

    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * (F.softmax(output, dim=1) - _one_hot(output, target)) / len(output), None

    cross_entropy.register_autograd(backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


def custom_operator(output, target):
    """An operator of torch.library with its own gradient.

    Source: docs.pytorch.org/tutorials/advanced/python_custom_ops.html
    """
    if not hasattr(torch.ops.parity_corpus, "cross_entropy"):
        _register()
    return torch.ops.parity_corpus.cross_entropy(output, target)


def always_float32(output, target):
    """Computes in float32 whatever the input is: limited in float64, which cannot touch this training.

    Source: made for this corpus: .float() in a loss
    """
    return F.cross_entropy(output.float(), target).to(output.dtype)
