"""Lists that say how much they leave out."""

import doctest

import pytest

from parity.ground import listing


def test_the_examples_are_true():
    tried = doctest.testmod(listing)
    assert (tried.failed, tried.attempted >= 1) == (0, True)


@pytest.mark.parametrize("count", range(9))
def test_a_list_names_or_counts_every_name(count):
    names = [f"n{number}" for number in range(count)]
    words = listing.listed(names, most=4).replace(",", "").split()
    shown = [word for word in words if word in names]
    assert shown == names[: len(shown)] and len(shown) <= 4
    rest = int(words[-2]) if words[-1:] == ["more"] else 0
    assert len(shown) + rest == count
