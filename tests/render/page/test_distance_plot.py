"""How far a pair is apart: the plot by step, the heat map, the numbers behind both."""

import numpy as np
import pytest
from synthetic_runs import ROUNDING, TENSORS, Planted, make_run, nothing, with_column
from test_figures import unpack
from test_plots import points

from parity.judge.judging import judge
from parity.render import tables
from parity.render.differing import make_rows
from parity.render.page.distances import distances
from parity.render.page.figures import Frame
from parity.render.page.heat_map import LEAST_DECADE, PER_DECADE, heat_map
from parity.store.trace import SKETCHED_QUANTITIES

APART = {"output_grad": {2: 1e-7}, "param_grad": {2: 2e-6}, "update": {2: 3e-5}}
# The gradient that the optimizer received is that of the parameters.
NAMES = ["output_grad", "param_grad", "step_grad", "update"]


def verdict_of(planted, *, steps=20):
    return judge(make_run(planted, steps=steps)).pairs[0]


def distance_in(heat, row, step):
    """The distance that a cell shows."""
    byte = unpack(heat["z"])[heat["y"].index(row), step]
    return 10.0 ** ((byte - 1) / PER_DECADE + LEAST_DECADE) if byte else 0.0


def test_the_plot_has_each_quantity_and_its_limit():
    drawn = distances(Frame(verdict_of(Planted(differs=ROUNDING, distances=APART)), 100)).figure
    shown = points({"data": [each for each in drawn["data"] if each["name"] == "update"]}, axis="y", role="update")
    assert shown[2] == pytest.approx(3e-5, rel=1e-6) and np.isnan(shown[1])
    assert [each["name"] for each in drawn["data"] if not each["name"].startswith("limit")] == NAMES
    (limit,) = (each for each in drawn["data"] if each["name"] == "limit of param_grad")
    # 512 u up to the step at which the two part, and 0.03 after it.
    assert unpack(limit["x"]).tolist() == [-0.5, 2.5, 2.5, 19.5]
    assert unpack(limit["y"]) == pytest.approx([512 * 2.0**-24] * 2 + [0.03] * 2)
    low, high = drawn["layout"]["yaxis"]["range"]
    assert low < np.log10(1e-7) and high > np.log10(0.03)


def test_without_distances_there_is_no_plot_and_equal_ones_are_none():
    run = make_run(Planted(differs=ROUNDING))
    for quantity in SKETCHED_QUANTITIES:
        run = with_column(run, 1, f"{quantity}_sketches", nothing)
    assert distances(Frame(judge(run).pairs[0], 100)) is None
    assert distances(Frame(verdict_of(Planted()), 100)) is None


def test_a_nan_is_in_a_band():
    drawn = distances(Frame(verdict_of(Planted(differs=ROUNDING, distances={"output": {5: np.nan}})), 100)).figure
    assert set(points(drawn, axis="y2", role="output")) == {*range(5, 20)}


@pytest.mark.parametrize("steps", [20, 2000])
def test_the_heat_map_shows_the_distance_within_a_thirtieth_of_a_decade(steps):
    verdict = verdict_of(Planted(differs=ROUNDING, distances=APART), steps=steps)
    _, heat, _ = heat_map(Frame(verdict, 100), make_rows(verdict)).figure["data"]
    assert heat["meta"] == "far"
    assert distance_in(heat, "update", -1) == pytest.approx(3e-5, rel=0.08)
    # Of a tensor beside the whole: 12 equal ones.
    assert distance_in(heat, f"param_grad {TENSORS[4]}", -1) == pytest.approx(2e-6 / len(TENSORS) ** 0.5, rel=0.08)
    assert distance_in(heat, "output", -1) == 0
    # The first column has a step with the difference only where it covers that step.
    assert (distance_in(heat, "output_grad", 0) > 0) == (steps == 2000)


def test_what_has_no_distance_is_on_or_off():
    verdict = verdict_of(Planted(differs=ROUNDING, distances=APART))
    onoff, far, *_ = heat_map(Frame(verdict, 100), make_rows(verdict)).figure["data"]
    assert {"state", "input", "param 0.0.weight"} < {*onoff["y"]} and not {*onoff["y"]} & {*far["y"]}
    assert unpack(onoff["z"])[onoff["y"].index("param 0.0.weight")].tolist() == [0, 0, *[100] * 18]


def test_a_nan_is_furthest_and_a_distance_that_is_too_small_to_be_seen_is_not_equal():
    differs = {"output": 3, **ROUNDING}
    verdict = verdict_of(Planted(differs=differs, distances={"output_grad": {2: np.nan}, "output": {3: 0.0}}))
    far = heat_map(Frame(verdict, 100), make_rows(verdict)).figure["data"][1]
    cells = dict(zip(far["y"], unpack(far["z"]).tolist(), strict=True))
    assert cells["output_grad"] == [0, 0, *[255] * 18] and cells["output"] == [0, 0, 0, *[1] * 17]


def test_the_numbers_are_in_the_tables_too():
    verdict = verdict_of(Planted(differs=ROUNDING, distances=APART))
    steps = tables.steps_table(verdict)
    assert steps.headings[-4:] == tuple(f"{name} distance" for name in NAMES)
    assert {row[0]: row[-1] for row in steps.rows}["2"] == "3e-05"
    assert {row[0]: row[-1] for row in tables.tensors_table(verdict, make_rows(verdict)).rows}["update"] == "0.003 %"


def test_the_steps_of_a_continued_recording_keep_their_numbers():
    later = {"first_step": 100}
    run = make_run(Planted(differs=ROUNDING, distances=APART, record=later))
    baseline = type(run.trials[0])(**{**vars(run.trials[0]), **later})
    shifted = {
        name: table.set_column(
            table.schema.get_field_index("step"), "step", [[step + 100 for step in range(table.num_rows)]]
        )
        for name, table in run.traces.items()
    }
    verdict = judge(type(run)(run.directory, run.info, (baseline, run.trials[1]), shifted, run.evidence)).pairs[0]
    assert verdict.first.step == 102
    frame = Frame(verdict, 100)
    drawn = distances(frame).figure
    assert drawn["layout"]["xaxis"]["range"] == [99.5, 119.5]
    shown = points({"data": [each for each in drawn["data"] if each["name"] == "update"]}, axis="y", role="update")
    assert [step for step, value in shown.items() if value > 0] == [*range(102, 120)]
    assert heat_map(frame, make_rows(verdict)).figure["data"][0]["x0"] == 100
    assert [row[0] for row in tables.steps_table(verdict).rows if "first difference" in row[1]] == ["102"]
