"""The options of `python -m parity.run`."""

import argparse
import math
from pathlib import Path

from parity.plan.device import EACH, GRAMMAR
from parity.plan.task_spec import TASKS
from parity.plan.trial import EPOCHS

# What `--format` names; `render.formats` makes the documents.
FORMATS = ("text", "markdown", "json", "junit")

EXIT_STATUSES = """exit status:
  0  every pair is identical, report-only or rounding
  1  some pair diverged, or a candidate failed by its own doing
  2  trouble: bad arguments, the baseline failed, nowhere to place a trial, damaged files, interrupted
  3  none diverged, some inconclusive
"""


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.run",
        description="Trains the same seeded model once for each loss and device, and reports where the runs differ, "
        "how far, and whether that is rounding or a bug.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--loss",
        nargs="+",
        action="extend",
        metavar="LOSS",
        help="builtin, numpy, package.module:attr or path/to/file.py:attr; a function, an nn.Module (class or "
        "instance) or an autograd.Function subclass; the first is the baseline (default: builtin numpy; of a task of "
        "yours builtin, which is its own)",
    )
    add(
        "--task",
        default="mnist-autoencoder",
        help=f"what to train: {', '.join(TASKS)}, package.module:attr or path/to/file.py:attr (default: %(default)s)",
    )
    add(
        "--device",
        nargs="+",
        action="extend",
        metavar="DEVICE",
        help=f"{GRAMMAR}; options are joined by commas; cpu is one thread; the first is the baseline "
        "(default: auto, the CPU and each kind of accelerator that is there)",
    )
    add("--seed", nargs="+", action="extend", type=_whole, metavar="N", help="seeds, each for all trials (default: 0)")
    add("--replicas", type=_positive, default=1, metavar="N", help="train each trial N times (default: 1)")
    add(
        "--noise",
        type=_whole,
        default=0,
        metavar="N",
        help="train the baseline N more times, its output gradient randomly rounded by 1 ulp at each step: how fast "
        "rounding alone grows (default: 0)",
    )
    add("--epochs", type=_positive, default=EPOCHS, metavar="N", help="passes over the data (default: %(default)s)")
    add("--steps", type=_positive, metavar="N", help="stop after N steps in all")
    add("--batch-size", type=_positive, default=256, metavar="N", help="rows of a batch (default: %(default)s)")
    add("--lr", type=_rate, default=1e-3, metavar="X", help="learning rate (default: %(default)s)")
    add(
        "--audit-every",
        type=_whole,
        default=1,
        metavar="N",
        help="hold the loss and its gradient against float64 at every Nth step, the first, the last and the partial "
        "batches; 0 is never, and leaves differences undecided (default: %(default)s)",
    )
    add("--data", type=Path, metavar="DIR", help="a torchvision root to read MNIST from, instead of the embedded copy")
    add("--inline", action="store_true", help="train in this process, without Ray: a debugger works in a loss of yours")
    add(
        "--address",
        metavar="ADDR",
        help="a running Ray cluster (default: RAY_ADDRESS if it is set, else one is started here for the run)",
    )
    add(
        "--each",
        choices=EACH,
        help="train each trial on every node of the cluster, or on every GPU; devices of equal hardware and software "
        "must agree to the bit, and the odd one out is named; without --device: cpu, or cuda",
    )
    add(
        "--quick",
        action="store_true",
        help="screen many devices in the time of one trial: the baseline loss alone (unless --loss), no audit, no "
        "contract, and no comparison between classes of hardware",
    )
    add(
        "--wait-for-nodes",
        type=_positive,
        metavar="N",
        help="wait until the cluster has N nodes with a CPU (with --each gpu, a GPU) that is free; its autoscaler is "
        "asked to bring them",
    )
    add(
        "--wait-limit",
        type=_rate,
        default=600.0,
        metavar="SECONDS",
        help="how long to wait for nodes at most (default: %(default).0f)",
    )
    add(
        "--step-timeout",
        type=_rate,
        default=600.0,
        metavar="SECONDS",
        help="a worker that finishes no step for so long is ended, and its trial goes on in a new one, once "
        "(default: %(default).0f; --inline waits for ever)",
    )
    add(
        "--out",
        type=str,
        metavar="DIR",
        help="where the run is stored: a new directory, or a URI such as s3://BUCKET/DIR of any filesystem that fsspec "
        "has a package for (default: runs/<UTC time>)",
    )
    add(
        "--resume",
        metavar="DIR",
        help="go on with a run that was interrupted or killed: only what is missing is trained, from where each trial "
        "was saved last; refused when options, code, data or versions are not those that it was started with",
    )
    add(
        "--save-every",
        type=_rate,
        default=10.0,
        metavar="SECONDS",
        help="how often the state of a trial is stored, to go on from (default: %(default).0f)",
    )
    add_format(parser)
    return parser


def add_format(parser: argparse.ArgumentParser) -> None:
    """Adds the option that both commands have."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="what to print: text of 80 columns; markdown, for the summary of a CI job; json, which is summary.json; "
        "junit, the XML of test reports (default: %(default)s)",
    )


def _positive(text: str) -> int:
    """A whole number from 1 up."""
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: a whole number from 1 up is needed")
    return number


def _whole(text: str) -> int:
    """A whole number from 0 up."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def _rate(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number
