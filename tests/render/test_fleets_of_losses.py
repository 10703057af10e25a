"""Several losses on every node: the report is about the devices, and about each loss once."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.judging import judge
from parity.render import formats
from parity.render.next_steps import next_steps

EQUAL = "All 21 devices train alike, to the bit."
AUDITED = ("grad_error_u", "loss_error_u", "grad_ratio")


def fleet(*, quick=False, mine=ROUNDING, odd=(), errors=None, **record):
    """Two losses on 21 nodes, of which some make another difference."""
    trials = []
    for number in range(21):
        device = f"cpu@n{number:02d}" if number else "cpu"
        fault = {"param_grad": 4, "param": 4} if number in odd else {}
        trials += [Planted("builtin", device=device, differs=fault)] * bool(number)
        facts = {name: value(device) if callable(value) else value for name, value in record.items()}
        trials.append(Planted("mine", device=device, differs=mine | fault, grad_errors=errors or {}, record=facts))
    run = make_run(*trials, steps=6)
    traces = {name: unaudited(trace) if quick else trace for name, trace in run.traces.items()}
    return replace(run, traces=traces, info=run.info | {"quick": quick})


def unaudited(trace):
    for name in AUDITED:
        index = trace.schema.get_field_index(name)
        trace = trace.set_column(index, trace.schema.field(index), pa.nulls(len(trace), trace.schema.field(index).type))
    return trace


def text_of(run):
    return " ".join(formats.FORMATS["text"](run, judge(run)).split())


def test_a_quick_run_compares_losses_once_and_devices_all():
    judgement = judge(fleet(quick=True))
    pairs = [(verdict.pair.axis, verdict.verdict) for verdict in judgement.pairs]
    assert pairs.count(("loss", "inconclusive")) == 1 and pairs.count(("device", "identical")) == 40
    assert len(pairs) == 41 and (judgement.verdict, judgement.exit_status) == ("inconclusive", 3)


def test_the_report_of_a_quick_run_is_about_devices():
    run = fleet(quick=True)
    text = text_of(run)
    assert f"{EQUAL} It is not known whether mine trains as builtin: " in text
    assert text.count("no audit: --audit-every 0") == 1
    advice = "Compare the losses without --quick, which has no audit. One device is enough."
    assert [each.text for each in next_steps(run, judge(run))] == [advice]
    assert len(formats.FORMATS["text"](run, judge(run)).splitlines()) < 40


def test_in_a_quick_run_a_fault_of_a_device_is_found_with_each_loss():
    judgement = judge(fleet(quick=True, odd=(7,)))
    (each,) = judgement.fleet.classes
    assert [unit.device for unit in each.odd] == ["cpu@n07"] and judgement.verdict == "diverged"
    assert {verdict.pair.candidate.loss_name for verdict in judgement.pairs if verdict.verdict == "diverged"} == {
        "builtin",
        "mine",
    }


def test_a_quick_run_of_two_classes_compares_losses_once_in_each():
    run = fleet(quick=True, torch=lambda device: "2.15" if device < "cpu@n10" else "2.14")
    # The baseline loss has the same versions.
    run = replace(
        run, trials=tuple(replace(each, torch="2.15" if each.device < "cpu@n10" else "2.14") for each in run.trials)
    )
    pairs = judge(run).pairs
    assert [verdict.pair.candidate.trial for verdict in pairs if verdict.pair.axis == "loss"] == [
        "mine@cpu-s0",
        "mine@cpu@n10-s0",
    ]


def test_without_quick_each_device_is_audited_and_equal_ones_share_a_block():
    run = fleet()
    judgement = judge(run)
    assert sum(verdict.pair.axis == "loss" for verdict in judgement.pairs) == 21
    assert f"{EQUAL}" not in text_of(fleet(odd=(7,)))
    assert "(21 pairs alike)" in text_of(run)


@pytest.mark.parametrize(
    "fault",
    [
        {"mine": {"loss": 2, **ROUNDING}, "errors": {2: 1e6}},
        {
            "status": "failed",
            "failure": "raised",
            "failed_step": 3,
            "error": "the loss raised ValueError: no",
            "host": lambda device: f"host of {device}",
        },
    ],
    ids=["diverged", "failed"],
)
def test_a_loss_that_is_wrong_on_every_node_is_told_once(fault):
    run = fleet(**fault)
    judgement = judge(run)
    assert judgement.exit_status == 1 and len(json.loads(formats.FORMATS["json"](run, judgement))["pairs"]) == 61
    text = formats.FORMATS["text"](run, judgement)
    assert text.count("builtin@cpu-s0 mine@cpu-s0") == 1 and "builtin@cpu@n07-s0 mine@cpu@n07-s0" not in text
    assert "(21 pairs alike)" in text and len(text.splitlines()) < 60


def test_a_loss_that_is_wrong_on_an_odd_node_has_a_block_of_its_own():
    run = fleet(mine={"loss": 2, **ROUNDING}, errors={2: 1e6}, odd=(7,))
    text = formats.FORMATS["text"](run, judge(run))
    assert "builtin@cpu@n07-s0 mine@cpu@n07-s0  diverged" in text and "(20 pairs alike)" in text


def test_a_loss_that_fails_on_two_nodes_only_names_both():
    def fails(device):
        return device in ("cpu@n07", "cpu@n12")

    failed = {
        "status": lambda device: "failed" if fails(device) else "complete",
        "failure": lambda device: "raised" if fails(device) else None,
        "error": lambda device: "the loss raised RuntimeError: CUDA error" if fails(device) else None,
    }
    run = fleet(**failed)
    text = formats.FORMATS["text"](run, judge(run))
    for node in ("n07", "n12"):
        assert f"mine@cpu-s0 mine@cpu@{node}-s0  failed" in text
