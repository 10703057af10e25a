"""Judges a stored fleet of 1,000 devices, of which three are odd.

    python benchmarks/fleet.py [--devices N] [--steps N] [--keep DIR]

The devices are equal GPUs, eight on a node, and each has the trace of one trial, as `benchmarks/judging.py` makes them;
nobody trained them. One device differs from a step on, one at a single step in a single tensor, one at its last step.
`parity.report --html` has to name these three and nobody else. Its wall time, its largest resident size and the size of
its page are printed. Exits with 1 where anything else was found, or where 1,000 devices may not take as much.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # also where parity is installed from elsewhere

from benchmarks.judging import Fault, measure, store_run

GPUS_OF_A_NODE = 8
# What judging 1,000 devices may take, and the page about them.
MOST_S, MOST_MB, MOST_PAGE_BYTES = 60.0, 1000.0, 3_000_000


def generate(out: Path, count: int, steps: int) -> list[str]:
    """Writes the run directory; returns the odd devices."""
    devices = [f"cuda@n{number // GPUS_OF_A_NODE}#{number % GPUS_OF_A_NODE}" for number in range(count)]
    faults = {
        devices[count // 7]: [Fault(steps // 3, "param_grad")],
        devices[count // 2]: [Fault(steps // 2, "param", 5)],
        devices[count - 3]: [Fault(steps - 1, "output_grad")],
    }
    store_run(out, ["builtin"], devices, steps, lambda _, device: faults.get(device, []), quick=True)
    return [*faults]


def main() -> int:
    """Prints the row; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000, metavar="N")
    parser.add_argument("--steps", type=int, default=235, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new directory to keep the run in")
    parser.add_argument("--generate", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate:  # in a process of its own, since the largest resident size is handed on to children
        print(json.dumps(generate(options.generate, options.devices, options.steps)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        directory, page = options.keep or Path(folder) / "run", Path(folder) / "report.html"
        sizes = ["--devices", str(options.devices), "--steps", str(options.steps)]
        odd = json.loads(measure([__file__, *sizes, "--generate", str(directory)])[0])
        text, took = measure(["-m", "parity.report", str(directory), "--html", str(page)])
        page_bytes = page.stat().st_size
    # Whoever is odd, and whoever has a pair of its own that is not identical.
    found = sorted({*re.findall(r"^Odd: (\S+) ", text, re.MULTILINE), *re.findall(r"(\S+)-s0  (?!identical)", text)})
    found = sorted({each.removeprefix("builtin@") for each in found})
    print(
        f"| devices | steps | wall | memory | page | odd |\n|---:|---:|---:|---:|---:|---|\n| {options.devices:,} | "
        f"{options.steps:,} | {took.wall_s:.1f} s | {took.memory_mb:,.0f} MB | "
        f"{page_bytes / 1e6:.2f} MB | {', '.join(found)} |"
    )
    if found != sorted(odd):
        print(f"Planted was {', '.join(sorted(odd))}:\n\n{text}")
        return 1
    return int(took.wall_s > MOST_S or took.memory_mb > MOST_MB or page_bytes > MOST_PAGE_BYTES)


if __name__ == "__main__":
    sys.exit(main())
