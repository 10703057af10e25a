import numpy as np
import pytest
from synthetic_runs import ROUNDING, Planted, make_run
from test_figures import unpack

from parity.judge.judging import judge
from parity.render.page import plots
from parity.render.page.figures import Frame


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
    drawn = plots.losses(frame).figure
    assert points(drawn, axis="y", role="candidate")[123] == 9.0
    assert points(drawn, axis="y2", role="candidate") == {200: "NaN", 201: "inf"}


def test_equal_losses_are_in_a_band_and_the_first_difference_is_not():
    frame, _ = frame_of(Planted(differs={"loss": 150, **ROUNDING}))
    drawn = plots.differences(frame, None)[0].figure
    equal = points(drawn, axis="y3", role="candidate")
    apart = points(drawn, axis="y", role="candidate")
    assert max(equal) < 150 and 150 in apart and set(equal.values()) == {"equal"}
    low, high = drawn["layout"]["yaxis"]["range"]
    assert all(low <= np.log10(ulp) <= high for ulp in apart.values())


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
    assert "noise" in {trace["meta"] for trace in drawn[0].figure["data"]}
    assert "The grey area is what rounding alone does" in drawn[0].caption


def test_audit_errors_have_the_line_of_the_verdict_and_infinity_is_no_gap():
    frame, _ = frame_of(Planted(differs={"loss": 3, **ROUNDING}, grad_errors={7: 1e6, 9: float("inf")}), steps=40)
    drawn = plots.audits(frame, frame.verdict.loss_audit)[0].figure
    assert points(drawn, axis="y", role="candidate")[7] == pytest.approx(1e6)
    assert points(drawn, axis="y2", role="candidate") == {9: "inf"}
    assert set(points(drawn, axis="y", role="line").values()) == {16.0}


def test_a_thinned_plot_says_so():
    frame, _ = frame_of(Planted(differs={"loss": 3, **ROUNDING}), most=50)
    assert "Of 300 steps some 50 are drawn" in plots.losses(frame).caption


def test_steps_from_shared_states_are_drawn_beside_their_line():
    row = {"trial": "builtin@cpu:threads=2-s0", "step": 1, "quantity": "output", "tensor": None}
    errors = {"baseline_error_u": 2.0, "candidate_error_u": 5.0, "spread_u": None, "repeated": None, "rounding": None}
    run = make_run(Planted("builtin", device="cpu:threads=2", differs={"output": 1}), shared_steps=[row | errors])
    verdict = judge(run).pairs[0]
    plot = plots.shared_steps(Frame(verdict, 100), verdict.device_audit)
    assert points(plot.figure, axis="y", role="output") == {1: 2.5}
    assert set(points(plot.figure, axis="y", role="line").values()) == {8.0}
