import base64

import numpy as np
import pytest
from synthetic_runs import BATCHES, Planted, make_run

from parity.judge.judging import judge
from parity.render.page import figures
from parity.render.page.figures import Frame, figure, label, not_finite, pack, series


def unpack(packed):
    """What `pack` or `pack_steps` packed."""
    if "count" in packed:
        return packed["first"] + np.arange(packed["count"])
    values = np.frombuffer(base64.b64decode(packed["bdata"]), f"<{packed['dtype']}")
    return values.reshape([int(size) for size in packed["shape"].split(",")]) if "shape" in packed else values


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0.1]), "f8"),
        (np.array([0.5, np.nan, np.inf]), "f4"),
        (np.array([1e300]), "f8"),
        (np.array([7, 8]), "i4"),
        (np.array([[1, 2], [3, 4]], np.uint8), "u1"),
    ],
)
def test_packed_numbers_are_exact(values, dtype):
    packed = pack(values)
    assert packed["dtype"] == dtype
    np.testing.assert_array_equal(unpack(packed), values)


def test_what_is_not_finite_has_a_band_of_its_own():
    traces = not_finite(np.arange(4), np.array([1.0, np.nan, np.inf, -np.inf]), "candidate", name="candidate")
    found = {trace["y"][0]: unpack(trace["x"]).tolist() for trace in traces}
    assert found == {"NaN": [1], "inf": [2], "-inf": [3]}


def test_epochs_partial_batches_and_marks_are_drawn():
    run = make_run(Planted(differs={"loss": 236, "output_grad": 236}, grad_errors={240: 1e6}), steps=260)
    frame = Frame(judge(run).pairs[0], most=100)
    drawn = figure(frame, [series(np.arange(2), np.zeros(2), "candidate", name="x", hover="x")], title="x")
    found = {shape["name"]: shape["x0"] for shape in drawn["layout"]["shapes"]}
    assert found == {"epoch": BATCHES - 0.5, "partial": BATCHES - 1, "beyond": 240}
    assert [mark["text"] for mark in drawn["layout"]["annotations"]] == [
        "first difference, step 236 ▾",
        "more than rounding, step 240 ▾",
    ]


def test_markup_in_a_label_is_text_and_in_one_line():
    assert label("a\n<b>&", most=20) == "a &lt;b&gt;&amp;"


def test_what_is_infinite_or_zero_has_no_decade():
    known = figures._decades(np.array([0.01, 2.0]))
    assert figures._decades(np.array([0.01, 0.0, 2.0, np.inf])) == known
    assert figures._decades(np.array([np.inf, 0.0])) == figures._decades(np.array([]))


@pytest.mark.parametrize("steps", [[], [7], [3, 4, 5], [3, 5, 6]])
def test_packed_steps_are_exact(steps):
    assert unpack(figures.pack_steps(np.array(steps, np.int64))).tolist() == steps
