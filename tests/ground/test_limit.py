"""A call that does not return is left to its thread; what one returns or raises comes through."""

import threading

import pytest

from parity.ground.limit import limited


def test_what_a_call_returns_or_raises_comes_through():
    assert limited(lambda: None, 30) is None
    assert limited(lambda: "x", 30) == "x"
    with pytest.raises(KeyError, match="x"):
        limited(lambda: {}["x"], 30)


def test_a_call_that_does_not_return_is_left():
    over = threading.Event()
    try:
        with pytest.raises(TimeoutError) as error:
            limited(over.wait, 0.01)
    finally:
        over.set()
    assert str(error.value) == "no answer within 0.01 s"
