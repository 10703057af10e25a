"""Nodes whose code differs: nobody is accused, and the others are judged as usual. Runs that nobody trained."""

import io
import json
from dataclasses import dataclass, replace

import pytest
from rich.console import Console
from synthetic_runs import Planted, fleet_run, make_run

from parity.judge.judging import judge
from parity.judge.node_code import NodeCode
from parity.judge.odd_elements import plan_replays
from parity.render import markdown, story, summary, terminal
from parity.render.fleet import columns
from parity.render.next_steps import next_steps
from parity.render.page import html
from parity.render.page.device_map import states

HELPER = "helper.py"
FAULT = {"param_grad": 3, "param": 3}


def imported(*digits, parity="a" * 64, **more):
    """What a record says of its code: for each digit a file, the first of which is helper.py."""
    names = [HELPER, *(f"pkg/{number}.py" for number in range(1, len(digits)))]
    lines = [f"{digit * 64}  {name}" for digit, name in zip(digits, names, strict=True)]
    return {"imported": lines, "parity_sha256": parity, "parity": "0.1.0"} | more


def run_on(codes, *, faulty=(), losses=("builtin",), faults=FAULT):
    """A run on nodes h1, h2 and so on, each with its code."""
    candidates = [
        Planted(
            loss,
            device=f"cpu@h{number}",
            differs=faults if number in faulty else {},
            tensors=(4,),
            record=code | {"node": f"h{number}"},
        )
        for number, code in enumerate(codes, start=1)
        for loss in losses
    ]
    run = make_run(*candidates, steps=6)
    # Without the one that `make_run` puts in front.
    return replace(run, trials=run.trials[1:])


def verdicts(judgement):
    return {
        f"{pair.pair.axis} {pair.pair.candidate.loss_name}@{pair.pair.candidate.node}": pair.verdict
        for pair in judgement.pairs
    }


def odd(judgement):
    return [unit.device for each in judgement.fleet.classes for unit in each.odd]


@pytest.mark.parametrize("differs", [True, False])
@pytest.mark.parametrize("code", [imported("2"), imported("1", parity="b" * 64)], ids=["helper", "parity"])
def test_one_node_of_three_with_other_code_is_not_accused(code, differs):
    run = run_on([imported("1"), code, imported("1")], faulty={2} if differs else ())
    judgement = judge(run)
    assert verdicts(judgement) == {"device builtin@h2": "inconclusive", "device builtin@h3": "identical"}
    assert (odd(judgement), judgement.exit_status) == ([], 3)
    name = HELPER if code["imported"] != imported("1")["imported"] else "the package parity"
    (pair,) = [pair for pair in judgement.pairs if pair.verdict == "inconclusive"]
    assert pair.cause == f"code differs between nodes: {name} on h2"
    note = f"Code differs between nodes: {name} on h2, other than on h1, h3."
    console = Console(file=io.StringIO(), width=80)
    terminal.render(run, judgement, console)
    for text in (console.file.getvalue(), markdown.render(run, judgement), html.render(run, judgement)):
        assert note in " ".join(text.replace("`", "").split())
    assert json.loads(summary.render(judgement))["pairs"][0]["cause"] == pair.cause
    assert next_steps(run, judgement)[0].text == "Give all nodes the same code, named above, and run again."


def test_without_other_code_the_same_node_is_odd():
    judgement = judge(run_on([imported("1")] * 3, faulty={2}))
    assert (odd(judgement), judgement.exit_status) == (["cpu@h2"], 1)
    assert NodeCode(run_on([imported("1")] * 3).trials).sentences() == []


def test_the_nodes_of_equal_code_are_judged_as_usual():
    codes = [imported("1"), imported("2"), imported("1"), imported("1")]
    judgement = judge(run_on(codes, faulty={2, 4}))
    assert (odd(judgement), judgement.exit_status) == (["cpu@h4"], 1)
    assert verdicts(judgement)["device builtin@h2"] == "inconclusive"


def test_each_of_two_groups_has_a_majority_of_its_own():
    judgement = judge(run_on([imported("1")] * 3 + [imported("2")] * 3, faulty={5}))
    assert odd(judgement) == ["cpu@h5"]
    assert [each.devices for each in judgement.fleet.classes] == [
        ("cpu@h1", "cpu@h2", "cpu@h3"),
        ("cpu@h4", "cpu@h5", "cpu@h6"),
    ]
    assert (
        judgement.fleet.classes[1]
        .explain()
        .endswith("; code differs between nodes: helper.py on h1, h2, h3 and on h4, h5, h6")
    )


def test_the_first_node_may_be_the_one_with_other_code():
    judgement = judge(run_on([imported("2"), imported("1"), imported("1")], faulty={1}))
    assert verdicts(judgement) == {"device builtin@h1": "inconclusive", "device builtin@h3": "identical"}
    (pair,) = [pair for pair in judgement.pairs if pair.verdict == "inconclusive"]
    assert pair.cause == "code differs between nodes: helper.py on h1"


def test_a_quick_run_says_it_too():
    run = run_on([imported("1"), imported("2"), imported("1")])
    run.info["quick"] = True
    assert judge(run).exit_status == 3


def test_of_two_nodes_neither_is_the_one_that_is_meant():
    (pair,) = judge(run_on([imported("1", "3"), imported("2", "4")])).pairs
    assert pair.cause == "code differs between nodes: helper.py, pkg/1.py on h1 and on h2"


@pytest.mark.parametrize("failed", [True, False])
def test_a_loss_is_not_blamed_for_what_it_does_with_other_code(failed):
    run = run_on([imported("1"), imported("2"), imported("1")], losses=("builtin", "mine"))
    records = [*run.trials]
    place = next(number for number, record in enumerate(records) if record.trial == "mine@cpu@h2-s0")
    if failed:
        records[place] = replace(
            records[place], status="failed", failure="raised", error="the loss raised ValueError: no"
        )
    else:
        nan = make_run(Planted("mine", device="cpu@h2", losses={3: float("nan")}), steps=6)
        run = replace(run, traces=run.traces | {records[place].trial: nan.traces[records[place].trial]})
    judgement = judge(replace(run, trials=tuple(records)))
    assert verdicts(judgement)["loss mine@h2"] == "inconclusive"
    assert judgement.exit_status == 3
    alone = [replace(record, imported=imported("1")["imported"]) for record in records]
    assert judge(replace(run, trials=tuple(alone))).exit_status == 1


def test_a_file_that_one_node_lacks_and_its_code_does_without_is_other_code():
    codes = [imported("1"), imported("1") | {"imported": []}, imported("1")]
    assert NodeCode(run_on(codes).trials).sentences() == [
        "Code differs between nodes: helper.py on h2, other than on h1, h3."
    ]
    # A trial that failed, or was continued, may not have come to the import.
    for record in ({"status": "failed"}, {"attempts": 2}):
        assert NodeCode(run_on([codes[0], codes[1] | record, codes[2]]).trials).sentences() == []


def test_what_is_not_known_differs_from_nothing():
    unknown = {"imported": None, "parity_sha256": None}
    assert judge(run_on([imported("1"), unknown, imported("1")])).exit_status == 0
    assert judge(fleet_run(4)).exit_status == 0


def test_another_version_of_parity_is_another_class_and_no_other_code():
    other = imported("1", parity="b" * 64, parity_version="0.2.0")
    other["parity"] = other.pop("parity_version")
    assert NodeCode(run_on([imported("1"), other]).trials).sentences() == []


def test_trials_of_a_device_that_names_no_node_are_compared_by_where_they_ran():
    run = make_run(
        *(
            Planted(
                "builtin",
                replica=number,
                differs=FAULT if number == 2 else {},
                record=imported("2" if number == 2 else "1") | {"node": f"h{number}"},
            )
            for number in (1, 2, 3)
        ),
        steps=6,
    )
    run = replace(
        run,
        trials=tuple(
            replace(record, **imported("1"), node="h4") if not record.replica else record for record in run.trials
        ),
    )
    judgement = judge(run)
    assert (odd(judgement), judgement.exit_status) == ([], 3)
    found = {pair.pair.candidate.replica: (pair.verdict, pair.cause) for pair in judgement.pairs}
    assert found == {
        1: ("identical", None),
        2: ("inconclusive", "code differs between nodes: helper.py on h2"),
        3: ("identical", None),
    }


# `mine` imports helper.py, and `builtin` nothing.
NOTHING = imported("1") | {"imported": []}


def run_of_two(*nodes, faulty=(), losses=("builtin", "mine")):
    """A run of two losses on nodes h1, h2 and so on, each with the code of `builtin` and that of `mine` there."""
    runs = [
        run_on([codes[place] for codes in nodes], faulty=faulty, losses=(loss,)) for place, loss in enumerate(losses)
    ]
    records = {record.trial: record for run in runs for record in run.trials}
    order = [f"{loss}@cpu@h{number + 1}-s0" for number in range(len(nodes)) for loss in losses]
    traces = {trial: trace for run in runs for trial, trace in run.traces.items()}
    return replace(runs[0], trials=tuple(records[trial] for trial in order), traces=traces)


@dataclass(frozen=True)
class Planned:
    """What a repeat needs of a trial."""

    name: str
    capture: tuple = ()


ONE_OF_THREE = [(NOTHING, imported("1")), (NOTHING, imported("2")), (NOTHING, imported("1"))]


def test_a_helper_of_one_loss_withholds_no_verdict_on_another_one():
    run = run_of_two(*ONE_OF_THREE)
    judgement = judge(run)
    found = verdicts(judgement)
    assert {name: found[f"device {name}"] for name in ("builtin@h2", "builtin@h3", "mine@h2", "mine@h3")} == {
        "builtin@h2": "identical",
        "builtin@h3": "identical",
        "mine@h2": "inconclusive",
        "mine@h3": "identical",
    }
    assert (odd(judgement), judgement.exit_status) == ([], 3)
    assert judgement.fleet.code.sentences() == [
        "Code of mine differs between nodes: helper.py on h2, other than on h1, h3."
    ]
    (pair,) = [pair for pair in judgement.pairs if pair.verdict == "inconclusive"]
    assert pair.cause == "code differs between nodes: helper.py on h2"
    console = Console(file=io.StringIO(), width=80)
    terminal.render(run, judgement, console)
    # The device with other code is not shown as an equal one.
    assert "train alike" not in console.file.getvalue()
    assert [*columns(judgement)] == ["cpu@h1 and 1 equal", "cpu@h2"]
    (each,) = judgement.fleet.classes
    assert states(run, each) == {"cpu@h1": "equal", "cpu@h2": "other code", "cpu@h3": "equal"}
    assert html.render(run, judgement)


def test_devices_of_other_code_are_not_said_to_train_alike():
    nan = [Planted("mine", device=f"cpu@h{number}", losses={3: float("nan")}) for number in (1, 2, 3)]
    traces = {trial: trace for trial, trace in make_run(*nan, steps=6).traces.items() if trial.startswith("mine")}
    for nodes, said in ((ONE_OF_THREE, False), ([ONE_OF_THREE[0]] * 3, True)):
        run = run_of_two(*nodes)
        judgement = judge(replace(run, traces=run.traces | traces))
        assert ("All 3 devices train alike" in story.headline(judgement)) == said


def test_a_broken_node_is_accused_by_the_loss_whose_code_is_equal():
    judgement = judge(run_of_two(*ONE_OF_THREE, faulty={2}))
    assert (odd(judgement), judgement.exit_status) == (["cpu@h2"], 1)
    assert verdicts(judgement)["device builtin@h2"] == "diverged"
    assert verdicts(judgement)["device mine@h2"] == "inconclusive"


@pytest.mark.parametrize("broken", [3, 5])
def test_each_group_of_a_loss_has_a_majority_and_a_reference_of_its_own(broken):
    nodes = [(NOTHING, imported("1"))] * 3 + [(NOTHING, imported("2"))] * 3
    run = run_of_two(*nodes)
    fault = run_of_two(*nodes, faulty={broken})
    trial = f"mine@cpu@h{broken}-s0"
    run = replace(run, traces=run.traces | {trial: fault.traces[trial]})
    judgement = judge(run)
    # The odd trial is repeated beside one that had its code.
    (replay,) = plan_replays(run, [Planned(record.trial) for record in run.trials], judgement.fleet)
    assert replay.reference.name == f"mine@cpu@h{1 if broken == 3 else 4}-s0"
    assert (odd(judgement), judgement.exit_status) == ([f"cpu@h{broken}"], 1)
    found = {
        pair.pair.candidate.node: (pair.pair.baseline.node, pair.verdict)
        for pair in judgement.pairs
        if pair.pair.axis == "device" and pair.pair.candidate.loss_name == "mine"
    }
    assert found.pop(f"h{broken}") == ("h1" if broken == 3 else "h4", "diverged")
    assert found.pop("h4") == ("h1", "inconclusive")
    assert set(found.values()) == {("h1", "identical"), ("h4", "identical")}


def test_a_quick_run_compares_the_losses_once_for_each_code():
    run = run_of_two(*ONE_OF_THREE)
    run.info["quick"] = True
    assert [name for name in verdicts(judge(run)) if name.startswith("loss")] == ["loss mine@h1", "loss mine@h2"]


def test_the_reference_has_the_code_of_most_nodes():
    nodes = [(NOTHING, imported("2")), (NOTHING, imported("1")), (NOTHING, imported("1"))]
    judgement = judge(run_of_two(*nodes))
    assert [each.reference for each in judgement.fleet.classes] == ["cpu@h2"]
    assert {name: verdict for name, verdict in verdicts(judgement).items() if name.startswith("device")} == {
        "device builtin@h1": "identical",
        "device builtin@h3": "identical",
        "device mine@h1": "inconclusive",
        "device mine@h3": "identical",
    }


def test_a_loss_is_not_blamed_for_the_other_code_of_the_first_loss():
    # The other way round: `builtin` imports helper.py, and on h2 another one, and the same `mine` is far from it.
    nodes = [(imported("1"), NOTHING), (imported("2"), NOTHING), (imported("1"), NOTHING)]
    run = run_of_two(*nodes)
    nan = make_run(Planted("mine", device="cpu@h2", losses={3: float("nan")}), steps=6)
    trial = "mine@cpu@h2-s0"
    judgement = judge(replace(run, traces=run.traces | {trial: nan.traces[trial]}))
    (pair,) = [each for each in judgement.pairs if each.pair.axis == "loss" and each.pair.candidate.trial == trial]
    assert (pair.verdict, pair.cause) == ("inconclusive", "code differs between nodes: helper.py on h2")


def test_other_code_of_parity_is_that_of_every_loss():
    other = imported("1", parity="b" * 64)
    run = run_of_two((NOTHING, imported("1")), (other | {"imported": []}, other), (NOTHING, imported("1")))
    judgement = judge(run)
    assert judgement.fleet.code.sentences() == [
        "Code differs between nodes: the package parity on h2, other than on h1, h3."
    ]
    assert {name for name, verdict in verdicts(judgement).items() if verdict == "inconclusive"} == {
        "device builtin@h2",
        "device mine@h2",
    }
    assert len(judgement.fleet.classes) == 2


def test_what_a_failed_trial_did_not_come_to_is_known_from_another_loss():
    # A fault of the helper ends `mine` before anything of it is known; `builtin` imports the same helper.
    nodes = [(imported("1"), imported("1")), (imported("2"), imported("2")), (imported("1"), imported("1"))]
    failed = {"status": "failed", "failure": "raised", "error": "the loss raised ValueError: no", "imported": None}
    nodes[1] = (nodes[1][0], nodes[1][1] | failed)
    run = run_of_two(*nodes)
    assert verdicts(judge(run))["device mine@h2"] == "inconclusive"
    assert judge(run).exit_status == 3


def test_of_two_files_of_one_name_each_loss_has_its_own():
    # Each loss imports a helper.py of its own; what ended `mine` on h2 says nothing about the helper of `builtin`.
    nodes = [(imported("1"), imported("3"))] * 3
    assert judge(run_of_two(*nodes)).exit_status == 0
    failed = {"status": "failed", "failure": "raised", "error": "the loss raised ValueError: no", "imported": []}
    nodes[1] = (nodes[1][0], nodes[1][1] | failed)
    judgement = judge(run_of_two(*nodes))
    assert judgement.fleet.code.sentences() == []
    assert verdicts(judgement)["device mine@h2"] == "failed"


def test_losses_of_a_device_that_names_no_node_are_compared_by_what_both_import():
    def run_with(builtin, mine):
        run = make_run(Planted("mine", record=mine | {"node": "h2"}), steps=6)
        return replace(run, trials=(replace(run.trials[0], **builtin, node="h1"), *run.trials[1:]))

    (pair,) = judge(run_with(imported("1"), imported("2"))).pairs
    assert (pair.verdict, pair.cause) == ("inconclusive", "code differs between nodes: helper.py on h1 and on h2")
    assert judge(run_with(imported("1"), imported("1"))).exit_status == 0
    assert judge(run_with(NOTHING, imported("1"))).exit_status == 0
