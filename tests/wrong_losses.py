"""Losses with a planted fault; each says what is wrong with it."""

import sys

import numpy as np
import torch


class _MSE(torch.autograd.Function):
    """A right forward; each fault is another backward."""

    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return ((output - target) ** 2).mean()


class Doubled(_MSE):
    """A gradient twice too large."""

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 4 * (output - target) / output.numel(), None


class SlightlyScaled(_MSE):
    """A gradient 1.00001 times too large: the least fault that must be seen."""

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * 1.00001 * (output - target) / output.numel(), None


class HardCoded(_MSE):
    """Right for whole batches of 256 rows, wrong on the last of an epoch, which has 96."""

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * (output - target) / (256 * 784), None


class SignFlipped(_MSE):
    """A gradient that climbs."""

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return grad_output * 2 * (target - output) / output.numel(), None


class Zero(_MSE):
    """No gradient at all, though one is returned."""

    @staticmethod
    def backward(ctx, grad_output):
        return torch.zeros_like(ctx.saved_tensors[0]), None


def detached(output, target):
    """A detour through NumPy without a Function: the graph is cut."""
    difference = output.detach().numpy() - target.numpy()
    return torch.tensor(np.mean(difference**2), dtype=output.dtype)


def independent(output, target):
    """Has a gradient, but not for the output."""
    return torch.zeros((), requires_grad=True) * target.mean()


_calls = 0


def _count():
    global _calls
    _calls += 1
    return _calls - 1


def raising_at_9(output, target):
    """Raises at step 9."""
    if _count() == 9:
        raise ValueError("planted")
    return torch.nn.functional.mse_loss(output, target)


def raising_at_30(output, target):
    """Raises at step 30."""
    if _count() == 30:
        raise ValueError("planted")
    return torch.nn.functional.mse_loss(output, target)


def exiting(output, target):
    """Ends Python, which must not end parity."""
    sys.exit(0)


def killing(output, target):
    """Kills its process at step 3."""
    import os
    import signal

    if _count() == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.nn.functional.mse_loss(output, target)


def unreduced(output, target):
    """No scalar."""
    return torch.nn.functional.mse_loss(output, target, reduction="none").mean(dim=1)


def widened(output, target):
    """Another dtype."""
    return torch.nn.functional.mse_loss(output.double(), target.double())


def number(output, target):
    """No tensor."""
    return float(torch.nn.functional.mse_loss(output.detach(), target))


def nan_at_5(output, target):
    """NaN at step 5."""
    loss = torch.nn.functional.mse_loss(output, target)
    return loss * float("nan") if _count() == 5 else loss


def changes_target(output, target):
    """Writes to its target, behind torch's back."""
    target.numpy()[0, 0] += 1
    return torch.nn.functional.mse_loss(output, target)


def changes_output(output, target):
    """Writes to its output, behind torch's back."""
    output.detach().numpy()[0, 0] += 1
    return torch.nn.functional.mse_loss(output, target)


def tripled_report(output, target):
    """A wrong number with a right gradient that is summed in another order."""
    loss = (output - target).square().mean(dim=1).mean()
    return loss + 2 * loss.detach()


not_a_loss = float("3")
