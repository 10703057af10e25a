"""Why the steps in float64 of two runs cannot be compared is said as it is."""

import pytest
import torch
from small_loops import ask, net
from torch import nn


def with_norm(eps):
    def make():
        first, activation, last = net()
        return nn.Sequential(first, nn.LayerNorm(32, eps=eps), activation, last)

    return make


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"micro": 8}, "its gradients are added up over several batches, 4 in its first step"),
        ({"scaler": True}, "a loss scale multiplies its gradients, by 1024 in its first step"),
    ],
    ids=["accumulated", "scaled"],
)
def test_steps_that_were_multiplied_are_said_to_be_why_none_was_checked(tmp_path, options, said):
    if "scaler" in options:
        options = {"scaler": torch.amp.GradScaler("cpu", init_scale=2.0**10)}
    pair = ask(tmp_path, {"model": with_norm(1e-5)}, {"model": with_norm(1e-6), **options})
    assert pair.verdict == "inconclusive"
    assert f"b checked no step against float64 ({said})" in pair.cause
    assert "--quick" not in pair.cause
