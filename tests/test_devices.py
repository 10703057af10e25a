"""The list of what a cluster has."""

import io

import pytest
from rich.cells import cell_len
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


def printed(*nodes, width=80):
    console = Console(file=io.StringIO(), width=width)
    inventory.render(nodes, console)
    return console.file.getvalue().splitlines()


def rendered(*nodes):
    return [line.split() for line in printed(*nodes) if line.strip()]


def test_equal_nodes_have_one_label():
    lines = rendered(node("a"), node("b"), node("c", torch="2.14.0"), node("d"))
    assert [(line[0], line[1]) for line in lines if line[0].startswith("cpu@")] == [
        ("cpu@a", "A"),
        ("cpu@b", "A"),
        ("cpu@c", "B"),
        ("cpu@d", "A"),
    ]


def test_what_a_node_has_of_its_own_stands_in_its_line():
    assert rendered(node("a", GPUS))[:2] == [["device", "class", "CPUs", "cores"], ["cpu@a", "A", "8", "56"]]


def test_what_the_nodes_of_a_class_have_in_common_is_said_once():
    text = " ".join(" ".join(printed(node("a", GPUS), node("b", GPUS), node("c", GPUS, torch="2.14.0"))).split())
    rest = "CUDA 13.2, BLAS mkl 2025.3, NumPy 2.4.6, parity 0.1.0, Python 3.11.7"
    assert f"Class A: Xeon [8480], AVX512; torch 2.15.0, {rest} Class B: " in text
    assert f"Class B: Xeon [8480], AVX512; torch 2.14.0, {rest} NVIDIA" in text


def test_each_gpu_has_a_line_under_its_model():
    lines = rendered(node("a"), node("b", GPUS), node("c", [{**GPUS[0], "gpu_name": "NVIDIA L4"}]))
    assert lines[lines.index(["NVIDIA", "H200,", "driver", "595.1:"]) :] == [
        ["NVIDIA", "H200,", "driver", "595.1:"],
        ["device", "UUID"],
        ["cuda@b#0", "GPU-0"],
        ["cuda@b#1", "GPU-1"],
        ["NVIDIA", "L4,", "driver", "595.1:"],
        ["device", "UUID"],
        ["cuda@c#0", "GPU-0"],
    ]


@pytest.mark.parametrize("width", [80, 40, 200])
@pytest.mark.parametrize("name", ["h9", "ip-10-0-0-123.us-west-2.compute.internal", "n" * 70, "損" * 30])
def test_the_list_fits_80_columns_and_breaks_no_name(name, width):
    uuid = "GPU-0b1c2d3e-1111-2222-3333-444455556666"
    gpus = [{**GPUS[0], "gpu_name": "NVIDIA A100-SXM4-80GB", "gpu_uuid": uuid}]
    lines = printed(node("h9"), node(name, gpus, cpu_model="Intel(R) Xeon(R) Platinum 8480C @ 2.00GHz"), width=width)
    assert max(map(cell_len, lines)) <= 80
    words = [word for line in lines for word in line.split()]
    assert {f"cpu@{name}", f"cuda@{name}#0", uuid} <= {*words}


def test_a_name_with_control_characters_is_shown_with_escapes():
    lines = printed(node("a\x1b[31m"))
    assert any("cpu@a\\x1b[31m" in line for line in lines) and "\x1b" not in "".join(lines)


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
