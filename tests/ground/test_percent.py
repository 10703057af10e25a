"""Relative differences as people read them."""

import doctest

from parity.ground import percent


def test_the_examples_are_true():
    tried = doctest.testmod(percent)
    assert (tried.failed, tried.attempted >= 6) == (0, True)
