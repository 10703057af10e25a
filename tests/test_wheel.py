"""What pip installs: a wheel in an empty folder, an editable clone from the folder above it, types, metadata."""

import email
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from parity.version import __version__

from conftest import ROOT

BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"
USERS = """
from pathlib import Path

import parity


def mse(output: object, target: object) -> object:
    return output


def checked(out: Path) -> str:
    try:
        result: parity.CheckResult = parity.check(mse, steps=20, out=out)
    except parity.Trouble as trouble:
        return str(trouble)
    with parity.Recorder("runs/mine", None) as recorder:
        recorder.step()
    return f"{parity.__version__} {result.line if result.passed else result.verdict}"
"""
# The path of Python above a clone, with what is installed there and without the parity of these tests; -I has left out
# the current folder.
ABOVE = """
import pathlib, site, sys
# Without the parity that runs the tests, which is installed in the same way.
sys.path[:] = ["", *(each for each in sys.path if not pathlib.Path(each, "parity", "__init__.py").exists())]
sys.meta_path[:] = [each for each in sys.meta_path if "editable" not in repr(each)]
site.addsitedir(sys.argv[1])
import parity
print(parity.__file__, parity.Trouble.__name__)
"""
# Other packages are neither searched for errors nor read: torch and numpy bring stubs, and mypy would take ten seconds.
TYPES = """
[mypy]
strict = true
follow_imports = skip
[mypy-parity.*]
ignore_errors = true
follow_imports = normal
[mypy-numpy.*,torch.*]
follow_imports_for_stubs = true
"""


def build(folder, kind):
    """Builds a wheel of a copy of the sources, which is called as the package is; returns where it was unpacked."""
    clone = folder / "parity"
    ignored = shutil.ignore_patterns("__pycache__", ".mypy_cache", "*-ubyte.zst")
    shutil.copytree(ROOT / "parity", clone / "parity", ignore=ignored)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    subprocess.run([sys.executable, "-c", BUILD, kind, str(folder)], cwd=clone, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with all that the wheel has."""
    return build(tmp_path_factory.mktemp("wheel"), "build_wheel")


@pytest.fixture
def installed(site, tmp_path, monkeypatch):
    """Runs python in an empty folder, where the wheel is what there is of parity."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # the folder stays what the wheel has

    def run(*arguments):
        arguments = [sys.executable, *map(str, arguments)]
        return subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def metadata(site):
    (path,) = site.glob("*.dist-info")
    return email.message_from_bytes((path / "METADATA").read_bytes()), (path / "entry_points.txt").read_text()


def test_the_wheel_works_in_an_empty_folder(installed, site, equal_pair):
    where = installed("-c", "import parity; print(parity.__file__)")
    assert where.stdout.strip() == f"{site}/parity/__init__.py"
    version = installed("-m", "parity", "--version")
    assert (version.returncode, version.stdout) == (0, f"parity {__version__}\n")
    columns = installed("-m", "parity", "columns")
    assert columns.returncode == 0 and "`output_grad_digest`" in columns.stdout
    report = installed("-m", "parity", "report", equal_pair, "--html", "page.html")
    assert report.returncode == 0 and "identical" in report.stdout, report.stderr
    submit = installed("-m", "parity", "submit", "--address", "x", "--out", "/x", "--dry-run", "--python", "python")
    assert submit.returncode == 0 and "parity/cluster/jobs/pack_run.py" in submit.stdout, submit.stderr


def test_the_wheel_has_all_modules_and_files_and_nothing_else(site):
    wanted = {path.relative_to(ROOT) for path in (ROOT / "parity").rglob("*") if path.is_file()}
    wanted = {path for path in wanted if "__pycache__" not in path.parts and path.suffix != ".zst"}
    assert {path.relative_to(site) for path in (site / "parity").rglob("*") if path.is_file()} == wanted
    assert {path.name for path in site.iterdir()} == {"parity", f"training_parity-{__version__}.dist-info"}


def test_the_metadata_is_whole(site):
    message, entry_points = metadata(site)
    assert message["License-Expression"] == "MIT AND CC-BY-SA-3.0"
    assert len(message.get_all("License-File")) == 3
    assert message["Author"] and message["Keywords"]
    assert {"Typing :: Typed", "Framework :: Pytest"} <= {*message.get_all("Classifier")}
    assert re.search(r"^parity = parity.__main__:main$", entry_points, re.MULTILINE)
    assert re.search(r"^parity = parity.pytest_plugin$", entry_points, re.MULTILINE)


def test_an_index_shows_the_description_whole(site):
    """It has neither the pictures nor the pages of the repository."""
    text = metadata(site)[0].get_payload()
    assert "parity check mine.py:MyLoss" in text
    assert re.findall(r"\]\((?!https://)", text) == []


def test_each_version_of_python_that_is_named_can_compile_the_code(site):
    """By its grammar; what it installs and runs is tried by hand, see docs/develop/release.md."""
    import ast

    assert metadata(site)[0]["Requires-Python"] == ">=3.10"
    for path in (site / "parity").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


def test_an_editable_install_works_from_above_a_clone_that_is_called_parity(tmp_path):
    """The folder has no __init__.py, and Python would take it for a package without code."""
    site = build(tmp_path, "build_editable")
    (line,) = [line for path in site.glob("*.pth") for line in path.read_text().splitlines()]
    assert Path(line) == tmp_path / "parity"
    ended = subprocess.run(
        [sys.executable, "-I", "-c", ABOVE, str(site)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == [f"{tmp_path}/parity/parity/__init__.py", "Trouble"], ended.stderr


def test_the_types_of_a_users_file_are_checked(site, tmp_path, monkeypatch):
    assert (site / "parity" / "py.typed").is_file()
    monkeypatch.setenv("MYPYPATH", str(site))
    (tmp_path / "mypy.ini").write_text(TYPES)
    (tmp_path / "right.py").write_text(USERS)
    (tmp_path / "wrong.py").write_text(USERS.replace("result.passed", "result.pased").replace("steps=", "step="))
    arguments = [sys.executable, "-m", "mypy", "right.py", "wrong.py"]
    ended = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    found = [line.partition(": error: ")[::2] for line in ended.stdout.splitlines() if ": error: " in line]
    assert [place.partition(":")[0] for place, _ in found] == ["wrong.py", "wrong.py"], ended.stdout
    assert 'keyword argument "step"' in found[0][1] and 'no attribute "pased"' in found[1][1]


def test_dir_shows_the_public_names():
    import parity

    names = ["CheckResult", "Recorder", "Trouble", "__version__", "check", "compare_logprobs"]
    assert sorted(parity.__all__) == names
    assert dir(parity) == sorted([*names, "accelerate", "hf", "lightning"])
    assert all(hasattr(parity, name) for name in names)

    assert importlib.metadata.version("training-parity") == __version__
