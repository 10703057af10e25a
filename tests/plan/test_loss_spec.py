import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from parity.ground.errors import Trouble
from parity.plan import loss_spec
from parity.plan.task_spec import SHIPPED_LOSSES, TASKS, parse_task
from parity.plan.user_code import load_code
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


# What a file may have: losses, what only looks like one, and what cannot be one.
MANY = """
import numpy as np
from somewhere import taken

BATCH = 256
TEXT: str = "mse"
factors = [1, 2]

def mse(output, target, *, factor=1): ...
def no_arguments(): ...
def _private(output, target): ...
async def later(output, target): ...
def by_three(output, target, weights=None): ...

class Settings: ...
class More(Settings): ...
@called
class _Instance:
    def __call__(self, output, target): ...
class Scaled(nn.Module): ...
class Weighted(nn.Module):
    def __init__(self, weight, factor=1, *, scale): ...

called = nn.MSELoss()
halved = Scaled.apply
twice = 1
twice = nn.MSELoss()
"""


@pytest.mark.parametrize("text", ["mse2", ":", ":mse", "torch.nn:not an identifier"])
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


def test_the_mark_that_editors_put_before_a_text_belongs_to_no_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "marked_helper.py").write_text("def mse(output, target): ...\n", encoding="utf-8-sig")
    path = tmp_path / "marked.py"
    path.write_text("from marked_helper import mse\n", encoding="utf-8-sig")
    (spec,) = parse_losses([f"{path}:mse"])
    assert spec.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in spec.files] == ["marked_helper.py"]
    assert load_code(spec).__module__ == "marked_helper"


def test_a_module_is_read_as_python_reads_it(tmp_path, monkeypatch):
    code = "# Größe\ndef mse(output, target): ...\n"
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as zipped:
        zipped.writestr("zipped_loss.py", code)
    (tmp_path / "latin_loss.py").write_text(f"# -*- coding: latin-1 -*-\n{code}", encoding="latin-1")
    (tmp_path / "marked_loss.py").write_text(code, encoding="utf-8-sig")
    (tmp_path / "broken_loss.py").write_text(code, encoding="latin-1")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "zipped.zip"), str(tmp_path), *sys.path])
    for name in ("zipped_loss", "latin_loss", "marked_loss"):
        (spec,) = parse_losses([f"{name}:mse"])
        assert load_code(spec).__module__ == name
        monkeypatch.delitem(sys.modules, name, raising=False)
        assert trouble(f"{name}:msee").startswith(f"Module '{name}' has no attribute 'msee'. It has: mse. Did you mean")
    said = trouble("broken_loss:mse")
    assert said.startswith("Module 'broken_loss' cannot be read (") and said.endswith("). Correct its file.")


def test_a_file_with_a_nul_is_reported(tmp_path):
    path = tmp_path / "nul.py"
    path.write_bytes(b"x = 1\0")
    assert trouble(f"{path}:x") == (
        f"Loss file '{path}' is not valid Python (source code string cannot contain null bytes). Correct it."
    )


def test_a_missing_attribute_is_reported(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MANY)
    assert trouble(f"{path}:scale") == (
        f"Loss file '{path}' has no attribute 'scale'. It has: Scaled, by_three, called, halved, mse. "
        f"Did you mean {path}:Scaled?"
    )
    path.write_text("import math as m\n")
    assert trouble(f"{path}:mse") == f"Loss file '{path}' has no attribute 'mse'. Give the name of a loss in it."


@pytest.mark.parametrize("end", ["", ":"])
def test_the_losses_of_a_file_without_a_name_are_listed(tmp_path, end):
    path = tmp_path / "mine.py"
    path.write_text(MANY)
    assert trouble(f"{path}{end}") == (
        f"Loss file '{path}' is given without the name of a loss in it. "
        f"It has: Scaled, by_three, called, halved, mse. Give {path}:NAME."
    )
    path.write_text("import math as m\n")
    assert trouble(f"{path}{end}") == (
        f"Loss file '{path}' is given without the name of a loss in it. It defines nothing that can be a loss. "
        f"Give {path}:NAME."
    )


@pytest.mark.parametrize(
    ("attr", "is_"),
    [
        ("BATCH", "the constant 256"),
        ("TEXT", "the constant 'mse'"),
        ("factors", "a list"),
        ("Settings", "the class Settings, which has no base class"),
        ("More", "the class More, which has no base class"),
        ("Weighted", "the class Weighted, which cannot be made without weight, scale"),
    ],
)
def test_what_can_certainly_not_be_a_loss_is_reported_at_once(tmp_path, attr, is_):
    path = tmp_path / "mine.py"
    path.write_text(MANY)
    assert trouble(f"{path}:{attr}") == (
        f"Loss file '{path}': {attr} is {is_}. A loss is a function (output, target), an nn.Module (class or instance) "
        "or an autograd.Function subclass. It has: Scaled, by_three, called, halved, mse."
    )


@pytest.mark.parametrize("attr", ["taken", "np", "no_arguments", "twice", "mse", "_Instance"])
def test_what_may_be_a_loss_is_left_to_its_loading(tmp_path, attr):
    """Such as what is imported, bound twice, or called wrongly: the trial says what is wrong with it."""
    (tmp_path / "mine.py").write_text(MANY)
    assert parse_losses([f"{tmp_path}/mine.py:{attr}"])[0].name == attr


def test_a_module_that_is_imported_already_is_asked_itself():
    """torch.nn has its losses by a star import, which its text does not show."""
    pytest.importorskip("torch")
    assert parse_losses(["torch.nn:MSELoss"])[0].module == "torch.nn"
    assert trouble("torch.nn:MSELos") == ("Module 'torch.nn' has no attribute 'MSELos'. Did you mean torch.nn:MSELoss?")


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
