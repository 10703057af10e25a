"""The largest values of sliding windows, beside sorting each window and beside looking at each step before."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parity.judge.window import largest_before, largest_in_windows
from parity.plan import lines

VALUES = st.floats(allow_nan=False) | st.sampled_from((-np.inf, 0.0, 1.0))


@given(st.integers(1, 30), st.data())
def test_the_largest_in_a_window_are_those_of_sorting_it(width, data):
    count = data.draw(st.integers(1, width))
    values = np.array(data.draw(st.lists(VALUES, min_size=width, max_size=width + 20)))
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    want = np.sort(windows, axis=1)[:, ::-1][:, :count].T
    assert np.array_equal(largest_in_windows(values, width, count), want)


@given(st.integers(1, 70), st.dictionaries(st.integers(0, 69), st.floats() | st.just(np.nan), max_size=4))
def test_the_largest_before_a_step_is_that_of_looking_at_each_step_before(steps, planted):
    values = np.array([planted.get(step, 0.0) for step in range(steps)])
    window, finite = int(lines.JUMP_WINDOW.value), np.nan_to_num(values)
    want = [max([0.0, *finite[max(0, step - window) : step]]) for step in range(steps)]
    assert np.array_equal(largest_before(values[:, None])[:, 0], want)
