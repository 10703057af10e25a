"""Classes of equal devices: the majority, and the odd ones. Devices are simulated in this process."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from parity import api
from parity.judge import fleet
from parity.judge.fleet import Fleet, HardwareClass
from parity.judge.judging import judge
from parity.judge.node_code import software_differences
from parity.plan.device import parse_devices
from parity.plan.planning import plan
from parity.render import terminal
from parity.store.events import Began
from parity.train.inline import Inline

STEPS = 12
# Few rows, since devices are simulated and their number is what is tested.
BATCH = 32


@pytest.fixture
def train(make_trials, data, tmp_path, monkeypatch):
    """Trains on simulated devices, each placed on a node of its own; the facts of some may be replaced."""

    def run(*names, losses=("builtin",), replicas=1, facts=None):
        (pattern,) = make_trials(steps=STEPS, audit_every=0, batch_size=BATCH)
        (*specs,) = [each.loss for each in make_trials(*losses)]
        placed = parse_devices(names)
        trials = plan(specs, placed, seeds=[0], replicas=replicas, settings=pattern.settings, equals=lambda device: 0)
        trials = unmeasured(trials)
        genuine = Inline.train

        def told_otherwise(self, trials, data, past=None):
            nodes = {each.name: each.device.node for each in trials}
            for (event,) in genuine(self, trials, data, past):
                if isinstance(event, Began):
                    node = nodes[event.trial]
                    event = replace(event, facts=event.facts | {"node": node} | (facts or {}).get(node, {}))
                yield [event]

        monkeypatch.setattr(Inline, "train", told_otherwise)
        return api.run_trials(trials, data, tmp_path / "run", title="test")

    return run


def unmeasured(trials):
    """Without the steps in float64 that decide between runs: two thirds of the time, and nothing within one run."""
    return [replace(trial, measured=False) for trial in trials]


def report(result):
    console = Console(file=io.StringIO(), width=200)
    terminal.render(result.run, result.judgement, console)
    return console.file.getvalue()


def words(result):
    return " ".join(report(result).split())


def odd(result):
    return {unit.device: unit for each in result.judgement.fleet.classes for unit in each.odd}


def diverged(result):
    return {pair.pair.candidate.device for pair in result.pairs if pair.verdict not in ("identical", "rounding")}


def test_three_of_forty_are_found_and_nobody_else_is_accused(train):
    wrong = {7: "flip-5", 18: "tf32", 33: "element-9"}
    names = [f"cpu:plant={wrong[n]}@n{n:02d}" if n in wrong else f"cpu@n{n:02d}" for n in range(40)]
    result = train(*names)
    (each,) = result.judgement.fleet.classes
    assert len(each.devices) == 40
    assert set(odd(result)) == diverged(result) == {names[n] for n in wrong}
    first = {pair.pair.candidate.device: pair.first for pair in result.pairs if pair.verdict == "diverged"}
    assert (first[names[7]].step, first[names[7]].quantity, first[names[7]].tensor) == (5, "param_grad", "1.0.weight")
    assert (first[names[18]].step, first[names[18]].quantity) == (0, "output")
    assert (first[names[33]].step, first[names[33]].quantity) == (9, "param_grad")
    replays = {row["trial"]: row for row in result.run.evidence["replays"].to_pylist()}
    flipped = replays[f"builtin@{names[7]}-s0"]
    assert (flipped["differing"], flipped["bits"]) == (1, [23])
    assert flipped["candidate"] in (2 * flipped["baseline"], flipped["baseline"] / 2)
    assert replays[f"builtin@{names[18]}-s0"]["differing"] > 1000
    assert result.judgement.exit_status == 1


def test_the_report_grows_with_the_odd_ones_not_with_the_nodes(train):
    few = words(train("cpu@a", "cpu:plant=flip-5@b", *(f"cpu@c{n}" for n in range(3))))
    assert "first at step 5 (epoch 0, batch 5), param_grad 1.0.weight" in few
    assert "1 of 36 elements of param_grad 1.0.weight differ at step 5, in bit 23" in few


def test_a_larger_fleet_has_no_longer_report(make_trials, train, tmp_path, data):
    def lines(result):
        return len(report(result).splitlines())

    few = lines(train("cpu@a", "cpu:plant=flip-5@b", *(f"cpu@c{n}" for n in range(3))))
    (pattern,) = make_trials(steps=STEPS, audit_every=0, batch_size=BATCH)
    placed = parse_devices(["cpu@a", "cpu:plant=flip-5@b", *(f"cpu@c{n}" for n in range(15))])
    trials = plan([pattern.loss], placed, seeds=[0], replicas=1, settings=pattern.settings, equals=lambda _: 0)
    assert lines(api.run_trials(unmeasured(trials), data, tmp_path / "more", title="test")) == few


def test_equal_devices_of_different_software_are_two_classes(train):
    other = {f"n{n}": {"numpy": "1.26.4"} for n in (3, 4, 5)}
    result = train(*(f"cpu@n{n}" for n in range(6)), facts=other)
    assert [each.devices for each in result.judgement.fleet.classes] == [
        ("cpu@n0", "cpu@n1", "cpu@n2"),
        ("cpu@n3", "cpu@n4", "cpu@n5"),
    ]
    assert odd(result) == {}
    (warning,) = software_differences(result.run.trials)
    here = result.run.trials[0].numpy
    assert warning == f"Software differs between nodes: numpy {here} on n0, n1, n2; 1.26.4 on n3, n4, n5."
    text = words(result)
    assert text.index(warning) < text.index("mnist-autoencoder, 12 steps")


def test_one_of_five_replicas_is_unreliable(train):
    result = train("cpu@a", "cpu:plant=flip-5-r3@b", "cpu@c", replicas=5)
    (unit,) = odd(result).values()
    assert unit.device == "cpu:plant=flip-5-r3@b"
    assert unit.recurrence == "sometimes, 1 of 5 replicas: an unreliable device"
    others = [pair for pair in result.pairs if "@b" not in pair.pair.candidate.device]
    assert {pair.verdict for pair in others} == {"identical"}


def test_five_of_five_replicas_are_broken(train):
    result = train("cpu@a", "cpu:plant=flip-5@b", "cpu@c", replicas=5)
    (unit,) = odd(result).values()
    assert unit.recurrence == "always, 5 of 5 replicas: a wrong setting or a broken device"


def test_the_first_device_may_be_the_odd_one(train):
    result = train("cpu:plant=flip-5@a", "cpu@b", "cpu@c")
    assert set(odd(result)) == diverged(result) == {"cpu:plant=flip-5@a"}
    (each,) = result.judgement.fleet.classes
    assert each.reference == "cpu@b"


def test_two_that_part_have_no_majority(train):
    result = train("cpu@a", "cpu:plant=flip-5@b")
    assert odd(result) == {}
    (pair,) = result.pairs
    assert pair.verdict == "diverged"
    assert pair.cause.endswith("class A, of 2 devices, has no majority, so either may be the odd one")
    text = words(result)
    assert "Class A has only two devices, so there is no majority" in text
    assert "Class A has no majority for builtin: its traces fall into 2 groups (1 with cpu@a and 1 with" in text


def test_a_class_that_falls_in_halves_accuses_nobody(train):
    result = train("cpu@a", "cpu@b", "cpu:plant=flip-5@c", "cpu:plant=flip-5@d")
    assert odd(result) == {}
    assert result.judgement.exit_status == 1


def test_different_settings_are_different_classes(train):
    result = train("cpu@a", "cpu:threads=2@b")
    assert [each.devices for each in result.judgement.fleet.classes] == [("cpu@a",), ("cpu:threads=2@b",)]
    (pair,) = result.pairs
    assert pair.verdict == "inconclusive", "no steps from shared states were taken"


@pytest.mark.parametrize("name", [*fleet.HARDWARE, *fleet.SOFTWARE])
def test_each_fact_of_hardware_and_software_tells_classes_apart(reference, name):
    from parity.store.stored_run import read_run

    record = replace(read_run(reference).trials[0], device="cpu@a")
    other = replace(record, trial="b", device="cpu@b")
    assert len(Fleet([record, other], {}).classes if record.status != "complete" else _classes(record, other)) == 1
    assert len(_classes(record, replace(other, **{name: "another"}))) == 2


def _classes(*records):
    return Fleet([replace(record, status="planned") for record in records], {}).classes


def test_a_class_explains_itself():
    facts = ("Xeon", "avx2", "AVX2", None, "3.11.7", "2.15.0", "2.4.6", "0.1.0", "mkl", None, None, None)
    assert HardwareClass("cpu:threads=2", facts).explain() == "cpu:threads=2, Xeon, AVX2, torch 2.15.0, numpy 2.4.6"


def test_judging_a_fleet_twice_says_the_same(train):
    result = train("cpu@a", "cpu:plant=flip-5@b", "cpu@c")
    again = judge(result.run)
    assert [(pair.verdict, pair.cause) for pair in again.pairs] == [(pair.verdict, pair.cause) for pair in result.pairs]
