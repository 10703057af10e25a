"""Causes that are recognised from the sketches of two steps."""

import pytest
import torch
from small_loops import adamw, ask, logsumexp_loss, net


def clearing_once(model):
    """An optimizer whose zero_grad() is called before the first step alone."""
    optimizer = adamw(model)
    optimizer.zero_grad()
    optimizer.zero_grad = lambda: None
    return optimizer


@pytest.mark.parametrize("rounding", [{}, {"loss": logsumexp_loss}], ids=["equal", "rounding"])
def test_gradients_that_are_never_cleared_are_named_also_in_a_few_steps(tmp_path, rounding):
    pair = ask(tmp_path, {"steps": 9}, {"steps": 9, "optimizer": clearing_once, **rounding})
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", 1, "param_grad")
    assert "the candidate's gradient still has that of the step before in it: zero_grad() is missing" in pair.cause


class UnderAutocast(torch.nn.Module):
    """A model that computes in bfloat16 and returns float32."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(inputs).float()


class Plain(UnderAutocast):
    """The same in float32."""

    def forward(self, inputs):
        return self.inner(inputs)


def test_a_model_that_computes_in_a_narrower_dtype_is_named_though_its_output_is_as_wide(tmp_path):
    pair = ask(tmp_path, {"steps": 3, "model": Plain}, {"steps": 3, "model": UnderAutocast})
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", 0, "output")
    said = "another precision: the model computes in float32 in the baseline and in bfloat16 in the candidate"
    assert said in [cause.text for cause in pair.causes]
