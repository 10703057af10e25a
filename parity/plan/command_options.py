"""The options of every command except `parity run`. Imports only what parsing needs."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from parity.ground.kept import DAYS
from parity.plan.device import GRAMMAR
from parity.plan.file_options import add_file_options
from parity.plan.options import (
    EXIT_STATUSES,
    add_batch_size_and_lr,
    add_format,
    add_quiet,
    add_task,
    make_parser,
    number,
)
from parity.plan.parser import Parser

# As `parity.check` has it: the first partial batch of the reference experiment is step 234.
CHECK_STEPS = 240


def make_check_parser() -> Parser:
    """Makes the parser of the options of `parity check`."""
    parser = Parser(
        "parity check",
        usage="FILE:ATTR [FILE:ATTR ...] [options]",
        description="Trains for a few steps with your loss and with the builtin one, in this process,\n"
        "and reports where they differ. Without --out, a run that does not pass is kept,\n"
        f"with its report.html, for {DAYS} days in the temporary folder.",
        example="parity check mine.py:MyLoss",
        epilog=EXIT_STATUSES,
    )
    add = parser.add_argument_group("what to compare").add_argument
    add(
        "losses",
        metavar="FILE:ATTR",
        nargs="+",
        help="a loss: path/to/file.py:attr, package.module:attr or numpy. attr is a function, an nn.Module (class or "
        "instance) or an autograd.Function subclass",
    )
    add("--baseline", metavar="LOSS", default="builtin", help="the loss to compare with (default: %(default)s)")
    add_task(add)
    add(
        "--device",
        nargs="+",
        action="extend",
        metavar="DEVICE",
        help=f"the devices, the baseline first. Each is one of {GRAMMAR.replace(', auto', '')} (default: cpu)",
    )
    add("--seed", nargs="+", action="extend", type=number("seed"), metavar="N", help="the seeds (default: 0)")
    add = parser.add_argument_group("training").add_argument
    add(
        "--steps",
        type=number("steps"),
        default=CHECK_STEPS,
        metavar="N",
        help="number of optimizer steps (default: %(default)s, which has a partial batch)",
    )
    add_batch_size_and_lr(add)
    output = parser.add_argument_group("output")
    output.add_argument("--out", metavar="DIR", help="a new directory to keep the run and its report.html in")
    add_format(output)
    add_quiet(output)
    return parser


def make_report_parser() -> Parser:
    """Makes the parser of the options of `parity report`."""
    parser = Parser(
        "parity report",
        usage="DIR [DIR ...] [options]",
        description="Judges a stored run again, or compares several runs with the first, and prints\n"
        "the report. Writes no file except the one that --html names.",
        example="parity report runs/old runs/new",
        epilog=EXIT_STATUSES,
    )
    add = parser.add_argument_group("what to compare").add_argument
    add(
        "directories",
        metavar="DIR",
        nargs="+",
        help="the --out of a run: a folder or a URI. If there are several, the trials of each are compared with those "
        "of the first. If a folder contains runs, they are listed. Alternatively, two logs (TensorBoard, CSV, "
        "JSON lines, trainer_state.json, torchtitan, Megatron) or two checkpoints (safetensors, torch.save), which are "
        "recognised by their content",
    )
    add("--across", action="store_true", help="also compare runs that were trained on different hardware")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--html", metavar="FILE", type=Path, help="also write the report as a web page, like the report.html of a run"
    )
    add_format(output)
    add_file_options(parser)
    return parser


def make_devices_parser() -> Parser:
    """Makes the parser of the options of `parity devices`."""
    parser = Parser(
        "parity devices",
        usage="[--address ADDR]",
        description="Lists the devices of a Ray cluster, or of this machine, in the form that\n"
        "--device takes. Nodes in the same class have equal hardware and software. The\n"
        "exit status is 0, or 2 if the cluster cannot be reached or a node does not\n"
        "answer.",
        example="parity devices --address 10.0.0.1:6379",
    )
    parser.add_argument_group("cluster").add_argument(
        "--address",
        metavar="ADDR",
        help="address of a running Ray cluster (default: RAY_ADDRESS if it is set, otherwise this machine)",
    )
    return parser


def make_columns_parser() -> Parser:
    """Makes the parser of the options of `parity columns`."""
    return Parser(
        "parity columns",
        usage="",
        description="Prints the type, unit and meaning of each column of a run's Parquet files, as\n"
        "Markdown. The schemas of the files contain the same texts.",
        example="parity columns > columns.md",
    )


def make_open_parser() -> Parser:
    """Makes the parser of the options of `parity open`."""
    parser = Parser(
        "parity open",
        usage="DIR",
        description="Opens the report of a run in a browser and prints its path. Makes report.html\n"
        "if the run has none. The exit status is 0, or 2 if that is not possible.",
        example="parity open runs/first",
    )
    parser.add_argument("directory", metavar="DIR", help="the --out of a run")
    return parser


def make_submit_parser() -> Parser:
    """Makes the parser of the options of `parity submit`; all other options are those of `parity run`."""
    parser = Parser(
        "parity submit",
        usage="--address URL --out DIR [options] [options of parity run]",
        description="Runs parity as a Ray job: sends the files that the run needs, follows the job,\n"
        "and ends with its exit status. All other options are those of\n"
        "parity run; --out must be an absolute path on the cluster's storage,\n"
        "or a URI. --resume DIR continues a run, and needs no --out.",
        example="parity submit --address http://127.0.0.1:8265 --out /shared/runs/first",
        epilog=f"{EXIT_STATUSES}\nA job that does not run to its end counts as trouble (2).\n",
        allow_abbrev=False,  # an abbreviation may be an option of parity run
    )
    add = parser.add_argument_group("what to send").add_argument
    add(
        "--include",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="other files and folders to send, beside the losses, the task and what they import from their own folder",
    )
    add("--yes", action="store_true", help="send without asking for confirmation")
    add("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    _add_cluster(parser.add_argument_group("cluster"))
    output = parser.add_argument_group("output").add_argument
    output("--fetch", type=Path, metavar="DIR", help="copy the run to this new directory here when the job has ended")
    return parser


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    """Adds what says how the job runs on the cluster."""
    add = group.add_argument
    add("--address", required=True, metavar="URL", help="the cluster's dashboard, such as http://127.0.0.1:8265")
    add("--id", metavar="ID", help="id of the job (default: parity- followed by a digest of what is sent)")
    add(
        "--runtime-env",
        type=Path,
        metavar="FILE",
        help="a YAML file with a Ray runtime environment for the job, without working_dir",
    )
    add(
        "--python",
        metavar="COMMAND",
        help="the Python interpreter on the cluster (default: python, or the one that runs now if the head of the "
        "cluster is this machine)",
    )
    add("--status", action="store_true", help="print the status of the job, and do nothing else")
    add("--stop", action="store_true", help="stop the job, and do nothing else")


# By command, what makes its parser.
PARSERS: Mapping[str, Callable[[], Parser]] = {
    "run": make_parser,
    "report": make_report_parser,
    "check": make_check_parser,
    "devices": make_devices_parser,
    "columns": make_columns_parser,
    "submit": make_submit_parser,
    "open": make_open_parser,
}
