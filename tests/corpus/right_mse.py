"""Right implementations of the mean squared error, none of which may be flagged; each docstring says how it computes.

Shapes: B rows, F features. The files are run anew for each training, so what torch registers once is guarded.
"""

import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# Orders of summation


def rows_first(output, target):
    """Mean over each row, then over the rows.

    Source: made for this corpus: order of summation
    """
    return (output - target).square().mean(dim=1).mean()


def columns_first(output, target):
    """Mean over each column, then over the columns.

    Source: made for this corpus: order of summation
    """
    return (output - target).square().mean(dim=0).mean()


def reversed_order(output, target):
    """The sum from the last element to the first.

    Source: made for this corpus: order of summation
    """
    return (output - target).flip((0, 1)).square().mean()


def sum_over_numel(output, target):
    """The sum over everything, then one division.

    Source: made for this corpus: order of operations
    """
    return F.mse_loss(output, target, reduction="sum") / output.numel()


def flat_dot(output, target):
    """The dot product of the flattened difference with itself.

    Source: made for this corpus: BLAS in place of a reduction
    """
    difference = (output - target).reshape(-1)
    return torch.dot(difference, difference) / difference.numel()


def squared_norm(output, target):
    """The Euclidean norm, squared.

    Source: made for this corpus: a root that is squared again
    """
    return torch.linalg.vector_norm(output - target).square() / output.numel()


def einsum(output, target):
    """The double contraction of the difference with itself.

    Source: made for this corpus: einsum
    """
    difference = output - target
    return torch.einsum("bf,bf->", difference, difference) / output.numel()


def trace_of_product(output, target):
    """A batched product of each row with itself.

    Source: made for this corpus: matrix products in place of a reduction
    """
    difference = output - target
    return torch.bmm(difference[:, None, :], difference[:, :, None]).sum() / output.numel()


def transposed(output, target):
    """The loss of the transposed tensors.

    Source: made for this corpus: memory order
    """
    return F.mse_loss(output.t(), target.t())


def chunked(output, target):
    """Sums of chunks of 50 rows, which divides neither 256 nor 96.

    Source: transformers #34191: the sum of micro-batches, normalised once
    """
    pairs = zip(output.split(50), target.split(50), strict=True)
    return torch.stack([F.mse_loss(part, wanted, reduction="sum") for part, wanted in pairs]).sum() / output.numel()


def column_by_column(output, target):
    """A loop over blocks of 100 features.

    Source: made for this corpus: order of summation
    """
    pairs = zip(output.split(100, dim=1), target.split(100, dim=1), strict=True)
    return sum((part - wanted).square().sum() for part, wanted in pairs) / output.numel()


def sequential(output, target):
    """A running sum from the first element to the last, the worst order there is.

    Source: N. J. Higham, "The accuracy of floating point summation", 1993
    """
    return (output - target).square().reshape(-1).cumsum(0)[-1] / output.numel()


def ascending(output, target):
    """The squares are sorted before they are summed.

    Source: N. J. Higham, "The accuracy of floating point summation", 1993
    """
    squares = (output - target).square().reshape(-1)
    return squares.sort().values.sum() / squares.numel()


def pairwise(output, target):
    """Halves are added to each other until one number is left.

    Source: N. J. Higham, "The accuracy of floating point summation", 1993
    """
    terms = (output - target).square().reshape(-1)
    numel = terms.numel()
    while len(terms) > 1:
        if len(terms) % 2:
            terms = F.pad(terms, (0, 1))
        terms = terms[::2] + terms[1::2]
    return terms[0] / numel


class Kahan(torch.autograd.Function):
    """Compensated summation of the row sums; the gradient is written out.

    Source: W. Kahan, "Further remarks on reducing truncation errors", 1965
    """

    @staticmethod
    def forward(ctx, output, target):
        difference = output - target
        ctx.save_for_backward(difference)
        total = compensation = torch.zeros((), dtype=output.dtype)
        for term in difference.square().sum(dim=1):
            corrected = term - compensation
            raised = total + corrected
            compensation = (raised - total) - corrected
            total = raised
        if not total.isfinite():  # the compensation makes NaN of inf
            total = difference.square().sum()
        return total / output.numel()

    @staticmethod
    def backward(ctx, grad_output):
        (difference,) = ctx.saved_tensors
        return grad_output * 2 / difference.numel() * difference, None


# Wider, and NumPy


def in_float64(output, target):
    """All of it in float64, rounded at the end.

    Source: made for this corpus: wider arithmetic
    """
    return F.mse_loss(output.double(), target.double()).to(output.dtype)


def float64_accumulation(output, target):
    """Squares in the output's dtype, summed in float64.

    Source: made for this corpus: wider accumulation
    """
    return (output - target).square().sum(dtype=torch.float64).div(output.numel()).to(output.dtype)


class NumpyFloat64(torch.autograd.Function):
    """Loss and gradient in float64 NumPy.

    Source: parity/losses.py: NumpyMSE, in float64
    """

    @staticmethod
    def forward(ctx, output, target):
        difference = np.subtract(output.detach().numpy(), target.numpy(), dtype=np.float64)
        ctx.gradient = 2 * difference / difference.size
        return torch.tensor(np.mean(difference**2), dtype=output.dtype)

    @staticmethod
    def backward(ctx, grad_output):
        return (grad_output.double() * torch.from_numpy(ctx.gradient)).to(grad_output.dtype), None


class NumpyBackward(torch.autograd.Function):
    """A NumPy gradient in the output's dtype, a loss from torch.

    Source: parity/losses.py: NumpyMSE
    """

    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return F.mse_loss(output, target)

    @staticmethod
    def backward(ctx, grad_output):
        output, target = (saved.detach().numpy() for saved in ctx.saved_tensors)
        gradient = (output - target) * output.dtype.type(2 / output.size)
        return grad_output * torch.from_numpy(gradient), None


# The gradient written out


class _MSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return ((output - target) ** 2).mean()


class SavedTensors(_MSE):
    """The gradient from its formula.

    Source: docs.pytorch.org/docs/stable/notes/extending.html
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * (output - target) / output.numel(), None


class DividedFirst(_MSE):
    """Divides output and target before they are subtracted.

    Source: made for this corpus: order of operations
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return (output / output.numel() - target / output.numel()) * grad_output * 2, None


class FilledByRows(_MSE):
    """Writes the gradient row by row.

    Source: made for this corpus: a loop in the backward
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        gradient = torch.empty_like(output)
        for row in range(len(output)):
            torch.sub(output[row], target[row], out=gradient[row])
        return gradient.mul_(grad_output * 2 / output.numel()), None


class BothGradients(_MSE):
    """A gradient for the target too, if one is wanted.

    Source: docs.pytorch.org/docs/stable/notes/extending.html: needs_input_grad
    """

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        gradient = grad_output * (2 / output.numel()) * (output - target)
        return gradient, -gradient if ctx.needs_input_grad[1] else None


class SetupContext(torch.autograd.Function):
    """The newer form of a Function, with setup_context.

    Source: docs.pytorch.org/docs/stable/notes/extending.func.html
    """

    @staticmethod
    def forward(output, target):
        return (output - target).square().mean()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return torch.mul(output - target, grad_output * 2).div(output.numel()), None


# Other operations


def lerp(output, target):
    """The difference as an interpolation from nothing.

    Source: made for this corpus: torch.lerp
    """
    return torch.lerp(torch.zeros_like(output), output - target, 1.0).square().mean()


def addcmul(output, target):
    """Squares added to zeros by a fused product.

    Source: made for this corpus: torch.addcmul
    """
    difference = output - target
    return torch.addcmul(torch.zeros_like(difference), difference, difference).mean()


def expanded(output, target):
    """A leading dimension of 2, of which the mean is taken too.

    Source: made for this corpus: broadcasting that does no harm
    """
    return (output.expand(2, -1, -1) - target).square().mean()


def foreach(output, target):
    """Rows as a list of tensors.

    Source: made for this corpus: torch._foreach_sub, as optimizers use it
    """
    differences = torch._foreach_sub(list(output.unbind()), list(target.unbind()))
    return torch.stack([difference.square().sum() for difference in differences]).sum() / output.numel()


def absolute_squared(output, target):
    """The square of the absolute difference.

    Source: made for this corpus: a detour that changes no bit but the sign
    """
    return (output - target).abs().pow(2).mean()


def huber_far_out(output, target):
    """Huber's loss with a delta that no difference reaches, times 2.

    Source: made for this corpus: another loss where it is the same one
    """
    return 2 * F.huber_loss(output, target, delta=1e30 if output.dtype in (torch.float32, torch.float64) else 1e4)


def images(output, target):
    """The features as a stack of planes, summed from the inside out.

    Source: made for this corpus: order of summation
    """
    shape = (len(output), -1, math.gcd(output.shape[1], 28))
    return (output.reshape(shape) - target.reshape(shape)).square().sum(dim=2).sum(dim=1).sum() / output.numel()


# Modules


class Module(nn.Module):
    """A Module that is given as a class.

    Source: made for this corpus: the form of a loss
    """

    def forward(self, output, target):
        return torch.sub(target, output).square().mean()


class _WithReduction(nn.Module):
    def __init__(self, reduction):
        super().__init__()
        self.loss = nn.MSELoss(reduction=reduction)

    def forward(self, output, target):
        return self.loss(output, target).mean()


module_instance = _WithReduction("none")
"""A Module that is given as an instance.

Source: made for this corpus: the form of a loss
"""


# Transformations


def per_row_vmap(output, target):
    """The loss of one row, vectorised over the rows.

    Source: docs.pytorch.org/docs/stable/generated/torch.func.vmap.html
    """
    return torch.func.vmap(lambda row, wanted: (row - wanted).square().mean())(output, target).mean()


def checkpointed(output, target):
    """Evaluated once more in the backward.

    Source: docs.pytorch.org/docs/stable/checkpoint.html
    """
    return checkpoint(lambda left, right: (left - right).square().mean(), output, target, use_reentrant=False)


def _plain(output, target):
    return ((output - target) ** 2).mean(dim=1).mean()


def _builtin(output, target):
    """Saves its inputs only: a backward with buffers of its own cannot run twice, which gradcheck wants."""
    return F.mse_loss(output, target)


def _quiet(compiled, output, target):
    """Calls without the warning that tracing makes when it looks at the .grad of an output that is no leaf."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compiled(output, target)


_compiled_eager = torch.compile(_plain, backend="eager")
_compiled_aot = torch.compile(_builtin, backend="aot_eager")


def compiled_eager(output, target):
    """Traced by torch.compile, run by the eager backend.

    Source: docs.pytorch.org/docs/stable/torch.compiler.html
    """
    return _quiet(_compiled_eager, output, target)


def compiled_aot(output, target):
    """Forward and backward traced by torch.compile, run by the aot_eager backend.

    Source: docs.pytorch.org/docs/stable/torch.compiler.html
    """
    return _quiet(_compiled_aot, output, target)


def _register():
    """Registers the custom operator, once in a process."""

    @torch.library.custom_op("parity_corpus::mse", mutates_args=())
    def mse(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().mean()

    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * (output - target) / output.numel(), None

    mse.register_autograd(backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


def custom_operator(output, target):
    """An operator of torch.library with its own gradient.

    Source: docs.pytorch.org/tutorials/advanced/python_custom_ops.html
    """
    if not hasattr(torch.ops.parity_corpus, "mse"):
        _register()
    return torch.ops.parity_corpus.mse(output, target)


def always_float32(output, target):
    """Computes in float32 whatever the input is: limited in float64, which cannot touch this training.

    Source: made for this corpus: .float() in a loss
    """
    return F.mse_loss(output.float(), target.float()).to(output.dtype)
