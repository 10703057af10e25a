from synthetic_runs import Planted, fleet_run, make_run

from parity.judge.judging import judge
from parity.render.page.device_map import MOST_EQUAL, device_map, states


def test_the_odd_device_comes_first_and_the_equal_ones_are_counted():
    run = fleet_run(120, odd=(70,))
    (found,) = device_map(run, judge(run))
    assert found.devices[0] == ("cpu@n0070", "odd", "bad")
    assert len(found.devices) == 1 + MOST_EQUAL and {state for _, state, _ in found.devices[1:]} == {"equal"}
    assert found.left_out == ((120 - MOST_EQUAL, "equal", "good"),)  # builtin@cpu is one of them


def test_devices_without_a_majority_and_unfinished_ones_have_states_of_their_own():
    fault = {"param_grad": 3, "param": 3}
    run = make_run(
        Planted("builtin", device="cpu@b", differs=fault),
        Planted("builtin", device="cpu@c", record={"status": "failed", "error": "x"}, steps=2),
    )
    (each,) = judge(run).fleet.classes
    assert states(run, each) == {"cpu": "equal", "cpu@b": "no majority", "cpu@c": "unfinished"}
