import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parity.render.page.thinning import thin

NUMBERS = arrays(float, st.integers(1, 400), elements=st.floats(allow_nan=True, allow_infinity=True))


@given(NUMBERS, st.integers(4, 60), st.data())
def test_nothing_that_stands_out_is_lost(values, most, data):
    always = data.draw(st.sets(st.integers(0, len(values) - 1), max_size=3))
    kept = thin(values, most=most, always=always)
    assert (np.diff(kept) > 0).all() and kept[0] == 0 and kept[-1] == len(values) - 1
    assert always <= {*kept.tolist()}
    finite = values[np.isfinite(values)]
    if finite.size:
        assert {finite.min(), finite.max()} <= {*values[kept].tolist()}
    for kind in (np.isnan, np.isposinf, np.isneginf):
        places = np.flatnonzero(kind(values))
        assert {*places[:1], *places[-1:]} <= {*kept.tolist()}
    if len(values) <= most:
        assert len(kept) == len(values)


def test_every_nan_is_kept_where_there_are_few():
    values = np.zeros(10_000)
    places = [3, 4, 5, 5000, 9998]
    values[places] = np.nan
    assert {*places} <= {*thin(values, most=100).tolist()}


def test_a_spike_of_one_step_is_kept_and_most_others_are_not():
    values = np.sin(np.arange(10_000.0))
    values[7777] = 3.0
    kept = thin(values, most=400)
    assert 7777 in kept and len(kept) <= 402


def test_many_nans_are_thinned_too():
    values = np.full(10_000, np.nan)
    values[::2] = 1.0
    kept = thin(values, most=400)
    assert len(kept) <= 600 and np.isnan(values[kept]).sum() >= 100
