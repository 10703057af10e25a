"""Causes that are recognised from the sketches of two steps."""

import pytest
from small_loops import adamw, ask, logsumexp_loss


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
