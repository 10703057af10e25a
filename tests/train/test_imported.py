"""What a process has imported from outside of the environment, by name and content."""

import hashlib
import importlib

import pytest

from parity import run
from parity.store.storage import parse_path
from parity.store.stored_run import read_run
from parity.train.imported import imported_files
from parity.version import package_sha256

from conftest import own_environment

LOSS = """
import importlib
import json

import beside

dynamic = importlib.import_module("dyna" + "mic")


def mine(output, target):
    return ((output - target) ** 2).mean() * beside.FACTOR * dynamic.FACTOR
"""


@pytest.fixture
def loss(tmp_path):
    (tmp_path / "mine.py").write_text(LOSS)
    for name in ("beside", "dynamic"):
        (tmp_path / f"{name}.py").write_text("FACTOR = 1.0\n")
    importlib.invalidate_caches()
    return f"{tmp_path}/mine.py:mine"


def line(path, name):
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}"


def test_a_run_stores_what_was_imported_beside_what_travels(loss, tmp_path):
    with own_environment():
        arguments = ["--inline", "--device", "cpu", "--steps", "3", "--loss", "builtin", loss]
        assert run.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    builtin, mine = read_run(parse_path(str(tmp_path / "run"))).trials
    assert line(tmp_path / "dynamic.py", "dynamic.py") in mine.imported
    assert not [each for each in mine.imported if each.endswith(("beside.py", "mine.py", "json/__init__.py"))]
    assert builtin.parity_sha256 == mine.parity_sha256 == package_sha256()
    assert builtin.code_sha256 is None and len(mine.code_sha256) == 64


def test_names_are_those_below_the_folder_of_the_import(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    for name in ("__init__", "module"):
        (tmp_path / "inside" / f"{name}.py").write_text(f"# {name}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("inside.module")
    found = [each for each in imported_files() if each.partition("  ")[2].startswith("inside/")]
    assert found == [line(tmp_path / "inside" / f"{name}.py", f"inside/{name}.py") for name in ("__init__", "module")]
    (tmp_path / "inside" / "module.py").write_text("# another one\n")
    assert line(tmp_path / "inside" / "module.py", "inside/module.py") in imported_files()
    (tmp_path / "inside" / "module.py").unlink()
    assert not [each for each in imported_files() if each.endswith("inside/module.py")]


@pytest.mark.parametrize("text", ["raise ValueError('everywhere')", "this is no Python"])
def test_a_file_that_travels_is_not_looked_for_on_the_disk_because_it_raises(loss, tmp_path, text):
    (tmp_path / "beside.py").write_text(text)
    with own_environment():
        arguments = ["--inline", "--device", "cpu", "--steps", "3", "--loss", "builtin", loss]
        assert run.main([*arguments, "--out", str(tmp_path / "run")]) == 1
    _, mine = read_run(parse_path(str(tmp_path / "run"))).trials
    assert mine.status == "failed" and "beside" in (mine.traceback or "") + (mine.error or "")
    assert not [each for each in mine.imported or [] if each.endswith("beside.py")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("module.py", "raise ValueError('on this machine')"),
        ("module.py", "this is no Python"),
        ("module/__init__.py", "this is no Python"),
        ("module/__init__.py", "raise ValueError('on this machine')"),
        ("module/sub.py", "import module_that_is_not_there"),
    ],
)
def test_a_file_whose_import_raises_is_named_with_the_error(tmp_path, monkeypatch, name, text):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ValueError, SyntaxError, ImportError)) as raised:
        importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert line(tmp_path / name, name) not in imported_files()
    try:
        raise RuntimeError("loading the loss") from raised.value
    except RuntimeError as error:
        assert line(tmp_path / name, name) in imported_files(error)


def test_what_is_installed_or_ships_with_python_is_not_named():
    import torch  # noqa: F401

    names = [each.partition("  ")[2] for each in imported_files()]
    assert not [name for name in names if name.split("/")[0] in ("torch", "json", "parity", "pytest", "_ops.py")]


def test_the_digest_of_parity_is_that_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("parity.version.__file__", str(tmp_path / "version.py"))
    digests = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("sub/a.py", "2"), ("data.txt", "1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        digests.add(package_sha256.__wrapped__())
    assert len(digests) == 3, "the data are no code"
