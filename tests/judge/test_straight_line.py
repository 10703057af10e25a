"""Errors that follow a line are distinguished from scattered ones."""

import numpy as np
import pytest

from parity.judge.straight_line import straight_line


def numbers(seed, count):
    rng = np.random.default_rng(seed)
    exact = -rng.exponential(2.0, count)
    return exact, 1 - exact, rng


@pytest.mark.parametrize(("offset", "slope"), [(0.0, 1.0), (0.0, -2.0), (2.0, 0.0), (-3.0, 1.0)])
def test_a_line_is_found_in_noise(offset, slope):
    exact, unit, rng = numbers(1, 400)
    found = straight_line(exact, offset + slope * exact + 0.5 * unit * rng.standard_normal(400), unit)
    assert found.systematic and found.sloping == (slope != 0)
    assert (found.offset, found.slope) == (pytest.approx(offset, abs=0.2), pytest.approx(slope, abs=0.1))


@pytest.mark.parametrize("count", [3, 5, 20, 200, 5000])
def test_noise_is_on_no_line(count):
    for seed in range(200):
        exact, unit, rng = numbers(seed, count)
        found = straight_line(exact, unit * rng.standard_t(3, count), unit)
        assert not found.systematic


def test_a_constant_without_noise_has_no_slope():
    for seed in range(5):
        exact, unit, _ = numbers(seed, 500)
        found = straight_line(exact, (exact + 0.02) - exact, unit / 256)
        assert found.systematic and not found.sloping


def test_a_line_below_the_noise_is_none():
    exact, unit, rng = numbers(2, 4000)
    assert not straight_line(exact, 0.4 * unit, unit).systematic
    assert not straight_line(exact, 0.5 * unit + unit * rng.standard_normal(4000), unit).systematic


def test_one_number_that_was_computed_often_counts_once():
    exact, unit, rng = numbers(3, 4)
    errors = unit * (1 + 0.5 * rng.standard_normal(4))
    once = straight_line(exact, errors, unit)
    assert straight_line(*(np.tile(each, 100) for each in (exact, errors, unit))) == once and not once.systematic
    assert straight_line(*(np.ones(100),) * 3) is None


def test_what_is_not_finite_or_exact_has_no_line():
    exact, unit, _ = numbers(4, 10)
    assert straight_line(exact, np.append(np.zeros(9), np.inf), unit) is None
    none = straight_line(exact, np.zeros(10), unit)
    assert (none.size, none.share, none.systematic) == (0, 0, False)
    whole = straight_line(exact, 3 * exact, unit)
    assert whole.systematic and whole.slope == pytest.approx(3) and whole.share == pytest.approx(1)
