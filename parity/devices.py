"""python -m parity.devices: lists the devices of a cluster, a line for each node and each GPU."""

import sys
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console

from parity.cluster.nodes import Node
from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.judge.fleet import class_label
from parity.plan.command_options import make_devices_parser
from parity.plan.options import address_of
from parity.render.console import make_console
from parity.render.wrapping import WIDTH, flat, wrap

# What the nodes of a class have in common: in words, and as a fact.
_FACTS = {
    "CPU": "cpu_model",
    "instruction set": "cpu_capability",
    "torch": "torch",
    "CUDA": "cuda",
    "BLAS": "blas",
    "NumPy": "numpy",
    "parity": "parity",
    "Python": "python",
}
# Those of them that need no word.
_CPU = ("CPU", "instruction set")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return guarded(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = make_devices_parser().parse_args(arguments)
    return list_devices(address_of(options))


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
    render(nodes, make_console())
    silent = [f"{node.name} ({node.problem})" for node in nodes if node.problem]
    if silent:
        raise Trouble(f"{len(silent)} of {len(nodes)} nodes did not report their hardware: {'; '.join(silent)}.")
    return 0


def render(nodes: Sequence[Node], console: Console) -> None:
    """Prints the nodes, what those of a class have in common, and the GPUs, in at most `WIDTH` columns.

    The name of a device is never broken, so that it can be copied; a longer one has a line of its own.
    """
    # Classes are named in the order in which their first nodes are listed.
    labels: dict[object, str] = {}
    for node in nodes:
        labels.setdefault(node.hardware, class_label(len(labels)))
    rows = [
        (f"cpu@{node.name}", labels[node.hardware], str(node.cpus), _shown(node.facts.get("cores"))) for node in nodes
    ]
    lines = [*_table(("device", "class", "CPUs", "cores"), rows), ""]
    for hardware, label in labels.items():
        first = next(node for node in nodes if node.hardware == hardware)
        lines += wrap(f"Class {label}: {_in_common(first)}", then="  ")
    # Mostly equal on all nodes, and too long to stand beside each GPU.
    models: dict[tuple[str, str], list[tuple[str, str]]] = {}
    # A node that did not answer has no facts, and no line here.
    for node in nodes:
        for gpu in node.facts.get("gpus", []):
            model = _shown(gpu["gpu_name"]), _shown(gpu["gpu_driver"])
            models.setdefault(model, []).append((f"cuda@{node.name}#{gpu['gpu_index']}", _shown(gpu["gpu_uuid"])))
    for (name, driver), found in models.items():
        lines += ["", *wrap(f"{name}, driver {driver}:"), *_table(("device", "UUID"), found)]
    if not models:
        lines += ["", "No node has a GPU."]
    for line in lines:
        # As it is: brackets in the name of a node are no markup.
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _in_common(node: Node) -> str:
    """The facts of a node that all of its class have, as far as they are known."""
    found = {heading: node.facts.get(name) for heading, name in _FACTS.items()}
    cpu = [str(found.pop(heading)) for heading in _CPU if found[heading] is not None]
    known = [f"{heading} {fact}" for heading, fact in found.items() if heading not in _CPU and fact is not None]
    return "; ".join(", ".join(part) for part in (cpu, known) if part) or "not known, since it did not answer"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a table; where the first cell of a row is too long, the others are in a line of their own."""
    cells = [headings, *([flat(cell) for cell in row] for row in rows)]
    room = [max(cell_len(row[place]) for row in cells) for place in range(len(headings))]
    others = sum(width + 2 for width in room[1:])
    first = min(room[0], WIDTH - others)
    for name, *rest in cells:
        columns = "".join(f"  {cell:>{width}}" for cell, width in zip(rest, room[1:], strict=True))
        if cell_len(name) > first:
            yield name
            name = ""
        yield f"{name}{' ' * (first - cell_len(name))}{columns}"


def _shown(fact: object) -> str:
    return "-" if fact is None else str(fact)


if __name__ == "__main__":
    sys.exit(main())
