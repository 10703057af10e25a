"""parity check FILE:ATTR: trains with a loss and with the builtin one in this process, and reports the differences.

Without --out, only a run that does not pass is kept, with its page: for seven days, in the temporary folder.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from parity.ground.command import guarded
from parity.ground.kept import DAYS
from parity.plan.command_options import make_check_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return guarded(lambda: _check(make_check_parser().parse_args(arguments)))


def _check(options: argparse.Namespace) -> int:
    """Checks the losses with `parity.check`, and prints the report; returns the exit status.

    Raises:
        Trouble: The check could not be made.
    """
    # Here, since torch comes with it, and wrong arguments are reported without.
    from parity.api import check
    from parity.render.formats import print_report

    # What a loss prints must not end up in a document.
    with contextlib.nullcontext() if options.format == "text" else contextlib.redirect_stdout(sys.stderr):
        result = check(
            options.losses,
            baseline=options.baseline,
            task=options.task,
            device=options.device or "cpu",
            steps=options.steps,
            seed=options.seed or 0,
            batch_size=options.batch_size,
            lr=options.lr,
            out=options.out,
            progress=not options.quiet,
        )
    print_report(result.run, result.judgement, form=options.format)
    if result.page is not None:
        kept = f" (kept for {DAYS} days)" if options.out is None else ""
        message = f"Report: {result.page}{kept}"
        # Other formats are read by programs.
        print(
            f"\n{message}" if options.format == "text" else message,
            file=None if options.format == "text" else sys.stderr,
        )
    return result.judgement.exit_status
