"""The largest values of sliding windows, beside sorting each window."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parity.judge.window import largest_in_windows

VALUES = st.floats(allow_nan=False) | st.sampled_from((-np.inf, 0.0, 1.0))


@given(st.integers(1, 30), st.data())
def test_the_largest_in_a_window_are_those_of_sorting_it(width, data):
    count = data.draw(st.integers(1, width))
    values = np.array(data.draw(st.lists(VALUES, min_size=width, max_size=width + 20)))
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    want = np.sort(windows, axis=1)[:, ::-1][:, :count].T
    assert np.array_equal(largest_in_windows(values, width, count), want)
