"""The pytest plugin: `assert_parity(MyLoss, steps=30)` keeps a loss honest in its own repository's tests."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def assert_parity() -> Callable[..., Any]:
    """Calls `parity.check`, and fails with its one-line result unless the verdict is a passing one.

    The call takes the arguments of `parity.check` and returns its result. An inconclusive verdict fails too.
    """

    def assert_parity(*arguments: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        import parity  # torch comes with it, which tests that do not ask need not wait for

        result = parity.check(*arguments, **options)
        if not result.passed:
            pytest.fail(f"parity: {result.line}", pytrace=False)
        return result

    return assert_parity
