"""Small tasks for the audit, and losses for them: right ones, and wrong ones that are easily excused."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Plain:
    """A regression on 512 rows; mean squared error."""

    def data(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(512, 8, generator=generator)
        return {"inputs": inputs, "target": inputs @ torch.randn(8, 4, generator=generator)}

    def model(self):
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def optimizer(self, parameters, lr):
        return torch.optim.Adam(parameters, lr)

    def batch(self, data, start, stop):
        return torch.tensor(data["inputs"][start:stop]), torch.tensor(data["target"][start:stop])

    def forward(self, model, batch):
        return model(batch[0]), batch[1]

    def loss(self, output, target):
        return F.mse_loss(output, target)


class Bfloat16(Plain):
    """The same in bfloat16."""

    def model(self):
        return super().model().bfloat16()

    def batch(self, data, start, stop):
        return tuple(tensor.bfloat16() for tensor in super().batch(data, start, stop))


class Mixed(Bfloat16):
    """A bfloat16 output, and a loss that is computed in float32."""

    def loss(self, output, target):
        return (
            F.mse_loss(output.float(), target.float())
            if output.dtype == torch.bfloat16
            else super().loss(output, target)
        )


class Scalar(Plain):
    """An output of no dimension."""

    def forward(self, model, batch):
        return model(batch[0]).mean(), batch[1].mean()


class Huber(Plain):
    """The same with Huber's loss."""

    def loss(self, output, target):
        return huber(output, target)


class Marked(Plain):
    """Labels of 0 and 1, of which a fifth has a mark instead and does not count."""

    def data(self):
        data = super().data()
        labels = (data["target"] > 0).float()
        left_out = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.2
        return data | {"target": torch.where(left_out, -100.0, labels)}

    def loss(self, output, target):
        return marked(output, target)


class OneMark(Plain):
    """One row has a target that no other has; in batches of 64 rows it is that of step 5."""

    def data(self):
        data = super().data()
        data["target"][5 * 64 + 3, 1] = 7.5
        return data


class Clusters(Plain):
    """Three classes that are soon learned: the gradient is a difference of numbers near 1."""

    def data(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 3, (512,), generator=generator)
        inputs = 3 * F.one_hot(labels, 8).float() + 0.3 * torch.randn(512, 8, generator=generator)
        return {"inputs": inputs, "target": labels}

    def model(self):
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))

    def optimizer(self, parameters, lr):
        return torch.optim.Adam(parameters, 0.02)

    def loss(self, output, target):
        return F.cross_entropy(output, target)


class LogProbabilities(Clusters):
    """A model that ends in log_softmax, whose backward takes away what differs between the two usual losses for it."""

    def model(self):
        return nn.Sequential(*super().model(), nn.LogSoftmax(dim=1))

    def optimizer(self, parameters, lr):
        return torch.optim.SGD(parameters, 0.1)

    def loss(self, output, target):
        return F.nll_loss(output, target)


class Noisy(Plain):
    """A loss that adds noise to its output, and leaves some elements out."""

    def loss(self, output, target):
        return F.mse_loss(F.dropout(output + 0.1 * torch.randn_like(output), 0.2), target)


class Centred(nn.Module):
    """A loss with a running mean of its targets, which it assigns anew at each call."""

    momentum = 0.1

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, output, target):
        self.mean = (1 - self.momentum) * self.mean + self.momentum * target.mean(0).to(self.mean)
        return F.mse_loss(output, target + self.mean)


class CentredByHand(Centred):
    """The same, written out."""

    def forward(self, output, target):
        self.mean = (1 - self.momentum) * self.mean + self.momentum * target.mean(0).to(self.mean)
        return (output - (target + self.mean)).square().mean()


class CentredTooSlowly(CentredByHand):
    """Its mean follows too slowly: a wrong state."""

    momentum = 0.05


def squares(output, target):
    return (output - target).square().mean()


def squares_in_float32(output, target):
    return (output.float() - target.float()).square().mean()


def squares_back_in_bfloat16(output, target):
    return (output.float() - target.float()).square().mean().to(output.dtype)


def five_percent_in_bfloat16(output, target):
    return F.mse_loss(output, target) * (1.05 if output.dtype == torch.bfloat16 else 1.0)


def two_percent_in_bfloat16(output, target):
    return F.mse_loss(output, target) * (1.02 if output.dtype == torch.bfloat16 else 1.0)


def last_row_left_out_in_bfloat16(output, target):
    if output.dtype != torch.bfloat16 or len(output) == 1:
        return F.mse_loss(output, target)
    return F.mse_loss(output[:-1], target[:-1]) * (len(output) - 1) / len(output)


def scaled_in_float32(output, target):
    return 1.0001 * squares_in_float32(output, target)


def cross_entropy_by_hand(output, target):
    return (output.logsumexp(dim=1) - output.gather(1, target[:, None])[:, 0]).mean()


def cross_entropy_by_log_softmax(output, target):
    return -output.log_softmax(1)[torch.arange(len(target)), target].mean()


def cross_entropy_scaled(output, target):
    return 1.01 * F.cross_entropy(output, target)


def cross_entropy(output, target):
    return F.cross_entropy(output, target)


def softmax_again(output, target):
    return F.nll_loss(output.exp().log_softmax(1), target)


def fifty_times_at_the_mark(output, target):
    return F.mse_loss(output, target) * (50.0 if bool((target == 7.5).any()) else 1.0)


def marked(output, target):
    """Binary cross-entropy where the target is not -100."""
    keep = target != -100
    return F.binary_cross_entropy_with_logits(output[keep], target[keep])


def marked_sum(output, target):
    keep = (target != -100).to(output.dtype)
    each = output.clamp(min=0) - output * target.clamp(min=0) + torch.log1p(torch.exp(-output.abs()))
    return (each * keep).sum() / keep.sum()


def marked_branches(output, target):
    keep = target != -100
    return torch.where(target[keep] > 0.5, F.softplus(-output[keep]), F.softplus(output[keep])).sum() / keep.sum()


def marked_mean(output, target):
    """The fault: its mean counts the marked elements, too."""
    keep = (target != -100).to(output.dtype)
    return (F.binary_cross_entropy_with_logits(output, target.clamp(min=0), reduction="none") * keep).mean()


def marked_as_zero(output, target):
    """The fault: what is marked counts as 0."""
    return F.binary_cross_entropy_with_logits(output, target.clamp(min=0))


def huber(output, target):
    return F.huber_loss(output, target, delta=0.1)


def clamped_huber(output, target):
    """A right Huber loss whose gradient is finite where the output is NaN, since clamp and sign are."""
    distance = (output - target).abs()
    near = distance.clamp(max=0.1)
    return (0.5 * near * near + 0.1 * (distance - near)).mean()


def smooth_l1(output, target):
    """The fault: beta is not delta."""
    return F.smooth_l1_loss(output, target, beta=0.1)


def _by_numpy(near, near_in_value):
    """Huber's loss with a backward by hand; what is near is given, of differences."""

    class ByNumPy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, output, target):
            ctx.save_for_backward(output, target)
            difference = output.detach().numpy() - target.detach().numpy()
            far = 0.1 * (np.abs(difference) - 0.05)
            return torch.tensor(
                np.where(near_in_value(difference), 0.5 * difference**2, far).mean(), dtype=output.dtype
            )

        @staticmethod
        def backward(ctx, grad_output):
            output, target = ctx.saved_tensors
            difference = output - target
            slopes = torch.where(near(difference), difference, 0.1 * difference.sign())
            return grad_output * slopes / output.numel(), None

    return ByNumPy


def _near(difference):
    return abs(difference) < 0.1


def _below(difference):
    """The fault: far below is near, too."""
    return difference < 0.1


huber_by_numpy = _by_numpy(_near, _near)
signed_huber = _by_numpy(_below, _below)
huber_of_signed_slope = _by_numpy(_below, _near)


def noisy_by_hand(output, target):
    noisy = F.dropout(output + 0.1 * torch.randn_like(output), 0.2)
    return (noisy - target).square().mean()


def noisy_and_doubled(output, target):
    return 2 * noisy_by_hand(output, target)
