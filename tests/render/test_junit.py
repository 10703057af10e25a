"""JUnit's XML: a case for each pair, and nothing green that does not exit with 0."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import junitparser
import pytest
from synthetic_runs import ROUNDING, Planted, make_run
from test_terminal import FAILED, RUNS, WRONG, judged

from parity.judge.judging import judge
from parity.render import junit
from parity.store.stored_run import read_run


def cases(run, judgement=None):
    """By name: outcome ("passed", or the tag), and the element."""
    root = ET.fromstring(junit.render(run, judgement or judge(run)))
    return {case.get("name"): case for case in root.iter("testcase")}


def outcome(case):
    (found,) = [each for each in case if each.tag != "properties"]
    return ("passed" if found.tag == "system-out" else found.tag), found


def outcomes(run, judgement=None):
    return {name: outcome(case)[0] for name, case in cases(run, judgement).items()}


@pytest.mark.parametrize(
    ("verdict", "planted", "expected"),
    [
        ("identical", Planted(), "passed"),
        ("report-only", Planted(differs={"loss": 2}), "passed"),
        ("rounding", Planted(differs={"loss": 2, **ROUNDING}), "passed"),
        ("diverged", WRONG, "failure"),
        ("failed", Planted(steps=4, record=FAILED), "failure"),
        ("inconclusive", Planted(differs={"input": 2}), "error"),
    ],
)
def test_each_verdict_has_its_outcome(verdict, planted, expected):
    run = make_run(planted)
    assert judge(run).verdict == verdict
    assert outcomes(run) == {"builtin@cpu-s0 mine@cpu-s0": expected}


def test_a_planted_divergence_is_a_failure_that_says_what_was_found():
    tag, found = outcome(cases(RUNS["diverged"])["builtin@cpu-s0 mine@cpu-s0"])
    assert (tag, found.get("type")) == ("failure", "diverged")
    assert found.get("message").startswith(
        "diverged: mine's gradient is 6 % off, with no known pattern, from step 7 on."
    )
    assert "  first     step 2 (epoch 0, batch 2), loss 0.24206448 != 0.24206457 (6 ulp)\n" in found.text


def test_a_failed_candidate_brings_its_traceback():
    _, found = outcome(
        cases(make_run(Planted(steps=4, record=FAILED | {"traceback": "Traceback: x"})))["builtin@cpu-s0 mine@cpu-s0"]
    )
    assert found.get("message").startswith("failed: mine raised E at step 4: words")
    assert found.text.endswith("\n\nTraceback: x")


@pytest.mark.parametrize("name", RUNS)
def test_no_case_fails_exactly_if_the_exit_status_is_0(name):
    judgement = judged(name)
    found = [*outcomes(RUNS[name], judgement).values()]
    assert len(found) == len(judgement.pairs)
    worst = 1 if "failure" in found else 3 if "error" in found else 0
    assert worst == judgement.exit_status
    assert "skipped" not in found


def test_one_trial_is_an_error_and_not_an_empty_success():
    run = make_run()
    ((name, case),) = cases(run).items()
    assert (name, outcome(case)[0]) == ("pairs", "error")
    assert outcome(case)[1].text == "There is nothing to compare: a single trial is not a pair."


def test_a_failed_baseline_is_an_error_of_its_own():
    run = make_run(Planted(), steps=4)
    failed = replace(run.trials[0], status="failed", failed_step=4, error="the loss raised E: x")
    run = replace(run, trials=(failed, run.trials[1]))
    assert outcomes(run) == {"baseline": "error", "builtin@cpu-s0 mine@cpu-s0": "error"}
    assert outcome(cases(run)["baseline"])[1].get("type") == "trouble"


def test_the_counts_and_seconds_are_those_of_the_cases():
    run = make_run(WRONG, Planted("two", record={"wall_s": 2.5}), Planted("three", differs={"input": 1}))
    run = replace(run, trials=(replace(run.trials[0], wall_s=1.25), *run.trials[1:]))
    root = ET.fromstring(junit.render(run, judge(run)))
    assert root.tag == "testsuites"
    for element in (root, root.find("testsuite")):
        counts = {name: element.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
        assert counts == {"tests": "3", "failures": "1", "errors": "1", "skipped": "0", "time": "3.750"}
    times = {name: case.get("time") for name, case in cases(run).items()}
    assert times == {
        "builtin@cpu-s0 mine@cpu-s0": "0.000",
        "builtin@cpu-s0 two@cpu-s0": "2.500",
        "builtin@cpu-s0 three@cpu-s0": "0.000",
    }
    assert {case.get("classname") for case in cases(run).values()} == {"parity.mnist-autoencoder.loss"}
    assert root.find("testsuite").get("timestamp") == "2026-01-02T03:04:05"


def test_what_xml_does_not_have_is_escaped_and_the_rest_is_kept():
    name = "a<b>&\"'\n損失\x00\x1b\ufffe ]]>"
    record = {"loss_name": name, "trial": f"{name}@cpu-s0", "traceback": f"{name}\ud800", "wall_s": float("nan")}
    run = make_run(Planted(steps=4, record=FAILED | record))
    run = replace(run, traces=run.traces | {record["trial"]: run.traces["mine@cpu-s0"]})
    run = replace(run, info=run.info | {"created": name, "host": name, "command": name})
    text = junit.render(run, judge(run))
    assert text.isascii() and text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')
    ((shown, case),) = cases(run).items()
    escaped = name.replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\ufffe", "\\ufffe")
    assert shown == f"builtin@cpu-s0 {escaped}@cpu-s0"
    assert outcome(case)[1].text.endswith(f"\n\n{escaped}\\ud800")


def test_a_stored_run_passes_with_the_seconds_of_its_training(reference):
    run = read_run(reference)
    ((name, case),) = cases(run).items()
    assert (name, outcome(case)[0]) == ("builtin@cpu-s0 numpy@cpu-s0", "passed")
    assert case.get("time") == f"{run.trials[1].wall_s:.3f}"


def test_junitparser_reads_the_same_cases_and_counts():
    name = "a<b>&\n損失\x00"
    planted = Planted("two", steps=4, record=FAILED | {"loss_name": name, "trial": "two@cpu-s0", "wall_s": 2.5})
    run = make_run(WRONG, planted, Planted("three", differs={"input": 1}), Planted("four"))
    judgement = judge(run)
    suites = junitparser.JUnitXml.fromstring(junit.render(run, judgement).encode())
    (suite,) = suites
    assert (suite.tests, suite.failures, suite.errors, suite.skipped, suite.time) == (4, 2, 1, 0, 2.5)
    assert [case.name for case in suite] == [
        f"builtin@cpu-s0 {each}@cpu-s0" for each in ("mine", "two", "three", "four")
    ]
    found = [case.result[0] if case.result else None for case in suite]
    assert [type(each).__name__ for each in found] == ["Failure", "Failure", "Error", "NoneType"]
    assert found[1].message.startswith("failed: a<b>& 損失\\x00 raised E at step 4")
    assert {each.name for each in suite.properties()} == {"command", "directory"}
    suite.update_statistics()
    assert (suite.tests, suite.failures, suite.errors) == (4, 2, 1), "counted anew"
