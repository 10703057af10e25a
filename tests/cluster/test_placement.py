"""Where trials may run: from what `ray.nodes()` returns, without Ray."""

import json
from dataclasses import replace

import pytest

from parity.cluster.nodes import Node, alive, as_stored, from_stored
from parity.cluster.placement import Placement, check, equals, expand
from parity.ground.errors import Trouble
from parity.plan.device import parse_device, parse_devices
from parity.version import package_sha256


def raw(number, name="", host="host", cpus=2, gpus=0, is_alive=True, address="10.0.0.1"):
    resources = {kind: float(count) for kind, count in (("CPU", cpus), ("GPU", gpus)) if count}
    return {
        "NodeID": f"{number:056x}",
        "NodeName": name or address,
        "NodeManagerAddress": address,
        "NodeManagerHostname": host,
        "Alive": is_alive,
        "Resources": resources,
    }


def node(name, cpus=2, gpus=0, **facts):
    return Node(id=f"id-{name}", name=name, cpus=cpus, gpus=gpus, facts=facts)


def names(devices):
    return [device.name for device in devices]


def test_nodes_are_named_by_their_given_name_else_by_their_host():
    found = alive([raw(2, "b"), raw(1), raw(3, "gone", is_alive=False)])
    assert [each.name for each in found] == ["b", "host"]


def test_nodes_stand_in_the_order_of_their_numbers():
    """So that the devices of --each do, the first of which is the baseline, and so does every list of them."""
    hosts = ["h10", "h9", "gpu2-10", "h009", "gpu10-1", "gpu2-9", "h", "H9", "10.0.0.10", "10.0.0.9"]
    found = alive([raw(number, host) for number, host in enumerate(hosts)])
    assert [each.name for each in found] == [
        *("10.0.0.9", "10.0.0.10", "H9", "gpu2-9", "gpu2-10", "gpu10-1", "h", "h009", "h9", "h10"),
    ]
    assert names(expand(parse_devices(["cpu"]), "node", found))[-2:] == ["cpu@h9", "cpu@h10"]


def test_nodes_with_one_name_are_distinguished_by_their_id():
    numbers = {"10.0.0.1": 0x1234567890 << 184, "10.0.0.2": 0xABCDEF0123 << 184}
    found = alive([raw(number, host="h", address=address) for address, number in numbers.items()])
    assert len({each.name for each in found}) == 2
    assert all(each.name == f"h-{each.id[:8]}" for each in found)


def test_each_node_means_each_with_a_cpu_for_trials():
    nodes = [node("head", cpus=0), node("a"), node("b")]
    assert names(expand(parse_devices(["cpu"]), "node", nodes)) == ["cpu@a", "cpu@b"]
    assert names(expand(parse_devices(["cpu", "cpu:threads=2"]), "node", nodes)) == [
        "cpu@a",
        "cpu:threads=2@a",
        "cpu@b",
        "cpu:threads=2@b",
    ]


def test_each_gpu_has_its_number():
    gpus = [{"gpu_index": number, "gpu_name": "H200", "gpu_driver": "580"} for number in (0, 1, 2, 3)]
    nodes = [node("a", gpus=2), node("b"), Node("id-c", "c", 8, 2, {"gpus": gpus})]
    found = names(expand(parse_devices(["cuda"]), "gpu", nodes))
    assert found == ["cuda@a#0", "cuda@a#1", "cuda@c#0", "cuda@c#1"]


def test_a_planted_fault_takes_the_place_of_the_device_on_its_node():
    nodes = [node("a"), node("b"), node("c")]
    wanted = parse_devices(["cpu", "cpu:plant=flip-100@b"])
    assert names(expand(wanted, "node", nodes)) == ["cpu@a", "cpu:plant=flip-100@b", "cpu@c"]


@pytest.mark.parametrize(
    ("wanted", "each", "message"),
    [
        (
            ["cuda"],
            "gpu",
            "--each gpu: no node of this cluster (a, b) has a GPU. Use --each node, or add a GPU node type.",
        ),
        (["cuda"], "node", "--each node places devices of kind cpu, not cuda. Leave them out."),
        (["cpu"], "gpu", "--each gpu places devices of kind cuda, not cpu. Leave them out."),
        (
            ["cpu@x"],
            None,
            "Device cpu@x: this cluster (a, b) has no node 'x'. python -m parity.devices lists its nodes.",
        ),
        (["cuda@a#1"], None, "Device cuda@a#1: node a has no GPU 1. Its GPUs: none."),
    ],
)
def test_what_cannot_be_placed_is_reported(wanted, each, message):
    with pytest.raises(Trouble) as trouble:
        expand(parse_devices(wanted), each, [node("a"), node("b")])
    assert str(trouble.value) == message


def test_a_cluster_that_is_only_a_head_without_cpus_is_reported():
    with pytest.raises(Trouble) as trouble:
        expand(parse_devices(["cpu"]), "node", [node("head", cpus=0)])
    assert str(trouble.value) == ("--each node: no node of this cluster (head) has a CPU for trials. Add a node.")


def test_a_trial_that_its_own_node_cannot_run_is_reported(make_trials):
    (trial,) = make_trials("numpy", device="cpu:threads=4@a")
    with pytest.raises(Trouble) as trouble:
        check([trial], [node("a"), node("b", cpus=8)])
    assert str(trouble.value) == (
        "Trial numpy@cpu:threads=4@a-s0 needs 4 CPUs on one node, and node a has 2. "
        "Use fewer threads, or add a larger node type."
    )


def test_a_placed_device_runs_on_its_node_and_when_that_leaves_in_its_class():
    nodes = [node("a", cpu_model="x"), node("b", cpu_model="y"), node("c", cpu_model="x")]
    placement = Placement(nodes)
    device = parse_device("cpu@a")
    assert placement.nodes_for(device) == (nodes[0],)
    placement.renew(nodes[1:])
    assert placement.nodes_for(device) == (nodes[2],)
    placement.renew(nodes[1:2])
    assert placement.nodes_for(device) == ()


def test_the_facts_of_a_node_are_kept_when_the_cluster_is_looked_at_again():
    placement = Placement([node("a", cpu_model="x")])
    placement.renew([Node("id-a", "a", 2, 0), Node("id-new", "new", 2, 0)])
    assert placement.by_id["id-a"].facts == {"cpu_model": "x"}
    assert placement.by_id["id-new"].facts == {}


def test_an_unplaced_device_stays_within_the_class_with_the_most_room():
    nodes = [node("a", cpu_model="x"), node("b", cpus=4, cpu_model="y"), node("c", cpus=4, cpu_model="y")]
    assert Placement(nodes).nodes_for(parse_device("cpu")) == (nodes[1], nodes[2])
    assert Placement(nodes).nodes_for(parse_device("cpu"), hardware=nodes[0].hardware) == (nodes[0],)


def test_nodes_that_have_not_answered_are_taken_where_there_are_no_others():
    silent = [Node("id-a", "a", 8, 0, problem="died"), Node("id-b", "b", 8, 0, problem="died")]
    known = node("c", cpu_model="x")
    assert Placement([*silent, known]).nodes_for(parse_device("cpu")) == (known,)
    assert Placement(silent).nodes_for(parse_device("cpu")) == tuple(silent)


def test_there_is_room_for_as_many_as_a_node_has_cpus():
    placement = Placement([node("a"), node("b")])
    a, b = (parse_device(f"cpu@{name}") for name in "ab")
    for _ in range(2):
        assert placement.room(a, placement.nodes_for(a))
        placement.take(a, placement.nodes_for(a))
    assert not placement.room(a, placement.nodes_for(a))
    assert placement.room(b, placement.nodes_for(b))
    placement.free(a, placement.nodes_for(a))
    assert placement.room(a, placement.nodes_for(a))


def test_unplaced_trials_fill_the_cluster():
    placement = Placement([node("a"), node("b")])
    device = parse_device("cpu")
    for _ in range(4):
        assert placement.room(device, placement.nodes_for(device))
        placement.take(device, placement.nodes_for(device))
    assert not placement.room(device, placement.nodes_for(device))


def test_devices_are_equal_on_equal_nodes_with_equal_settings():
    nodes = [node("a", torch="2.15"), node("b", torch="2.15"), node("c", torch="2.14")]
    a, b, c, plain, wide = map(parse_device, ("cpu@a", "cpu:plant=tf32@b", "cpu@c", "cpu", "cpu:threads=2@a"))
    assert equals(a, nodes) == equals(b, nodes)
    assert len({equals(device, nodes) for device in (a, c, plain, wide)}) == 4


def resumed(*now, then):
    """The placement of a run that was begun on some nodes and goes on on others."""
    placement = Placement(now)
    placement.remember(from_stored(json.loads(json.dumps(as_stored(then)))))
    return placement


def test_what_is_stored_of_nodes_is_their_class():
    gpus = [{"gpu_index": 0, "gpu_name": "H200", "gpu_driver": "580", "gpu_uuid": "x"}]
    nodes = [node("a", cpu_model="X", host="a"), node("b", cpu_model="X", host="b"), node("c", cpu_model="Y", gpus=1)]
    nodes[2] = replace(nodes[2], facts=nodes[2].facts | {"gpus": gpus})
    kept = as_stored(nodes)
    assert len(kept["classes"]) == 2 and kept["nodes"]["a"] == kept["nodes"]["b"] != kept["nodes"]["c"]
    again = from_stored(json.loads(json.dumps(kept)))
    assert [each.hardware for each in again] == [each.hardware for each in nodes]
    for device in parse_devices(["cpu@a", "cuda@c#0", "cpu"]):
        assert equals(device, again) == equals(device, nodes)
    # A run of an earlier version, and one on this machine, have stored none.
    assert from_stored({}) == ()


def test_the_trials_of_a_node_that_left_before_a_resume_go_on_in_its_class():
    a, b, c = node("a", cpu_model="X"), node("b", cpu_model="X"), node("c", cpu_model="Y")
    placement = resumed(a, c, then=[a, b, c])
    assert placement.nodes_for(parse_device("cpu@b")) == (a,)
    assert placement.nodes_for(parse_device("cpu@c")) == (c,)
    assert resumed(c, then=[a, b, c]).nodes_for(parse_device("cpu@b")) == ()


def test_a_machine_that_came_back_as_another_one_is_not_the_node_that_left():
    then = [node("a", cpu_model="X"), node("b", cpu_model="X")]
    back = Node(id="id-new", name="b", cpus=2, gpus=0, facts={"cpu_model": "Y"})
    assert resumed(then[0], back, then=then).nodes_for(parse_device("cpu@b")) == (then[0],)
    same = replace(back, facts={"cpu_model": "X"})
    assert resumed(then[0], same, then=then).nodes_for(parse_device("cpu@b")) == (same,)


def test_another_commit_of_parity_is_another_class():
    a, b, c = (
        node(name, parity="0.1.0", parity_sha256=digest) for name, digest in (("a", "1"), ("b", "2"), ("c", "1"))
    )
    assert (a.hardware == c.hardware, a.hardware == b.hardware) == (True, False)
    assert Placement([a, b, c]).nodes_for(parse_device("cpu")) == (a, c)
    assert resumed(c, b, then=[a, b, c]).nodes_for(parse_device("cpu@a")) == (c,)


def test_a_run_of_an_earlier_version_was_on_nodes_with_this_parity():
    a, b = node("a", parity="0.1.0"), node("b", parity="0.1.0", parity_sha256=package_sha256())
    assert resumed(b, then=[a]).nodes_for(parse_device("cpu@a")) == (b,)


def test_a_node_that_left_before_a_resume_is_no_mistake_of_the_user(make_trials):
    trials = make_trials(device="cpu@b")
    check(trials, [node("a")], gone={"b"})
    with pytest.raises(Trouble):
        check(trials, [node("a")])
