"""python -m parity.devices: lists the devices of a cluster, one line for each node and each GPU."""

import argparse
import os
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.cluster.nodes import Node
from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.judge.fleet import class_label

# The headings of the table of nodes, each with the fact that its column shows.
_COLUMNS = {
    "CPU": "cpu_model",
    "instruction set": "cpu_capability",
    "cores": "cores",
    "torch": "torch",
    "CUDA": "cuda",
    "BLAS": "blas",
    "NumPy": "numpy",
    "parity": "parity",
    "Python": "python",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.devices",
        description="Lists the devices of a Ray cluster, or of this machine, in the form that --device takes. Nodes in "
        "the same class have equal hardware and software. The exit status is 0, or 2 if the cluster cannot be reached "
        "or a node does not answer.",
    )
    parser.add_argument(
        "--address",
        metavar="ADDR",
        help="address of a running Ray cluster (default: RAY_ADDRESS if it is set, otherwise this machine)",
    )
    address = parser.parse_args(arguments).address or os.environ.get("RAY_ADDRESS") or "local"
    return guarded(lambda: list_devices(address))


def list_devices(address: str) -> int:
    """Prints the devices of the cluster; returns the exit status.

    Args:
        address: Address of a running cluster, or "local" for this machine.

    Raises:
        Trouble: The cluster cannot be reached, or a node did not report its hardware.
    """
    from parity.cluster.connection import connect

    with connect(address, data_bytes=0) as cluster:
        cluster.probe(idle=True)
        nodes = cluster.nodes
    # Before the trouble, so that one silent node does not hide the others.
    render(nodes, Console())
    silent = [f"{node.name} ({node.problem})" for node in nodes if node.problem]
    if silent:
        raise Trouble(f"{len(silent)} of {len(nodes)} nodes did not report their hardware: {'; '.join(silent)}.")
    return 0


def render(nodes: Sequence[Node], console: Console) -> None:
    """Prints a table of the nodes, and one of their GPUs."""
    # Classes are named in the order in which their first nodes are listed.
    labels: dict[object, str] = {}
    for node in nodes:
        labels.setdefault(node.hardware, class_label(len(labels)))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("device", "class", "CPUs", *_COLUMNS):
        table.add_column(heading, overflow="fold", no_wrap=heading == "device")
    for node in nodes:
        facts = [node.facts.get(name) for name in _COLUMNS.values()]
        cells = [f"cpu@{node.name}", labels[node.hardware], node.cpus, *facts]
        # As `Text`, since rich would read brackets in the name of a node as markup.
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in cells))
    console.print(table)
    # A node that did not answer has no facts, and no line here.
    gpus = [(node, gpu) for node in nodes for gpu in node.facts.get("gpus", [])]
    if not gpus:
        console.print("No node has a GPU.", highlight=False)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("device", "GPU", "UUID", "driver"):
        table.add_column(heading, overflow="fold")
    for node, gpu in gpus:
        row = (f"cuda@{node.name}#{gpu['gpu_index']}", gpu["gpu_name"], gpu["gpu_uuid"], gpu["gpu_driver"])
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
