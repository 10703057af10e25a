"""The pytest plugin: a test that calls `assert_parity(MyLoss, steps=30)` fails once the loss is wrong."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def assert_parity() -> Callable[..., Any]:
    """A function that calls `parity.check` and fails the test unless the verdict passes.

    It takes the arguments of `parity.check`, returns its `CheckResult`, and fails with the result's one line. An
    inconclusive verdict fails too.

        def test_my_loss(assert_parity):
            assert_parity(MyLoss, steps=30)
    """

    def assert_parity(*arguments: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        import parity  # here, so that tests without this fixture need not wait for torch

        result = parity.check(*arguments, **options)
        if not result.passed:
            pytest.fail(f"parity: {result.line}", pytrace=False)
        return result

    return assert_parity
