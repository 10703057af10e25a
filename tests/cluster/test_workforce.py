"""A worker is used again by trials that need the same, and never holds what a new worker waits for; without Ray."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pytest

from parity.cluster import nodes, workers
from parity.cluster.growing import Demand
from parity.cluster.waiting import BESIDE_STEPS_S, Running, Waiting
from parity.cluster.workers import Cluster
from parity.cluster.workforce import Workforce
from parity.store.events import Advanced, Began, Ended, Found, Restarted, Saved


class Actor:
    """A worker, and what Ray was asked for it."""

    def __init__(self, ray, options, environment):
        self.ray, self.options, self.environment = ray, options, environment
        self.alive = True
        self.start = self.advance = self

    def remote(self, *arguments):
        """The answer of a call: the actor itself, which `FakeRay.get` asks."""
        return self


class FakeRay:
    """As much of Ray as the workforce looks at: what is alive, and what it holds."""

    class exceptions:  # noqa: N801 - as Ray has it
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

        class ActorDiedError(RayError):
            pass

        class ActorUnavailableError(RayError):
            pass

        class OutOfMemoryError(RayError):
            pass

    def __init__(self, *cpus):
        self.started = []
        self.there = [
            {"Alive": True, "NodeID": f"id-{name}", "NodeName": name, "Resources": {"CPU": float(count)}}
            for name, count in zip("abc", cpus, strict=False)
        ]

    def nodes(self):
        return [{"NodeManagerAddress": "10.0.0.1", **node} for node in self.there]

    def remote(self, worker):
        return self

    def options(self, **options):
        return _Options(self, options)

    def kill(self, actor):
        actor.alive = False

    def get(self, actor):
        if not actor.alive:
            raise self.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory")
        return "id-a", None

    @property
    def alive(self):
        return [actor for actor in self.started if actor.alive]

    @property
    def held(self):
        return sum(actor.options["num_cpus"] for actor in self.alive)


class _Options:
    def __init__(self, ray, options):
        self.ray, self.chosen = ray, options

    def remote(self, environment):
        self.ray.started.append(Actor(self.ray, self.chosen, environment))
        return self.ray.started[-1]


@pytest.fixture
def cluster():
    """A cluster of one node with two CPUs, and its workforce."""
    return made(FakeRay(2))


def made(ray):
    cluster = Cluster(ray)
    cluster._workforce = Workforce(ray, object, cluster._placement, cluster._seats)
    return cluster


@pytest.fixture
def entry(make_trials):
    def make(device="cpu", loss="builtin"):
        return Running(make_trials(loss, device=device)[0])

    return make


def begin(cluster, entry):
    """Gives a trial its worker, which answers; returns whether there was room."""
    if not cluster._workforce.reserve(entry):
        return False
    cluster._workforce.hire(entry)
    entry.where = ("id-a", None)
    return True


def test_a_trial_gets_the_worker_that_another_one_has_left(cluster, entry):
    first, second = entry(), entry(loss="numpy")
    assert begin(cluster, first) and not first.warm
    cluster._workforce.release(first, reusable=True)
    assert begin(cluster, second) and second.warm
    assert second.actor is first.actor
    assert len(cluster._ray.started) == 1


def test_devices_with_the_same_environment_share_workers_and_others_do_not(cluster, entry):
    first, planted, other = entry(), entry("cpu:plant=flip-100"), entry("cpu:isa=avx2")
    begin(cluster, first)
    cluster._workforce.release(first, reusable=True)
    begin(cluster, planted)
    assert planted.actor is first.actor
    cluster._workforce.release(planted, reusable=True)
    begin(cluster, other)
    assert other.actor is not first.actor
    assert other.actor.environment["ATEN_CPU_CAPABILITY"] == "avx2"


def test_a_new_worker_does_not_wait_for_what_idle_ones_hold(cluster, entry):
    first, second, wide = entry(), entry(loss="numpy"), entry("cpu:threads=2")
    assert begin(cluster, first) and begin(cluster, second)
    assert not begin(cluster, wide)
    for each in (first, second):
        cluster._workforce.release(each, reusable=True)
    assert begin(cluster, wide)
    assert cluster._ray.alive == [wide.actor]
    assert cluster._ray.held == 2


def test_an_idle_worker_on_another_node_is_left(entry):
    cluster = made(FakeRay(1, 1))
    a, b = entry("cpu@a"), entry("cpu@b")
    begin(cluster, a)
    cluster._workforce.release(a, reusable=True)
    begin(cluster, b)
    assert cluster._ray.alive == [a.actor, b.actor]
    assert b.actor.options["label_selector"] == {"ray.io/node-id": "id-b"}


def test_a_worker_that_no_trial_waits_for_is_ended(cluster, entry):
    first = entry()
    begin(cluster, first)
    cluster._workforce.release(first, reusable=True)
    cluster._workforce.dismiss_unneeded(Waiting([entry(loss="numpy").trial]), [])
    assert first.actor.alive
    cluster._workforce.dismiss_unneeded(Waiting([entry("cpu:threads=2").trial]), [])
    assert not first.actor.alive


def test_an_idle_worker_makes_room_for_one_that_has_not_answered(cluster, entry):
    first, starting = entry(), entry("cpu:isa=avx2")
    begin(cluster, first)
    begin(cluster, starting)
    starting.where = None  # Ray may not have had the room for it
    cluster._workforce.release(first, reusable=True)
    cluster._workforce.dismiss_unneeded(Waiting([entry(loss="numpy").trial]), [starting])
    assert cluster._ray.alive == [starting.actor]


def test_the_worker_of_a_trial_that_was_lost_is_ended_and_its_room_is_free(cluster, entry):
    first, second = entry("cpu:threads=2"), entry("cpu:threads=2", loss="numpy")
    begin(cluster, first)
    first.began = True
    event = cluster._decide(first, "hung", "it finished no step for 3 s")
    assert isinstance(event, Restarted)
    cluster._waiting = Waiting([second.trial])
    cluster._follow_up(first, event)
    assert not first.actor.alive
    assert begin(cluster, second) and second.actor is not first.actor


def advanced(entry, step):
    return Advanced.of(entry.trial.name, pa.table({"step": [step]}), {})


def test_the_limit_on_a_step_counts_from_the_first_one_to_the_last_one(cluster, entry):
    """Before it, the loss is imported and its contract checked, which takes long on a busy machine."""
    first = entry()
    begin(cluster, first)
    first.pending_since_s = 100.0
    assert first.overdue_at_s(3.0) == math.inf  # Ray may still be starting it
    first.has_reported(Began(first.trial.name, {}))
    first.has_reported(Found(first.trial.name, "contract", ()))
    assert first.overdue_at_s(3.0) == 100.0 + BESIDE_STEPS_S
    assert first.overdue_at_s(2 * BESIDE_STEPS_S) == 100.0 + 2 * BESIDE_STEPS_S
    assert first.silence(3.0) == "it reported nothing for 600 s, before its first step or after its last one"
    first.has_reported(advanced(first, 0))
    first.has_reported(Saved(first.trial.name, 1, 0.0, b""))
    assert first.overdue_at_s(3.0) == 103.0
    assert first.silence(3.0) == "it finished no step for 3 s"
    last = first.trial.settings.steps - 1
    first.has_reported(advanced(first, last))
    assert first.overdue_at_s(3.0) == 100.0 + BESIDE_STEPS_S
    first.set_worker(None)
    first.has_reported(Began(first.trial.name, {}))
    assert first.overdue_at_s(3.0) == 100.0 + BESIDE_STEPS_S


def test_a_worker_that_checks_a_contract_for_long_is_left_at_work(cluster, entry, monkeypatch):
    monkeypatch.setattr(cluster._ray, "wait", lambda asked, **_: ([], asked), raising=False)
    cluster._step_timeout_s = 3.0
    first = entry()
    begin(cluster, first)
    first.has_reported(Began(first.trial.name, {}))
    first.ask(first.actor)
    first.pending_since_s -= 10.0
    cluster._running = {first.actor: first}
    assert cluster._collect() == []
    first.has_reported(advanced(first, 0))
    ((_, event),) = cluster._collect()
    assert event == Restarted(first.trial.name, "it finished no step for 3 s")


def test_a_worker_that_answers_at_the_last_moment_is_not_overdue(cluster, entry, monkeypatch):
    first, answered = entry(), []

    def wait(asked, num_returns, timeout):
        answered.append(timeout)  # while it is waited for
        return (asked, []) if len(answered) > 1 else ([], asked)

    begin(cluster, first)
    first.began = first.stepping = True
    first.ask(first.actor)
    first.pending_since_s -= 10.0
    cluster._step_timeout_s, cluster._running = 3.0, {first.actor: first}
    monkeypatch.setattr(cluster._ray, "wait", wait, raising=False)
    monkeypatch.setattr(cluster._ray, "get", lambda _: advanced(first, 1), raising=False)
    ((_, event),) = cluster._collect()
    assert (isinstance(event, Advanced), answered) == (True, [0, 0.0, 0])


def test_the_worker_of_a_trial_that_failed_by_itself_is_used_again(cluster, entry):
    first = entry()
    begin(cluster, first)
    cluster._follow_up(first, Ended(first.trial.name, status="failed", failure="raised"))
    assert first.actor.alive


def test_a_worker_that_was_lost_while_it_was_idle_is_replaced_and_counts_for_nothing(cluster, entry):
    first, second = entry(), entry(loss="numpy")
    begin(cluster, first)
    cluster._workforce.release(first, reusable=True)
    cluster._workforce.reserve(second)
    reference = cluster._start(second)
    assert reference is first.actor
    reference.alive = False
    assert cluster._event(reference, second) is None
    assert second.actor is not first.actor and second.pending is second.actor
    assert (second.warm, second.attempts.deaths, second.attempts.moves) == (False, 0, 0)
    # A worker of its own that is lost in the same way is one.
    second.actor.alive = False
    assert isinstance(cluster._event(second.pending, second), Restarted)
    assert second.attempts.moves == 1


def test_trials_that_were_lost_as_the_memory_ran_out_are_tried_again_one_by_one(entry):
    cluster = made(FakeRay(4, 4))
    eating, honest, elsewhere, later = entry("cpu@a"), entry("cpu@a"), entry("cpu@b"), entry("cpu@a")
    assert all(begin(cluster, each) for each in (eating, honest, elsewhere))
    cluster._waiting = Waiting([eating.trial])
    for each in (eating, honest):
        each.began = True
        cluster._follow_up(each, cluster._decide(each, "memory", "OOM"))
    assert begin(cluster, eating)
    assert not begin(cluster, honest) and not begin(cluster, later)
    assert begin(cluster, entry("cpu@b", loss="numpy"))
    eating.began = True
    event = cluster._decide(eating, "memory", "OOM")
    assert event.failure == "memory"
    cluster._follow_up(eating, event)
    assert begin(cluster, honest)
    assert not begin(cluster, later)
    cluster._follow_up(honest, Ended(honest.trial.name, status="complete"))
    assert begin(cluster, later)


def test_all_workers_are_ended_with_the_run(cluster, entry):
    first, second = entry(), entry(loss="numpy")
    begin(cluster, first)
    begin(cluster, second)
    cluster._workforce.release(first, reusable=True)
    cluster._workforce.end_all([second])
    assert cluster._ray.alive == []


@pytest.mark.parametrize(("home", "failure"), [("b", "node"), ("a", "raised")])
def test_a_file_that_only_the_driver_has_is_the_trouble_of_another_node(entry, monkeypatch, tmp_path, home, failure):
    """The driver is on node a."""
    cluster, trial = made(FakeRay(1, 1)), entry()
    (tmp_path / "scale.txt").touch()
    ended = Ended(trial.trial.name, status="failed", failure="raised", lacks_file=str(tmp_path / "scale.txt"))
    monkeypatch.setattr(cluster._ray, "get", lambda _: ended)
    monkeypatch.setattr(workers, "this_node", lambda: "id-a")
    trial.where, trial.home = (f"id-{home}", None), cluster._placement.by_id[f"id-{home}"]
    assert cluster._event(None, trial).failure == failure


def test_nodes_are_asked_once_and_only_those_that_can_run_trials(monkeypatch):
    ray, asked = FakeRay(1), []
    ray.there.append({"Alive": True, "NodeID": "id-head", "NodeName": "head", "Resources": {}})
    cluster = made(ray)

    def probe(_, new):
        asked.extend(node.name for node in new)
        return tuple(replace(node, facts={"cpu_model": "x"}) for node in new)

    monkeypatch.setattr(nodes, "probe", probe)
    cluster.probe()
    cluster.probe()
    assert asked == ["a"] and [node.facts for node in cluster.nodes] == [{"cpu_model": "x"}, {}]
    cluster.probe(idle=True)
    assert asked == ["a", "head"]


def test_trials_that_wait_go_to_nodes_that_come(make_trials, monkeypatch):
    """One of three trials has room; an autoscaler is asked for the others, and a second node comes."""
    ray, groups = FakeRay(1), []
    cluster = made(ray)
    ray.util = SimpleNamespace(
        placement_group=lambda bundles: groups.append(Group(bundles)) or groups[-1],
        remove_placement_group=groups.remove,
    )
    monkeypatch.setattr(nodes, "probe", lambda _, new: new)
    cluster._demand = Demand(ray)
    cluster._waiting = Waiting(make_trials("builtin", "numpy", "tests/right_losses.py:functional"))
    started = list(cluster._startable())
    cluster._demand.keep(cluster._unplaced())
    assert len(started) == 1 and [group.bundles for group in groups] == [[{"CPU": 1}]] * 2
    assert not cluster._newcomers()
    ray.there.append({"Alive": True, "NodeID": "id-b", "NodeName": "b", "Resources": {"CPU": 1.0}})
    groups[0].there = True  # the group has the room that a trial is to have
    assert cluster._newcomers() and len(groups) == 1
    started += cluster._startable()
    # Both nodes are of one class, and Ray chooses among them.
    assert len(started) == 2 and started[1].nodes == cluster.nodes and len(cluster.nodes) == 2
    cluster._demand.keep(cluster._unplaced())
    assert len(groups) == 1


class Group:
    """A placement group that waits for room."""

    there = False

    def __init__(self, bundles):
        self.bundles = bundles

    def wait(self, timeout_seconds):
        return self.there
