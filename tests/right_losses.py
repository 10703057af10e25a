"""Right implementations of the mean squared error, none of which may be flagged."""

import torch


def float64_accumulation(output, target):
    return ((output - target) ** 2).sum(dtype=torch.float64).div(output.numel()).to(output.dtype)


def row_means(output, target):
    return ((output - target) ** 2).mean(dim=1).mean()


def functional(output, target):
    return torch.nn.functional.mse_loss(output, target)


class ReorderedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return ((output - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        output, target = ctx.saved_tensors
        return (output / output.numel() - target / output.numel()) * grad_output * 2, None


def sum_over_numel(output, target):
    return ((output - target) ** 2).sum() / output.numel()


class Module(torch.nn.Module):
    def forward(self, output, target):
        return (output - target).square().mean()


module_instance = Module()


def reported_only(output, target):
    """Another number, with torch's own gradient."""
    loss = torch.nn.functional.mse_loss(output, target)
    return loss + (loss.detach() * 2**-20 - (loss.detach() * 2**-20).detach()) + loss.detach() * 2**-20
