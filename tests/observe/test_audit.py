import math

import numpy as np
import pytest
import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.audit import errors, make_oracle
from parity.plan.loss_spec import parse_losses
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task
from parity.tasks.loading import load_task
from parity.tasks.losses import load_loss

U = 2.0**-24


def oracle_of(text):
    (spec,) = parse_losses([text], shipped=SHIPPED_LOSSES)
    return make_oracle(spec, load_task(parse_task("mnist-autoencoder")))


@pytest.fixture
def step():
    """An output, its target, and the loss and gradient of torch's builtin."""
    torch.manual_seed(1)
    output, target = torch.rand(64, 100, requires_grad=True), torch.rand(64, 100)
    loss = torch.nn.functional.mse_loss(output, target)
    (gradient,) = torch.autograd.grad(loss, output)
    return output.detach(), target, loss.detach(), gradient


def test_the_builtin_is_within_rounding(step):
    output, target, loss, gradient = step
    grad_error, loss_error, ratio = errors(oracle_of("builtin"), output, target, loss=loss, output_grad=gradient)
    assert 0 < grad_error < 2
    assert 0 <= loss_error < 10
    assert abs(ratio - 1) < 1e-7


@pytest.mark.parametrize(("factor", "error"), [(2.0, 1 / U), (-1.0, 2 / U), (0.0, 1 / U), (1.00001, 1e-5 / U)])
def test_a_scaled_gradient_is_off_by_the_scale(step, factor, error):
    output, target, loss, gradient = step
    measured = errors(oracle_of("builtin"), output, target, loss=loss, output_grad=gradient * factor)
    assert measured[0] == pytest.approx(error, rel=0.02)
    assert measured[2] == pytest.approx(factor, abs=1e-7)


def test_one_wrong_element_is_far_beyond_rounding(step):
    output, target, loss, gradient = step
    wrong = gradient.clone()
    wrong[3, 7] *= 1.1
    assert errors(oracle_of("builtin"), output, target, loss=loss, output_grad=wrong)[0] > 1000


def test_the_loss_is_measured_by_itself(step):
    output, target, loss, gradient = step
    right = errors(oracle_of("builtin"), output, target, loss=loss, output_grad=gradient)
    wrong = errors(oracle_of("builtin"), output, target, loss=loss * 2, output_grad=gradient)
    assert wrong[1] == pytest.approx(1 / U, rel=1e-4)
    assert wrong[0] == right[0]


@pytest.mark.parametrize("text", ["tests/right_losses.py:functional", "tests/right_losses.py:Module"])
def test_autograd_on_float64_tensors_equals_the_closed_form(step, text):
    output, target, _, _ = step
    loss, gradient = oracle_of(text)(output, target)
    expected_loss, expected_gradient = oracle_of("builtin")(output, target)
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-14)


def test_a_module_with_float32_buffers_is_widened(tmp_path, step):
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Weighted(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('weight', torch.full((100,), 0.1))\n"
        "    def forward(self, output, target):\n        return ((output - target) ** 2 @ self.weight).mean()\n"
    )
    output, target, _, _ = step
    loss, _ = oracle_of(f"{tmp_path}/mine.py:Weighted")(output, target)
    assert loss == pytest.approx(10 * oracle_of("builtin")(output, target)[0], rel=1e-7)


def test_a_baseline_that_raises_in_float64_is_told(tmp_path, step):
    (tmp_path / "mine.py").write_text("def mse(output, target):\n    raise TypeError('float32 only')\n")
    output, target, loss, gradient = step
    with pytest.raises(OracleUnavailable) as unavailable:
        errors(oracle_of(f"{tmp_path}/mine.py:mse"), output, target, loss=loss, output_grad=gradient)
    assert str(unavailable.value) == "in float64 it raised TypeError: float32 only"


def test_a_baseline_that_narrows_is_told(tmp_path, step):
    (tmp_path / "mine.py").write_text("def mse(output, target):\n    return ((output - target) ** 2).mean().float()\n")
    output, target, loss, gradient = step
    with pytest.raises(OracleUnavailable) as unavailable:
        errors(oracle_of(f"{tmp_path}/mine.py:mse"), output, target, loss=loss, output_grad=gradient)
    assert str(unavailable.value) == "for float64 tensors it returned torch.float32"


def test_a_nan_that_only_the_candidate_has_is_an_infinite_error(step):
    output, target, loss, gradient = step
    wrong = gradient.clone()
    wrong[0, 0] = math.nan
    grad_error, _, ratio = errors(oracle_of("builtin"), output, target, loss=loss, output_grad=wrong)
    assert grad_error == math.inf and math.isnan(ratio)


def test_nans_that_both_have_leave_the_decision_to_the_rest(step):
    output, target, _, _ = step
    output[0, 0] = math.nan
    leaf = output.requires_grad_()
    loss = torch.nn.functional.mse_loss(leaf, target)
    (gradient,) = torch.autograd.grad(loss, leaf)
    measured = errors(oracle_of("builtin"), leaf, target, loss=loss, output_grad=gradient)
    assert 0 < measured[0] < 2 and measured[1] == 0
    assert errors(oracle_of("builtin"), leaf, target, loss=loss, output_grad=gradient * 2)[0] > 1e6


def test_a_gradient_of_nothing_is_exact(step):
    _, target, _, _ = step
    measured = errors(
        oracle_of("builtin"), target, target, loss=torch.tensor(0.0), output_grad=torch.zeros_like(target)
    )
    assert measured[:2] == (0, 0) and math.isnan(measured[2])
    wrong = errors(oracle_of("builtin"), target, target, loss=torch.tensor(1.0), output_grad=torch.ones_like(target))
    assert wrong[:2] == (math.inf, math.inf)


def test_bfloat16_is_measured_in_its_own_unit(step):
    output, target, _, _ = step
    leaf = output.bfloat16().requires_grad_()
    narrow = target.bfloat16()
    loss = torch.nn.functional.mse_loss(leaf, narrow)
    (gradient,) = torch.autograd.grad(loss, leaf)
    measured = errors(oracle_of("builtin"), leaf, narrow, loss=loss, output_grad=gradient)
    assert 0 < measured[0] < 3


def test_what_a_loss_keeps_in_a_file_that_it_imports_is_as_before_the_audit(tmp_path):
    """The training has the same module; what the loss itself keeps, the oracle's copy of the loss has for itself."""
    counter = "calls = 0\ndef count():\n    global calls\n    calls += 1\n    return calls\n"
    (tmp_path / "counter_of_calls.py").write_text(counter)
    (tmp_path / "mine.py").write_text(
        "def loss(output, target):\n"
        "    from counter_of_calls import count\n"
        "    return count() * ((output - target) ** 2).mean()\n"
    )
    task = load_task(parse_task("mnist-autoencoder"))
    (spec,) = parse_losses([f"{tmp_path}/mine.py:loss"], shipped=())
    loss, oracle = load_loss(spec, task), make_oracle(spec, task)
    output, target = torch.ones(2, 3), torch.zeros(2, 3)
    assert float(loss(output, target)) == 1.0
    assert [oracle(output, target)[0] for _ in range(2)] == [2.0, 2.0]
    assert float(loss(output, target)) == 2.0
