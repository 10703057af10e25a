"""Parts of sentences: lists that say how much they leave out, and counts."""

import doctest

import pytest

from parity.render import phrases


def test_the_examples_are_true():
    tried = doctest.testmod(phrases)
    assert (tried.failed, tried.attempted >= 4) == (0, True)


@pytest.mark.parametrize("count", range(9))
def test_a_list_names_or_counts_every_name(count):
    names = [f"n{number}" for number in range(count)]
    words = phrases.listed(names, most=4).replace(",", "").split()
    shown = [word for word in words if word in names]
    assert shown == names[: len(shown)] and len(shown) <= 4
    rest = int(words[-2]) if words[-1:] == ["more"] else 0
    assert len(shown) + rest == count


def test_one_that_is_not_shown_is_singular():
    assert (phrases.not_shown(1), phrases.not_shown(2)) == ("1 more is not shown.", "2 more are not shown.")
