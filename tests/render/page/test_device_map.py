import numpy as np
from synthetic_runs import Planted, fleet_run, make_run
from test_figures import unpack

from parity.judge.judging import judge
from parity.render.page.device_map import STATES, device_map, states


def test_the_odd_device_is_marked_where_it_is():
    run = fleet_run(120, odd=(70,))
    picture, names = device_map(run, judge(run)).figure["data"]
    squares = unpack(picture["z"])
    assert [*zip(*np.nonzero(squares == 1 + STATES.index("odd")), strict=True)] == [(1, 21)]  # builtin@cpu is before it
    assert (squares > 0).sum() == 121
    assert names["text"][71] == "cpu@n0070: odd"


def test_a_larger_fleet_names_only_what_is_not_equal():
    run = fleet_run(600, odd=(70,))
    assert device_map(run, judge(run)).figure["data"][1]["text"] == ["cpu@n0070: odd"]


def test_devices_without_a_majority_and_unfinished_ones_have_states_of_their_own():
    fault = {"param_grad": 3, "param": 3}
    run = make_run(
        Planted("builtin", device="cpu@b", differs=fault),
        Planted("builtin", device="cpu@c", record={"status": "failed", "error": "x"}, steps=2),
    )
    (each,) = judge(run).fleet.classes
    assert states(run, each) == {"cpu": "equal", "cpu@b": "no majority", "cpu@c": "unfinished"}
