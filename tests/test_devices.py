"""The list of what a cluster has."""

import io

import pytest
from rich.console import Console

from parity import devices as inventory
from parity.cluster.nodes import Node

FACTS = {
    "cpu_model": "Xeon [8480]",
    "cpu_capability": "AVX512",
    "cores": 56,
    "torch": "2.15.0",
    "blas": "mkl 2025.3",
    "numpy": "2.4.6",
    "parity": "0.1.0",
    "python": "3.11.7",
}
GPUS = [
    {"gpu_index": number, "gpu_name": "NVIDIA H200", "gpu_uuid": f"GPU-{number}", "gpu_driver": "595.1"}
    for number in (0, 1)
]


def node(name, gpus=(), problem=None, **facts):
    known = {} if problem else {**FACTS, "gpus": list(gpus), "cuda": "13.2" if gpus else None, **facts}
    return Node(f"id-{name}", name, cpus=8, gpus=len(gpus), facts=known, problem=problem)


def rendered(*nodes):
    console = Console(file=io.StringIO(), width=200)
    inventory.render(nodes, console)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_equal_nodes_have_one_label():
    lines = rendered(node("a"), node("b"), node("c", torch="2.14.0"), node("d"))
    assert [(line[0], line[1]) for line in lines if line[0].startswith("cpu@")] == [
        ("cpu@a", "A"),
        ("cpu@b", "A"),
        ("cpu@c", "B"),
        ("cpu@d", "A"),
    ]


def test_what_a_node_is_stands_in_its_line():
    (line,) = [line for line in rendered(node("a", GPUS)) if line[0] == "cpu@a"]
    assert line == [
        "cpu@a",
        "A",
        "8",
        "Xeon",
        "[8480]",
        "AVX512",
        "56",
        "2.15.0",
        "13.2",
        "mkl",
        "2025.3",
        "2.4.6",
        "0.1.0",
        "3.11.7",
    ]


def test_each_gpu_has_a_line():
    lines = rendered(node("a"), node("b", GPUS))
    assert [line for line in lines if line[0].startswith("cuda@")] == [
        ["cuda@b#0", "NVIDIA", "H200", "GPU-0", "595.1"],
        ["cuda@b#1", "NVIDIA", "H200", "GPU-1", "595.1"],
    ]


@pytest.fixture
def cluster(monkeypatch):
    """A cluster in the place of Ray's, of the nodes that a test gives it."""

    def make(*nodes):
        class Stub:
            """As much of `workers.Cluster` as the inventory asks for."""

            def __init__(self):
                self.nodes = nodes

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def probe(self, *, idle):
                pass

        monkeypatch.setattr("parity.cluster.connection.connect", lambda address, data_bytes: Stub())

    return make


def test_a_node_that_does_not_answer_is_listed_and_reported(cluster, capsys):
    cluster(node("a"), node("b", problem="ModuleNotFoundError: No module named 'parity'"))
    assert inventory.main(["--address", "10.0.0.1:6379"]) == 2
    shown = capsys.readouterr()
    assert "cpu@a" in shown.out and "cpu@b" in shown.out
    assert shown.err == (
        "parity: 1 of 2 nodes did not report their hardware: b (ModuleNotFoundError: No module named 'parity').\n"
    )


def test_all_nodes_answering_is_success(cluster, capsys):
    cluster(node("a"), node("b", GPUS))
    assert inventory.main([]) == 0
    assert capsys.readouterr().err == ""
