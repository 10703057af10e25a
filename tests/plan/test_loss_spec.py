import hashlib
from pathlib import Path

import pytest

from parity.ground.errors import Trouble
from parity.plan import loss_spec
from parity.plan.task_spec import SHIPPED_LOSSES, TASKS, parse_task
from parity.tasks.loading import load_task


def parse_losses(texts):
    return loss_spec.parse_losses(texts, shipped=SHIPPED_LOSSES)


def trouble(*texts):
    with pytest.raises(Trouble) as caught:
        parse_losses(texts)
    return str(caught.value)


def test_the_plan_knows_the_shipped_losses_by_name():
    for name in TASKS:
        assert set(SHIPPED_LOSSES) == set(load_task(parse_task(name)).losses)


def test_a_file_travels_by_content():
    (spec,) = parse_losses(["tests/right_losses.py:row_means"])
    content = Path("tests/right_losses.py").read_bytes()
    assert (spec.name, spec.attr, spec.source) == ("row_means", "row_means", content.decode())
    assert spec.sha256 == hashlib.sha256(content).hexdigest()


def test_losses_of_one_name_are_distinguished_by_file(tmp_path):
    for name in ("old", "new"):
        (tmp_path / f"{name}.py").write_text("def mse(output, target): ...\n")
    specs = parse_losses(["builtin", f"{tmp_path}/old.py:mse", f"{tmp_path}/new.py:mse"])
    assert [spec.name for spec in specs] == ["builtin", "old.mse", "new.mse"]


@pytest.mark.parametrize("text", ["mse2", ":", "a.py:", ":mse", "torch.nn:not an identifier"])
def test_an_unknown_loss_is_reported(text):
    assert trouble("builtin", text) == (
        f"Unknown loss {text!r}. Known losses: builtin, numpy; or give module:attr or file.py:attr."
    )


def test_a_missing_file_is_reported():
    assert trouble("nowhere/mine.py:mse") == (
        f"Loss file 'nowhere/mine.py' does not exist (looked in {Path.cwd()}). Check the path."
    )


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "folder.py").mkdir()
    assert trouble(f"{tmp_path}/folder.py:mse").startswith(f"Loss file '{tmp_path}/folder.py' cannot be read (")


def test_a_file_that_is_not_python_is_reported(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ndef mse(:\n")
    assert trouble(f"{path}:mse") == f"Loss file '{path}' is not valid Python (line 2: invalid syntax). Correct it."


def test_a_missing_attribute_is_reported(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import math as m\nif m:\n    class Mse: ...\nhuber = _private = 1\n")
    assert trouble(f"{path}:mse") == f"Loss file '{path}' has no attribute 'mse'. It has: Mse, huber, m."


@pytest.mark.parametrize(
    "source",
    [
        "from helpers import *\n",
        "try:\n    import mse\nexcept ImportError:\n    mse = None\n",
        "with open('x') as mse: ...\n",
        "for mse in (): ...\n",
        "def __getattr__(name): ...\n",
        "a, (mse, *b) = 1, (2, 3)\n",
    ],
)
def test_a_name_bound_in_any_way_is_found(tmp_path, source):
    (tmp_path / "mine.py").write_text(source)
    assert parse_losses([f"{tmp_path}/mine.py:mse"])[0].name == "mse"


def test_a_module_is_found_without_running_it():
    (spec,) = parse_losses(["tests.right_losses:functional"])
    assert (spec.name, spec.module, spec.path) == ("functional", "tests.right_losses", None)


def test_a_missing_module_is_reported():
    assert trouble("nowhere.mine:mse") == (
        "Module 'nowhere.mine' was not found in the current folder or among the installed packages. "
        "Check the name; for a file, give path/to/file.py:attr."
    )


def test_a_module_without_the_attribute_is_reported():
    assert trouble("tests.right_losses:mse").startswith("Module 'tests.right_losses' has no attribute 'mse'. It has: ")


def test_a_loss_given_twice_is_reported():
    assert trouble("builtin", "builtin") == (
        "Loss 'builtin' is given 2 times. Give each once; to repeat trials, use --replicas."
    )
