"""The floors of docs/develop/architecture.md hold: what is planted against each is refused; nothing is overlong."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise

import pytest
from importlinter.api import read_configuration

from conftest import ROOT

LONGEST_MODULE_LINES = 300
LONGEST_FUNCTION_LINES = 60
ARCHITECTURE = ROOT / "docs" / "develop" / "architecture.md"
CONTRACTS = {
    contract["id"]: contract for contract in read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
}
# What the project keeps in its top folder.
TOP = [
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "benchmarks",
    "cluster.yaml",
    "docs",
    "jobs",
    "parity",
    "pyproject.toml",
    "requirements",
    "tests",
]
KINDS = {"measuring": "layers", "judging": "layers", "columns": "forbidden", "columns-back": "forbidden"}

# A planted import comes in three forms, at these lines: as usual, lazy, and for type checkers.
FORMS = """

from typing import TYPE_CHECKING as _for_types

import {above}

def _planted():
    import {above}

if _for_types:
    import {above}
"""
LINES_OF_FORMS = (5, 8, 11)
HALF_OF_A_CIRCLE = """
def _planted():
    import parity.judge.{other}
"""


@dataclass(frozen=True)
class Upward:
    """One import that a contract forbids: of a module or package `above`, by the one `below`."""

    contract: str
    below: str
    above: str

    def __str__(self):
        return f"{self.contract}: {self.below} imports {self.above}"


def upward_imports(contract):
    """In layers, each floor imports the one above it; of packages that must not know each other, each imports each."""
    if contract["type"] == "layers":
        floors = [floor.split("|")[0].strip() for floor in contract["layers"]]
        return [Upward(contract["id"], below, above) for above, below in pairwise(floors)]
    sources, targets = contract["source_modules"], contract["forbidden_modules"]
    return [Upward(contract["id"], below, above) for below in sources for above in targets]


UPWARD = [each for contract in KINDS for each in upward_imports(CONTRACTS[contract])]


def source_of(folder, module):
    """The file of a module or package in a folder."""
    path = folder.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def copy_of_the_package(folder):
    """Copies the package's code, without its data, and the contracts; returns the folder."""
    ignored = shutil.ignore_patterns("data", "__pycache__", "*.js", "*.css", "*.j2")
    shutil.copytree(ROOT / "parity", folder / "parity", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder):
    """Runs lint-imports in a folder, in a process of its own since this one has imported the package already.

    Returns:
        What it says of each broken contract, as one line, by the contract's identifier.
    """
    program = "from importlinter.cli import lint_imports_command as main; main(['--no-cache', '--no-logo'])"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "300", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    # Behind "Broken contracts", each of them has its name as a heading, underlined.
    _, _, details = ended.stdout.partition("\nBroken contracts\n")
    headings = re.split(r"^(.+)\n-+\n", details, flags=re.MULTILINE)
    said = {name: " ".join(text.split()) for name, text in zip(headings[1::2], headings[2::2], strict=True)}
    broken = {each["id"]: said.pop(each["name"]) for each in CONTRACTS.values() if each["name"] in said}
    kept = len(CONTRACTS) - len(broken)
    assert f"Contracts: {kept} kept, {len(broken)} broken." in ended.stdout, ended.stdout + ended.stderr
    assert not said and ended.returncode == bool(broken)
    return broken


def test_the_house_as_it_is_breaks_no_contract(tmp_path):
    assert lint(copy_of_the_package(tmp_path)) == {}


def test_every_package_stands_on_a_floor():
    layers = [layer for each in ("measuring", "judging") for layer in CONTRACTS[each]["layers"]]
    floors = {name.strip() for layer in layers for name in layer.split("|")}
    packages = {f"parity.{path.parent.name}" for path in (ROOT / "parity").glob("*/__init__.py")}
    assert len(packages) >= 8 and packages - floors == set()


def test_each_contract_is_tried():
    assert {name: each["type"] for name, each in CONTRACTS.items()} == {**KINDS, "circles": "acyclic_siblings"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """What the linter says of a copy with all the upward imports; and for each, the lines that it stands on."""
    folder = copy_of_the_package(tmp_path_factory.mktemp("planted"))
    lines = {}
    for each in UPWARD:
        path = source_of(folder, each.below)
        code = path.read_text(encoding="utf-8")
        lines[each] = [len(code.splitlines()) + line for line in LINES_OF_FORMS]
        path.write_text(code + FORMS.format(above=each.above), encoding="utf-8")
    return lint(folder), lines


@pytest.mark.parametrize("upward", UPWARD, ids=str)
def test_an_upward_import_is_refused_and_named_also_when_lazy_or_for_types(planted, upward):
    broken, lines = planted
    places = ", ".join(f"l.{line}" for line in lines[upward])
    assert f"- {upward.below} -> {upward.above} ({places})" in broken[upward.contract]


def test_a_circle_within_a_package_is_refused_and_named(tmp_path):
    folder = copy_of_the_package(tmp_path)
    for name, other in (("first_half", "second_half"), ("second_half", "first_half")):
        source_of(folder, f"parity.judge.{name}").write_text(HALF_OF_A_CIRCLE.format(other=other), encoding="utf-8")
    broken = lint(folder)
    assert list(broken) == ["circles"]
    assert "first_half" in broken["circles"] and "second_half" in broken["circles"]


def sources():
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "parity").rglob("*.py")}


def long_functions(source, *, limit):
    """Each function that has more lines than the limit, its docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                count -= node.body[0].end_lineno - node.body[0].lineno + 1
            if count > limit:
                yield f"{node.name}: {count} lines"


def test_no_module_is_long_without_a_reason():
    """The reason stands in the architecture page, with the module's path."""
    reasons = ARCHITECTURE.read_text(encoding="utf-8")
    long = [path for path, source in sources().items() if len(source.splitlines()) > LONGEST_MODULE_LINES]
    assert [path for path in long if path not in reasons] == []


def test_no_function_is_long():
    found = {path: list(long_functions(source, limit=LONGEST_FUNCTION_LINES)) for path, source in sources().items()}
    assert {path: functions for path, functions in found.items() if functions} == {}


LONG = '''
class A:
    def f(self):
        """A docstring of
        two lines.
        """
        a = 1
        b = 2
        return a + b
'''


def test_a_long_function_would_be_found():
    assert list(long_functions(LONG, limit=4)) == []
    assert list(long_functions(LONG, limit=3)) == ["f: 4 lines"]


def twice_named(source):
    """The names that a module gives a value at its top level more than once."""
    names = [
        target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    return sorted({name for name in names if names.count(name) > 1})


def test_no_module_gives_a_name_twice():
    """A second line of the same name had taken the place of the first: an update was judged against 1 u, not 256."""
    assert twice_named("A = 1\nB: int = 2\nA = 3") == ["A"]
    found = {path.name: names for path in (ROOT / "parity").rglob("*.py") if (names := twice_named(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_parity_is_there(path):
    # Also inside of functions, which nothing else runs between two measurements.
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "parity":
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_nothing_else_is_in_the_top_folder():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this copy of the project is no git checkout")
    assert {path.partition("/")[0] for path in listed.stdout.splitlines()} == {*TOP}
