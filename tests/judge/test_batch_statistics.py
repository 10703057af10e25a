"""Buffers that part while losses and gradients are equal to the bit: the statistics of batch normalisation."""

import pytest
import torch
from small_loops import ask
from torch import nn
from torch.utils.checkpoint import checkpoint


class Normed(nn.Module):
    """Its normalised part is computed once, or a second time in backward, which moves the statistics twice."""

    def __init__(self, *, momentum=0.1, again=False):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, momentum=momentum), nn.GELU())
        self.head, self.again = nn.Linear(16, 4), again

    def forward(self, inputs):
        hidden = checkpoint(self.body, inputs, use_reentrant=False) if self.again else self.body(inputs)
        return self.head(hidden)


def judged(folder, **options):
    return ask(folder, {"model": Normed, "steps": 6}, {"model": lambda: Normed(**options), "steps": 6})


@pytest.mark.parametrize("options", [{"again": True}, {"momentum": 0.99}, {"momentum": 0.01}])
def test_statistics_that_are_moved_otherwise_are_named(tmp_path, options):
    pair = judged(tmp_path, **options)
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", 0, "buffer"), pair.cause
    assert pair.onset.tensor == "body.1.running_mean" and "the buffer of body.1.running_mean is " in pair.cause


def test_statistics_that_are_moved_twice_by_half_as_much_are_rounding(tmp_path):
    pair = judged(tmp_path, again=True, momentum=1 - 0.9**0.5)
    assert pair.verdict == "rounding", pair.cause
