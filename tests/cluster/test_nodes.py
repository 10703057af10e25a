"""Probing nodes and waiting for them, with a cluster in the place of Ray's that answers as a test says."""

import socket

import pytest

from parity.cluster.nodes import Node, alive, on_nodes, probe, wait_for_nodes
from parity.ground.errors import Trouble

HOST = {"Alive": True, "NodeName": "127.0.0.1", "NodeManagerAddress": "127.0.0.1", "NodeManagerHostname": "h2"}
NODES = [Node(id=f"id-{name}", name=name, cpus=2, gpus=0) for name in "abcd"]


class RayError(Exception):
    pass


class Calls:
    """A remote function: the reference to its answer is the id of the node that it is sent to."""

    def __init__(self, node=None):
        self.node = node

    def options(self, label_selector):
        return Calls(*label_selector.values())

    def remote(self):
        return self.node


class FakeRay:
    """As much of Ray as nodes are asked with.

    Attributes:
        answers: Facts or an error by the id of a node; nodes without one do not answer.
        cancelled: The calls that were given up.
        groups: What was asked for with each placement group that is left.
    """

    class exceptions:  # noqa: N801 - as Ray has it
        RayError = RayError

    def __init__(self, answers=(), *, come=True):
        self.answers = dict(answers)
        self.cancelled = []
        self.groups = []
        self.come = come
        self.util = self

    def remote(self, **_):
        return lambda function: Calls()

    def wait(self, references, num_returns, timeout):
        return [each for each in references if each in self.answers], [e for e in references if e not in self.answers]

    def cancel(self, reference, force):
        self.cancelled.append(reference)

    def get(self, reference):
        answer = self.answers[reference]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def placement_group(self, bundles, strategy):
        self.groups.append((bundles, strategy))
        come = self.come

        class Group:
            def wait(self, timeout_seconds):
                return come

        return Group()

    def remove_placement_group(self, group):
        self.groups.pop()

    def nodes(self):
        return [
            {"Alive": True, "NodeID": name, "NodeName": name, "NodeManagerAddress": "10.0.0.1", "Resources": resources}
            for name, resources in (("a", {"CPU": 2.0}), ("b", {"CPU": 2.0, "GPU": 1.0}), ("head", {}))
        ]


def test_each_node_has_its_facts_or_the_reason_why_not():
    ray = FakeRay(
        {"id-a": {"cpu_model": "x"}, "id-b": RayError("Traceback\n\nImportError: no\n"), "id-d": RayError("")}
    )
    a, b, c, d = probe(ray, NODES)
    assert (a.facts, a.problem) == ({"cpu_model": "x"}, None)
    assert (b.facts, b.problem) == ({}, "ImportError: no")
    assert (c.facts, c.problem) == ({}, "it did not answer within 60 s")
    assert (d.facts, d.problem) == ({}, "RayError")
    assert ray.cancelled == ["id-c"]


def test_a_call_stays_on_one_node_or_on_some():
    assert on_nodes("x") == {"ray.io/node-id": "x"}
    assert on_nodes("x", "y") == {"ray.io/node-id": "in(x,y)"}


@pytest.mark.parametrize(("gpu", "kind", "found"), [(False, "CPU", "a, b"), (True, "GPU", "b")])
def test_nodes_that_do_not_come_are_reported(gpu, kind, found):
    ray = FakeRay(come=False)
    with pytest.raises(Trouble) as trouble:
        wait_for_nodes(ray, 3, gpu=gpu, limit_s=2)
    assert str(trouble.value) == (
        f"--wait-for-nodes 3: after 2 s fewer nodes have a free {kind}. Nodes with {kind}s, busy or not: {found}. "
        "Wait longer with --wait-limit, or raise the maximum of the node type."
    )
    assert ray.groups == []


def test_each_node_that_is_waited_for_is_another_one():
    class Recording(FakeRay):
        def remove_placement_group(self, group):
            pass

    ray = Recording()
    wait_for_nodes(ray, 2, gpu=True, limit_s=1)
    assert ray.groups == [([{"GPU": 1}, {"GPU": 1}], "STRICT_SPREAD")]


@pytest.fixture
def raylet():
    """Makes what Ray says of a node on one host, whose raylet listens at its port unless it is dead."""
    open_ports = []

    def make(number, *, dead=False, port=None, count=0):
        server = socket.create_server(("127.0.0.1", 0))
        used = server.getsockname()[1]
        if dead:
            server.close()
        open_ports.append(server)
        name = f"/tmp/ray/session/sockets/raylet{f'.{count}' if count else ''}"
        return {
            **HOST,
            "NodeID": number * 56,
            "NodeManagerPort": port or used,
            "RayletSocketName": name,
            "Resources": {"CPU": 2.0},
        }

    yield make
    for each in open_ports:
        each.close()


def test_a_host_that_was_restarted_is_there_once(raylet):
    """Ray has not missed its first raylet yet, which was killed."""
    raw = [raylet("b"), raylet("a", dead=True, count=2)]
    assert [(node.id[0], node.name) for node in alive(raw)] == [("b", "h2")]


def test_of_two_raylets_that_cannot_both_have_a_port_the_later_is_there(raylet):
    first = raylet("a", count=9)
    second = raylet("b", count=10, port=first["NodeManagerPort"])
    for raw in ([first, second], [second, first]):
        assert [(node.id[0], node.name) for node in alive(raw)] == [("b", "h2")]


def test_several_raylets_that_run_on_one_host_are_all_there(raylet):
    assert [node.name for node in alive([raylet("b"), raylet("a")])] == ["h2-aaaaaaaa", "h2-bbbbbbbb"]


def test_where_none_seems_to_run_ray_is_believed(raylet):
    assert len(alive([raylet("b", dead=True), raylet("a", dead=True)])) == 2


def test_hosts_of_one_name_at_other_addresses_are_all_there(raylet):
    other = raylet("a", dead=True) | {"NodeName": "127.0.0.2", "NodeManagerAddress": "127.0.0.2"}
    assert len(alive([raylet("b"), other])) == 2
