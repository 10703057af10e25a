"""The pytest plugin: a test that calls `assert_parity(MyLoss, steps=30)` fails once the loss is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Most characters of a test's id in the name of a page, since file systems limit that.
_NAME = 150
# The id of the test that runs, and the number of pages that each test has made in this session.
_CURRENT = pytest.StashKey[str]()
_PAGES = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --parity-report."""
    parser.getgroup("parity").addoption(
        "--parity-report",
        metavar="DIR",
        help="keep the page of each assert_parity that fails in this folder, named by its test; "
        "without it, the page is kept in the temporary folder for 7 days",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the folder of --parity-report absolute, since tests may change the working directory."""
    config.stash[_PAGES] = Counter()
    if folder := config.getoption("parity_report"):
        # pytest-xdist passes the options to its processes after this.
        config.option.parity_report = str(config.invocation_params.dir / folder)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Notes which test runs, as a fixture of the whole session does not know it."""
    item.config.stash[_CURRENT] = item.nodeid


@pytest.fixture(scope="session")
def assert_parity(pytestconfig: pytest.Config) -> Callable[..., Any]:
    """A function that calls `parity.check` and fails the test unless the verdict passes.

    It takes the arguments of `parity.check`, returns its `CheckResult`, and fails with the result's message: verdict
    and cause, where the runs differ, what to do, and where the page is. An inconclusive verdict fails too.

        def test_my_loss(assert_parity):
            assert_parity(MyLoss, steps=30)
    """

    def assert_parity(*arguments: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        import parity  # here, so that tests without this fixture need not wait for torch

        result = parity.check(*arguments, **options)
        if not result.passed:
            folder = pytestconfig.getoption("parity_report")
            if folder and result.page:
                result = dataclasses.replace(result, page=_keep(result.page, Path(folder), pytestconfig))
            pytest.fail(result.message)
        return result

    return assert_parity


def _keep(page: Path, folder: Path, config: pytest.Config) -> Path:
    """Copies the page of a failure to the folder; returns the path of the copy.

    A test that fails again in another session replaces its own page, and no other one.
    """
    test = config.stash.get(_CURRENT, "session")
    config.stash[_PAGES][test] += 1
    count = config.stash[_PAGES][test]
    plain = re.sub(r"[^\w.=+-]+", "-", test, flags=re.ASCII).strip("-.")[-_NAME:]
    # Ids that differ only in what a file name cannot have are told apart by their digest.
    name = f"{plain}-{hashlib.sha256(test.encode(errors='surrogatepass')).hexdigest()[:8]}"
    path = folder / f"{name}{f'-{count}' if count > 1 else ''}.html"
    folder.mkdir(parents=True, exist_ok=True)
    # Beside it first: a reader, or another process with the same tests, sees a whole page.
    beside = path.with_suffix(f".{os.getpid()}.part")
    shutil.copyfile(page, beside)
    beside.replace(path)
    return path
