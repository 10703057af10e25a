"""The pytest plugin: what a failure says, and where its page is. The tests inside run in this process."""

import dataclasses
import os
from pathlib import Path

import pytest

import parity

pytest_plugins = ["pytester"]

# The tests of a user: `wrong` and `right` are results that were made once, in the place of trainings.
TESTS = """
import pytest
@pytest.mark.parametrize("name", ["a/b", "a-b", "a b", "ü", "x" * 300])
def test_one(assert_parity, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_parity("wrong")
class TestClass:
    def test_right(self, assert_parity):
        assert assert_parity("right").passed
    def test_one(self, assert_parity):
        with pytest.raises(pytest.fail.Exception):
            assert_parity("wrong")
        assert_parity("wrong")
"""
PLAIN = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist")


def half(output, target):
    return ((output - target) ** 2).mean() / 2


@pytest.fixture(scope="module")
def results():
    return {
        "wrong": parity.check(half, steps=2, batch_size=64),
        "right": parity.check("numpy", steps=2, batch_size=64),
    }


@pytest.fixture
def session(pytester, monkeypatch, results):
    """Runs the tests of a user with some options."""

    def run(*options, tests=TESTS):
        monkeypatch.setattr(parity, "check", results.__getitem__, raising=False)
        monkeypatch.setenv("COLUMNS", "180")
        monkeypatch.setenv("CI", "")
        pytester.makepyfile(tests)
        return pytester.runpytest_inprocess(*PLAIN, *options)

    return run


def test_the_short_summary_begins_with_verdict_and_cause(session):
    ended = session()
    ended.assert_outcomes(failed=6, passed=1)
    (line,) = [line for line in ended.outlines if line.startswith("FAILED") and "TestClass" in line]
    said = line.partition(" - ")[2]
    assert said.startswith("Failed: diverged: the gradient is scaled by 0.5") and "(step 0)" in said[:80]


def test_a_failure_shows_the_callers_line_and_the_message_and_the_page(session, results):
    ended = session("-k", "TestClass")
    ended.stdout.fnmatch_lines(
        [
            '>       assert_parity("wrong")',
            "E       Failed: diverged: the gradient is scaled by 0.5*",
            "E         half's gradient is *, from step 0 on.",
            "E         where       step 0 (epoch 0, batch 0), output_grad*",
            "E         what to do  *",
            f"E         page        {results['wrong'].page}",
        ]
    )
    assert results["wrong"].page.exists()
    ended.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_each_failure_keeps_a_page_named_by_its_test(session, pytester):
    ended = session("--parity-report", "deep/pages")
    pages = sorted((pytester.path / "deep" / "pages").iterdir())
    # One for each of five parameters, whose names differ in what a file name cannot have; two for the last test.
    assert len(pages) == 7 and {page.suffix for page in pages} == {".html"}
    assert max(len(page.name) for page in pages) < 200
    assert sum("TestClass-test_one" in page.name for page in pages) == 2
    said = {Path(line.split()[-1]) for line in ended.outlines if line.startswith("E         page  ")}
    assert len(said) == 6 and said < set(pages)
    assert all("half" in page.read_text(encoding="utf-8") for page in pages)


def test_another_session_replaces_its_own_pages_and_no_others(session, pytester):
    folder = pytester.path / "pages"
    for _ in range(2):
        session("--parity-report", str(folder), "-k", "TestClass")
    mine = folder / "of-another-test.html"
    mine.write_text("mine")
    session("--parity-report", str(folder), "-k", "test_one and not TestClass")
    assert len(list(folder.iterdir())) == 8 and mine.read_text() == "mine"


# In the place of `parity.check` where the tests run in processes of their own: no training, and no import of torch.
CONFTEST = """
import dataclasses, pathlib, parity
@dataclasses.dataclass
class Result:
    passed: bool
    page: pathlib.Path
    message = "diverged"
parity.check = lambda name: Result(name == "right", pathlib.Path(PAGE))
"""


def test_processes_of_xdist_share_a_folder(pytester):
    page = pytester.path / "page.html"
    page.write_text("the page")
    pytester.makeconftest(CONFTEST.replace("PAGE", repr(str(page))))
    pytester.makepyfile(TESTS)
    plain = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    ended = pytester.runpytest_subprocess(*plain, "-n", "1", "--parity-report", "pages")
    ended.assert_outcomes(failed=6, passed=1)
    assert [page.read_text() for page in (pytester.path / "pages").iterdir()] == ["the page"] * 7


def test_an_inconclusive_verdict_fails(session, results, monkeypatch):
    judgement = dataclasses.replace(results["right"].judgement, verdict="inconclusive")
    monkeypatch.setitem(results, "wrong", dataclasses.replace(results["right"], judgement=judgement))
    session("-k", "TestClass and test_one").assert_outcomes(failed=1)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(session, pytester):
    (pytester.path / "file").touch()
    ended = session("--parity-report", "file", "-k", "TestClass and test_one")
    ended.assert_outcomes(failed=1)
    assert f"{pytester.path}{os.sep}file" in ended.stdout.str()
