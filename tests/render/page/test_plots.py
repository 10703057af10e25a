import numpy as np
import pytest
from synthetic_runs import ROUNDING, Planted, make_run
from test_figures import unpack

from parity.judge.judging import judge
from parity.render.page import plots
from parity.render.page.curves import curves
from parity.render.page.figures import Frame

# Errors are stored in u and shown as relative ones.
U = 2.0**-24


def frame_of(*planted, steps=300, most=100):
    judgement = judge(make_run(*planted, steps=steps))
    return Frame(judgement.pairs[0], most), judgement


def points(figure, *, axis, role):
    """Step -> what is drawn there."""
    return {
        step: y
        for trace in figure["data"]
        if trace.get("yaxis", "y") == axis and trace["meta"] == role
        for step, y in zip(
            unpack(trace["x"]).tolist(),
            trace["y"] if isinstance(trace["y"], list) else unpack(trace["y"]).tolist(),
            strict=True,
        )
    }


def test_a_spike_a_nan_and_an_infinity_are_drawn_where_they_are():
    frame, _ = frame_of(
        Planted(differs={"loss": 3, **ROUNDING}, losses={123: 9.0, 200: float("nan"), 201: float("inf")}),
    )
    drawn = curves(frame)[0].figure
    assert points(drawn, axis="y", role="candidate")[123] == 9.0
    assert points(drawn, axis="y2", role="candidate") == {200: "NaN", 201: "inf"}


def test_equal_losses_are_in_a_band_and_the_first_difference_is_not():
    frame, _ = frame_of(Planted(differs={"loss": 150, **ROUNDING}))
    drawn = plots.differences(frame, None).figure
    equal = points(drawn, axis="y3", role="candidate")
    apart = points(drawn, axis="y", role="candidate")
    assert max(equal) < 150 and 150 in apart and set(equal.values()) == {"equal"}
    low, high = drawn["layout"]["yaxis"]["range"]
    assert all(low <= np.log10(rel) <= high for rel in apart.values())
    (shown,) = (each for each in drawn["data"] if "customdata" in each)
    ulp = frame.verdict.comparison.loss_ulp[unpack(shown["x"])]
    assert unpack(shown["customdata"]).tolist() == ulp.tolist()


def test_the_noise_band_is_drawn():
    noise = Planted("builtin", differs={"loss": 1, **ROUNDING}, record={"noise": 1, "trial": "builtin@cpu-s0-n1"})
    run = make_run(Planted(differs={"loss": 3, **ROUNDING}), steps=30)
    noisy = make_run(noise, steps=30)
    record = noisy.trials[1]
    traces = dict(run.traces) | {record.trial: noisy.traces["builtin@cpu-s0"]}
    traces[record.trial] = make_run(Planted(differs={"loss": 1, **ROUNDING}), steps=30).traces["mine@cpu-s0"]
    run = type(run)(run.directory, run.info, (*run.trials, record), traces, run.evidence)
    judgement = judge(run)
    band = plots.noise_band(judgement)
    assert band is not None and band.trials == 1 and band.rel[5] > 0
    drawn = plots.differences(Frame(judgement.pairs[0], 100), band)
    assert "noise" in {trace["meta"] for trace in drawn.figure["data"]}
    assert "The grey area shows what rounding alone does" in drawn.caption


def test_audit_errors_have_the_line_of_the_verdict_and_infinity_is_no_gap():
    frame, _ = frame_of(Planted(differs={"loss": 3, **ROUNDING}, grad_errors={7: 1e6, 9: float("inf")}), steps=40)
    drawn = plots.audits(frame, frame.verdict.loss_audit)[0].figure
    assert points(drawn, axis="y", role="candidate")[7] == pytest.approx(1e6 * U)
    assert points(drawn, axis="y2", role="candidate") == {9: "inf"}
    assert set(points(drawn, axis="y", role="line").values()) == {16.0 * U}


def test_a_thinned_plot_says_so():
    frame, _ = frame_of(Planted(differs={"loss": 3, **ROUNDING}), most=50)
    assert "Of 300 steps about 50 are drawn" in curves(frame)[0].caption


def test_steps_from_shared_states_are_drawn_beside_their_line():
    row = {"trial": "builtin@cpu:threads=2-s0", "step": 1, "quantity": "output", "tensor": None}
    errors = {"baseline_error_u": 2.0, "candidate_error_u": 5.0, "spread_u": None, "repeated": None, "rounding": None}
    run = make_run(Planted("builtin", device="cpu:threads=2", differs={"output": 1}), shared_steps=[row | errors])
    verdict = judge(run).pairs[0]
    plot = plots.shared_steps(Frame(verdict, 100), verdict.device_audit)
    assert points(plot.figure, axis="y", role="output") == {1: 2.5}
    assert set(points(plot.figure, axis="y", role="line").values()) == {8.0}


def test_both_sides_have_the_same_steps_so_that_hovering_shows_both():
    frame, _ = frame_of(Planted(differs={"loss": 3, **ROUNDING}, losses={123: 9.0}), most=50)
    for plot in curves(frame):
        one, other, difference = (each for each in plot.figure["data"] if "yaxis" not in each)
        assert one["x"] == other["x"] and difference["meta"] == "between"
        assert plot.figure["layout"]["hovermode"] == "x unified"


def test_norms_and_the_tensors_of_the_verdict_can_be_chosen():
    frame, _ = frame_of(Planted(differs={"param_grad": 4}, tensors=(2,)))
    names = [plot.title for plot in curves(frame)]
    assert names[1:] == [
        "Norm of the gradient of the output",
        "Norm of the gradient of the parameters",
        "Norm of the gradient of 0.2.weight",
    ]


def test_no_plot_has_empty_axes():
    nan = dict.fromkeys(range(20), float("nan"))
    frame, judgement = frame_of(Planted(losses=nan), steps=20)
    assert plots.differences(frame, None) is None
    names = [plot.name for plot in curves(frame)]
    assert names[0] == "losses"  # the baseline's is finite
    assert judgement.verdict == "diverged"
