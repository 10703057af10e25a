"""What each part of parity needs: stored runs are judged without torch, Ray and pandas, and training without Ray.

The environments are pretended: a child process cannot import what they lack.
"""

import importlib.metadata
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity.ground.command import guarded
from parity.ground.packages import how_to_install

ROOT = Path(__file__).parents[1]
# Runs a command in which only these packages, and what they need, can be imported; or all but some.
WITH = """
import importlib.machinery, json, runpy, sys
allowed, missing, arguments = json.loads(sys.argv[1])

class Lacking:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in missing:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        if path is None and allowed and top not in allowed and top not in sys.stdlib_module_names:
            found = importlib.machinery.PathFinder.find_spec(name)
            if found and "site-packages" in (found.origin or "") + str(found.submodule_search_locations or ""):
                raise ModuleNotFoundError(f"No module named {top!r}", name=top)

sys.meta_path.insert(0, Lacking())
sys.argv = arguments
runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
"""


def run(*arguments, allowed=(), missing=()):
    given = json.dumps([[*allowed], [*missing], [*map(str, arguments)]])
    return subprocess.run(
        [sys.executable, "-c", WITH, given], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def requirements(path):
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def with_dependencies(names):
    """These distributions and all that they need, without extras."""
    found, waiting = set(), [*names]
    while waiting:
        name = re.split(r"[ <>=!~;\[(]", waiting.pop())[0].lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        needed = importlib.metadata.requires(name) or [] if is_installed(name) else []
        waiting += [each for each in needed if "extra ==" not in each]
    return found


def is_installed(name):
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def importable(names):
    """The names under which these distributions are imported."""
    by_module = importlib.metadata.packages_distributions()
    owners = {module: {each.lower().replace("_", "-") for each in owners} for module, owners in by_module.items()}
    return {module for module, each in owners.items() if each & names} | {"parity"}


@pytest.fixture(scope="module")
def judging():
    """What can be imported where `requirements/judge.txt` is installed."""
    names = with_dependencies(requirements(ROOT / "requirements" / "judge.txt"))
    assert not names & {"torch", "torchvision", "ray", "pandas"}
    return importable(names)


def test_a_run_is_judged_and_its_page_made_with_what_judge_txt_installs(reference, judging, tmp_path):
    done = run("parity.report", reference, "--html", tmp_path / "page.html", allowed=judging)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rounding" in done.stdout
    assert (tmp_path / "page.html").stat().st_size > 2**20


def test_two_runs_are_joined_there_and_each_format_is_made(reference, judging):
    for form in ("markdown", "json"):
        done = run("parity.report", "--format", form, reference, reference, allowed=judging)
        assert done.returncode == 0, done.stderr[-2000:]


def assert_lacks(done, package, without, requirement):
    """Asserts that a command has ended with the message about a package that is missing."""
    assert done.returncode == 2
    assert done.stderr.endswith(
        f"parity: the package {package} is not installed in this environment. {without} Install it with\n"
        f'{sys.executable} -m pip install "{requirement}"\n'
    ), done.stderr
    assert "Traceback" not in done.stderr


def test_training_there_says_what_is_missing(judging, tmp_path):
    done = run("parity.run", "--inline", "--device", "cpu", "--steps", 2, "--out", tmp_path / "run", allowed=judging)
    assert_lacks(done, "torch", "Reading and judging stored runs (parity.report) works without it.", "torch>=2.6")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["parity.run", "parity.devices"])
def test_what_needs_ray_says_so(command):
    without = "--inline, parity.check and parity.Recorder work without it."
    assert_lacks(run(command, missing=["ray"]), "ray", without, "ray>=2.59")


def test_jobs_say_what_they_need(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.create_server(("127.0.0.1", 0)) as dashboard:
        address = f"http://127.0.0.1:{dashboard.getsockname()[1]}"
        done = run("jobs.submit", "--address", address, "--status", "--id", "x", missing=["aiohttp"])
    assert_lacks(done, "aiohttp", "Only parity submit and Ray's dashboard need it.", "ray[default]>=2.59")


def test_inline_trains_without_ray_and_torchvision(tmp_path):
    options = ["--inline", "--device", "cpu", "--steps", 2, "--out", tmp_path / "run"]
    done = run("parity.run", *options, missing=["ray", "torchvision"])
    assert done.returncode == 0, done.stderr[-2000:]


def test_each_requirement_is_one_of_the_package_and_the_messages_ask_for_these():
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1])
    assert set(requirements(ROOT / "requirements" / "judge.txt")) <= set(dependencies)
    for package in ("torch", "torchvision", "ray", "pandas", "pynvml"):
        said = how_to_install(ModuleNotFoundError("", name=f"{package}.part"))
        assert re.search(r'install "(.+)"$', said)[1] in dependencies
    for package in ("lightning", "accelerate", "transformers"):
        said = how_to_install(ModuleNotFoundError("", name=package))
        assert f'    "{re.search(r"install .(.+).$", said)[1]}",\n' in text  # of the test extra
    said = how_to_install(ModuleNotFoundError("", name="aiohttp"))
    assert f'cluster = ["{re.search(r"install .(.+).$", said)[1]}"]' in text
    assert how_to_install(ModuleNotFoundError("", name="somebodys_module")) is None


def test_a_module_that_is_none_of_ours_is_shown_with_its_traceback(capsys):
    def imports():
        raise ModuleNotFoundError("No module named 'somebodys_module'", name="somebodys_module")

    assert guarded(imports) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('import ctypes\nctypes.CDLL("libnone.so.12")', "libnone.so.12: cannot open shared object file: "),
        ("from json import nothing_such", "cannot import name 'nothing_such' from 'json' ("),
        ("import none_such", "No module named 'none_such'"),
    ],
    ids=["library", "version", "package"],
)
def test_a_package_that_cannot_be_loaded_is_named_and_no_bug_of_ours(tmp_path, monkeypatch, capsys, source, found):
    (tmp_path / "shtab.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shtab", raising=False)
    assert guarded(lambda: importlib.import_module("shtab") and 0) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"parity: the package shtab is installed, but cannot be imported: {found}")
    assert err.endswith(
        f". Only parity --completion needs it. If this fails, too,\n{sys.executable} -c 'import shtab'\n"
        f'then install it again with\n{sys.executable} -m pip install --force-reinstall "shtab>=1.13"\n'
    )


@pytest.mark.parametrize(
    ("module", "package"),
    [("lightning", "lightning"), ("accelerate", "accelerate"), ("hf", "accelerate"), ("hf", "transformers")],
)
def test_a_library_whose_loop_is_recorded_is_named_with_its_command(monkeypatch, module, package):
    for name in [each for each in sys.modules if each.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("accelerate", "lightning", "hf"):
        monkeypatch.delitem(sys.modules, f"parity.{name}", raising=False)
        # Not `delattr`, which asks for the name first, and so imports it.
        monkeypatch.delitem(vars(parity), name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as error:
        getattr(parity, module)
    known = f"parity.{'accelerate' if package == 'accelerate' else module}: the package {package} is not installed in"
    assert str(error.value).startswith(known) and f'pip install "{package}>=' in str(error.value)


def test_from_python_the_message_is_the_same():
    program = "import parity\nparity.Recorder"
    lacking = "import sys; sys.modules['torch'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", lacking + program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (
        "ModuleNotFoundError: parity.Recorder: the package torch is not installed in this environment." in done.stderr
    )
