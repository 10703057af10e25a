import numpy as np
import pytest
import torch

from parity.ground.errors import Trouble
from parity.plan.loss_spec import parse_losses
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task
from parity.plan.user_code import CodeSpec
from parity.tasks.loading import load_task
from parity.tasks.losses import load_loss, mse_float64


def tensors(dtype=torch.float32):
    torch.manual_seed(1)
    return torch.rand(5, 7, dtype=dtype, requires_grad=True), torch.rand(5, 7, dtype=dtype)


def load(text, task="mnist-autoencoder"):
    (spec,) = parse_losses([text], shipped=SHIPPED_LOSSES)
    return load_loss(spec, load_task(parse_task(task)))


@pytest.mark.parametrize("name", SHIPPED_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shipped_loss_and_its_gradient_equal_the_closed_form(name, dtype):
    output, target = tensors(dtype)
    loss = load(name)(output, target)
    (gradient,) = torch.autograd.grad(loss, output)
    expected_loss, expected_gradient = mse_float64(output.detach().numpy(), target.numpy())
    assert loss.dtype == gradient.dtype == dtype and loss.shape == ()
    unit = torch.finfo(dtype).eps
    np.testing.assert_allclose(loss.item(), expected_loss, rtol=8 * unit)
    np.testing.assert_allclose(gradient.numpy(), expected_gradient, rtol=8 * unit, atol=unit / 8)


def test_the_closed_form_is_float64_from_the_first_operation_on():
    output, target = np.full((1, 2), 1, np.float32), np.full((1, 2), 2**-30, np.float32)
    loss, gradient = mse_float64(output, target)
    assert loss == (1 - 2**-30) ** 2
    assert gradient.tolist() == [[1 - 2**-30, 1 - 2**-30]]


def test_the_numpy_loss_scales_with_grad_output_and_spares_the_target():
    output, target = tensors()
    loss = load("numpy")(output, target)
    (once,) = torch.autograd.grad(loss, output, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, output)
    assert torch.allclose(thrice, 3 * once)
    assert not target.requires_grad


@pytest.mark.parametrize("name", ["functional", "Module", "module_instance", "ReorderedGradient"])
def test_a_function_a_module_an_instance_and_a_function_subclass_are_losses(name):
    output, target = tensors()
    assert torch.allclose(load(f"tests/right_losses.py:{name}")(output, target), load("builtin")(output, target))
    assert torch.allclose(load(f"tests.right_losses:{name}")(output, target), load("builtin")(output, target))


def test_what_cannot_be_called_is_reported(tmp_path):
    (tmp_path / "mine.py").write_text("from math import pi as taken\n")
    (spec,) = parse_losses([f"{tmp_path}/mine.py:taken"], shipped=SHIPPED_LOSSES)
    with pytest.raises(Trouble) as trouble:
        load_loss(spec, load_task(parse_task("mnist-autoencoder")))
    assert str(trouble.value) == (
        f"{spec.path}:taken is of type float. A loss is a function (output, target), an nn.Module (class or "
        "instance) or an autograd.Function subclass."
    )


def test_a_class_of_another_kind_is_reported(tmp_path):
    (tmp_path / "mine.py").write_text("if True:\n    class Mse: ...\n")
    with pytest.raises(Trouble, match=r"mine\.py:Mse is the class Mse\. A loss is"):
        load(f"{tmp_path}/mine.py:Mse")


def test_an_attribute_that_only_the_module_itself_can_deny_is_reported():
    with pytest.raises(Trouble) as trouble:
        load_loss(
            CodeSpec(name="mse", attr="mse", module="tests.right_losses"), load_task(parse_task("mnist-autoencoder"))
        )
    assert str(trouble.value) == "tests.right_losses has no attribute 'mse'. Check the spelling."


def test_each_load_of_a_file_has_globals_of_its_own():
    output, target = tensors()
    for _ in range(2):
        loss = load("tests/wrong_losses.py:raising_at_30")
        for _ in range(20):
            loss(output, target)


def test_a_file_imports_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("factor = 1.0\n")
    (tmp_path / "mine.py").write_text(
        "import neighbour_of_mine\n\ndef mse(output, target):\n"
        "    return ((output - target) ** 2).mean() * neighbour_of_mine.factor\n"
    )
    output, target = tensors()
    assert torch.allclose(load(f"{tmp_path}/mine.py:mse")(output, target), load("builtin")(output, target))


def test_a_file_that_is_gone_still_shows_its_lines_in_a_traceback(tmp_path):
    import traceback

    path = tmp_path / "mine.py"
    path.write_text("def mse(output, target):\n    raise ValueError  # planted here\n")
    loss = load(f"{path}:mse")
    path.unlink()
    with pytest.raises(ValueError) as raised:
        loss(None, None)
    assert "# planted here" in "".join(traceback.format_exception(raised.value))
