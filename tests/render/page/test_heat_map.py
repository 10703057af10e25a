import numpy as np
import pytest
from synthetic_runs import TENSORS, Planted, make_run
from test_figures import unpack

from parity.judge.judging import judge
from parity.render.differing import MOST_TENSORS, make_rows
from parity.render.page.figures import Frame
from parity.render.page.heat_map import heat_map


@pytest.mark.parametrize("steps", [20, 2000])
def test_a_single_step_of_a_single_tensor_is_filled(steps):
    verdict = judge(make_run(Planted(differs={"param_grad": steps - 1}, tensors=(4,)), steps=steps)).pairs[0]
    rows = make_rows(verdict)
    plot = heat_map(Frame(verdict, 100), rows)
    name = f"param_grad {TENSORS[4]}"
    # Quantities whose distance is known have a picture of their own.
    (picture,) = (each for each in plot.figure["data"] if "z" in each and name in each["y"])
    shares = unpack(picture["z"])
    filled = [(picture["y"][row], column) for row, column in zip(*np.nonzero(shares), strict=True)]
    assert (name, shares.shape[1] - 1) in filled
    assert {row for row, _ in filled} == {name}
    assert plot.figure["data"][-1]["y"] == [f"param_grad {TENSORS[4]}"]


def test_of_many_tensors_those_that_differ_first_are_shown():
    names = tuple(f"layer {number}" for number in range(300))
    verdict = judge(make_run(Planted(differs={"param": 2}, tensors=(250,)), tensors=names)).pairs[0]
    rows = make_rows(verdict)
    assert rows.left_out == 300 - MOST_TENSORS
    assert [row.tensor for row in rows.shown if row.first == 2 and row.tensor] == ["layer 250"]


def test_tensors_of_one_short_name_have_rows_of_their_own():
    names = ("a" * 40 + "1" * 20, "a" * 40 + "1" * 20 + "\n")
    verdict = judge(make_run(Planted(differs={"param": 2}), tensors=names)).pairs[0]
    labels = heat_map(Frame(verdict, 100), make_rows(verdict)).figure["layout"]["yaxis"]["categoryarray"]
    assert len(set(labels)) == len(labels) == 13
