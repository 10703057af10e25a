"""Parts of sentences: counts, and what is not shown."""

import doctest

from parity.render import phrases


def test_the_examples_are_true():
    tried = doctest.testmod(phrases)
    assert (tried.failed, tried.attempted >= 3) == (0, True)


def test_one_that_is_not_shown_is_singular():
    assert (phrases.not_shown(1), phrases.not_shown(2)) == ("1 more is not shown.", "2 more are not shown.")
