"""The options of parity.report for logs and checkpoints that other tools wrote."""

import argparse
import math


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity.report` that only logs and checkpoints have."""
    add = parser.add_argument_group("logs and checkpoints").add_argument
    add(
        "--scalar",
        metavar="NAME",
        action="append",
        default=[],
        help="compare this scalar of two logs, or NAME=OTHER if the candidate calls it OTHER; can be repeated "
        "(default: all that both logs have)",
    )
    add(
        "--rtol",
        metavar="X",
        type=_tolerance,
        help="pass if |candidate - baseline| is at most ATOL + RTOL * |baseline| everywhere (default: 0)",
    )
    add("--atol", metavar="X", type=_tolerance, help="see --rtol (default: 0)")


def _tolerance(text: str) -> float:
    """Parses a finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a finite number of at least 0. Give 0, or a tolerance such as 1e-6."
        )
    return number
