"""The options of `parity run`, and what other commands share with it."""

import argparse
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from parity.plan.device import EACH, GRAMMAR
from parity.plan.numbers import RULES, Rule, allows
from parity.plan.parser import Parser
from parity.plan.task_spec import TASKS
from parity.plan.trial import EPOCHS

# Adds an option to a group.
Add: TypeAlias = Callable[..., argparse.Action]

# Values of `--format`; `render.formats` makes the documents.
FORMATS = ("text", "markdown", "json", "junit")

# Also printed by `parity submit --help`, since a job ends with the status of its run.
EXIT_STATUSES = """exit status:
  0  every pair is identical, report-only or rounding
  1  a pair diverged, or a candidate failed through its own fault
  2  trouble: wrong arguments, a failed baseline, nowhere to run a trial,
     damaged files, an interruption
  3  no pair diverged, and at least one is inconclusive, or there is no pair
"""


def make_parser() -> Parser:
    """Makes the parser of the options of `parity run`."""
    parser = Parser(
        "parity run",
        usage="[--loss LOSS ...] [--device DEVICE ...] [options]",
        description="Trains the same seeded model once for each loss and device, and reports where\n"
        "the runs differ, by how much, and whether that is rounding or a bug.",
        example="parity run --loss builtin mine.py:MyLoss --steps 240",
        epilog=EXIT_STATUSES,
    )
    _add_trials(parser.add_argument_group("what to compare").add_argument)
    _add_training(parser.add_argument_group("training").add_argument)
    _add_cluster(parser.add_argument_group("cluster").add_argument)
    output = parser.add_argument_group("output")
    _add_storage(output.add_argument)
    add_format(output)
    output.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print to stderr, at the end, when each phase of the command began and ended, and how long the command "
        "waited for it",
    )
    add_quiet(output)
    return parser


def _add_trials(add: Add) -> None:
    add(
        # `extend` takes `--loss a b` and `--loss a --loss b` alike. It would also extend a default, so options of this
        # kind have none here, and `run` fills it in.
        "--loss",
        nargs="+",
        action="extend",
        metavar="LOSS",
        help="the losses to compare; the first is the baseline. Each is builtin, numpy, package.module:attr or "
        "path/to/file.py:attr, where attr is a function, an nn.Module (class or instance) or an autograd.Function "
        "subclass (default: builtin numpy; for your own task: builtin, the loss of the task)",
    )
    add_task(add)
    add(
        "--device",
        nargs="+",
        action="extend",
        metavar="DEVICE",
        help=f"the devices to compare; the first is the baseline. Each is one of {GRAMMAR}; options are joined by "
        "commas, and a cpu has one thread unless threads= says otherwise (default: auto, which is the CPU and each "
        "kind of accelerator that is available)",
    )
    add(
        "--seed",
        nargs="+",
        action="extend",
        type=number("seed"),
        metavar="N",
        help="the seeds; every trial is trained with each of them (default: 0)",
    )
    add(
        "--replicas",
        type=number("replicas"),
        default=1,
        metavar="N",
        help="train each trial N times, to see whether it repeats itself (default: %(default)s)",
    )
    add(
        "--noise",
        type=number("noise"),
        default=0,
        metavar="N",
        help="train the baseline N more times with its output gradient randomly rounded by 1 ulp at each step, to see "
        "how fast rounding alone grows (default: %(default)s)",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="a torchvision root to read MNIST from; it is downloaded there if it is missing (default: the copy that "
        "comes with parity)",
    )


def _add_training(add: Add) -> None:
    add(
        "--epochs",
        type=number("epochs"),
        default=EPOCHS,
        metavar="N",
        help="number of passes over the data (default: %(default)s)",
    )
    add(
        "--steps",
        type=number("steps"),
        metavar="N",
        help="stop after N optimizer steps in all (default: train every epoch)",
    )
    add_batch_size_and_lr(add)
    add(
        "--audit-every",
        type=number("audit_every"),
        default=1,
        metavar="N",
        help="check the loss and its gradient against a float64 reference at every Nth step, at the first and the last "
        "step and at partial batches; 0 turns the check off and leaves differences undecided (default: %(default)s)",
    )
    add(
        "--quick",
        action="store_true",
        help="screen many devices in the time of one trial: train the baseline loss alone (unless --loss is given), "
        "without the audit, the contract or comparisons between classes of hardware; losses are compared once in each "
        "class",
    )
    add(
        "--inline",
        action="store_true",
        help="train in this process, without Ray; a debugger then stops in your loss",
    )


def _add_cluster(add: Add) -> None:
    add(
        "--address",
        metavar="ADDR",
        help="address of a running Ray cluster (default: RAY_ADDRESS if it is set, with --resume the cluster "
        "that the run was on; otherwise Ray is started on this machine for the run)",
    )
    add(
        "--each",
        choices=EACH,
        help="train each trial on every node of the cluster, or on every GPU. Devices with equal hardware and software "
        "must agree to the bit, and the odd one out is named (default device with node: cpu; with gpu: cuda)",
    )
    add(
        "--wait-for-nodes",
        type=_parser_of(Rule(1, "Give the number of nodes to wait for.")),
        metavar="N",
        help="wait until N nodes of the cluster have a free CPU (with --each gpu, a free GPU), and ask its autoscaler "
        "for them (default: do not wait)",
    )
    add(
        "--wait-limit",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="longest time to wait for nodes, those of --wait-for-nodes and those that the cluster's autoscaler has to "
        "start before any trial has room (default: %(default).0f)",
    )
    add(
        # Without effect with --inline, where no other process could stop the training.
        "--step-timeout",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="stop a worker that has not finished a step for this long, and continue its trial in a new worker, once. "
        "Before the first step and after the last one the limit is at least 600 "
        "(default: %(default).0f; with --inline there is no limit)",
    )


def _add_storage(add: Add) -> None:
    add(
        "--out",
        # Not a Path, which would make s3:/BUCKET of s3://BUCKET.
        type=str,
        metavar="DIR",
        help="where to store the run: a new directory, or a URI such as s3://BUCKET/DIR of any filesystem that fsspec "
        "supports (default: runs/<UTC time>)",
    )
    add(
        # An option that only says how to continue a run has to be named in `store.resume.FREE`; all others are
        # compared.
        "--resume",
        metavar="DIR",
        help="continue a run that was interrupted or killed: only what is missing is trained, each trial from its last "
        "saved state. Refused if options, code, data or versions differ from those that the run was started with",
    )
    add(
        "--save-every",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how often to store the state that a trial can be continued from (default: %(default).0f)",
    )


def add_task(add: Add) -> None:
    """Adds the option `--task`, which `parity run` and `parity check` share."""
    add(
        "--task",
        default="mnist-autoencoder",
        metavar="TASK",
        help=f"what to train: {', '.join(TASKS)}, package.module:attr or path/to/file.py:attr (default: %(default)s)",
    )


def add_batch_size_and_lr(add: Add) -> None:
    """Adds the options `--batch-size` and `--lr`, which `parity run` and `parity check` share."""
    add(
        "--batch-size",
        type=number("batch_size"),
        default=256,
        metavar="N",
        help="number of rows in a batch (default: %(default)s)",
    )
    add("--lr", type=number("lr"), default=1e-3, metavar="X", help="learning rate (default: %(default)s)")


def add_format(parser: argparse._ActionsContainer) -> None:
    """Adds the option `--format`, which `parity.run` and `parity.report` share."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="what to print: text, as wide as the terminal (80 columns if there is none); "
        "markdown, for the summary of a CI job; json, the content of "
        "summary.json; or junit, the XML of test reports (default: %(default)s)",
    )


def add_quiet(group: argparse._ActionsContainer) -> None:
    """Adds the option `--quiet`, which `parity run` and `parity check` share."""
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress; the report and errors are printed")


def address_of(options: argparse.Namespace) -> str:
    """Address of the cluster to join; "local" for one of the command's own."""
    # Without an address Ray would join any cluster that it finds on this machine.
    return options.address or os.environ.get("RAY_ADDRESS") or "local"


def number(name: str) -> Callable[[str], Any]:
    """The parser of an option whose number `numbers.RULES` has a rule for."""
    return _parser_of(RULES[name])


def _parser_of(rule: Rule) -> Callable[[str], Any]:
    return functools.partial(_parse, rule=rule)


def _seconds(text: str) -> float:
    """Parses a time."""
    return float(_parse(text, rule=Rule(None, "Give a time in seconds.")))


def _parse(text: str, *, rule: Rule) -> int | float:
    """Parses a number that the rule allows."""
    try:
        # `int` alone would also take "1_000", " 1" and the digits of other scripts; `float` takes "inf" and "nan" too,
        # which no rule allows.
        number = float(text) if rule.least is None else int(text) if text.isascii() and text.isdigit() else math.nan
    except ValueError:
        number = math.nan
    if not allows(rule, number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {rule.allowed}. {rule.advice}")
    return number
