"""python -m parity.report DIR: judges a stored run again and prints the report; needs neither torch nor Ray."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from parity.ground.command import guarded
from parity.judge.judging import judge
from parity.judge.several_runs import join
from parity.judge.sides import read_ranks
from parity.plan.options import EXIT_STATUSES, add_format
from parity.render.formats import print_report
from parity.render.page import html
from parity.store.files import write_text
from parity.store.storage import StoragePath, parse_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.report",
        description="Judges a stored run again, or several runs against the first, and prints the report. "
        "Writes nothing but what --html names.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="+",
        help="the --out of a run: a folder, or a URI; of several the trials are held against those of the first",
    )
    parser.add_argument("--across", action="store_true", help="compare runs of different hardware too")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the page too, as DIR/report.html")
    add_format(parser)
    options = parser.parse_args(arguments)
    directories = [parse_path(text) for text in options.directories]
    return guarded(lambda: report(directories, across=options.across, page=options.html, form=options.format))


def report(
    directories: Sequence[StoragePath], *, across: bool = False, page: Path | None = None, form: str = "text"
) -> int:
    """Judges a run, or several against the first, and prints the report; returns the exit status.

    Args:
        directories: Of the runs, the baseline's first.
        across: Whether to compare runs of different hardware.
        page: Where to write the page, or None.
        form: Of what is printed; one of `formats.FORMATS`.

    Raises:
        Trouble: A directory is no run, or damaged; there is nothing to compare in several, or their hardware is not the
            same; or the page cannot be written.
    """
    ranks = read_ranks(directories[0])
    if len(directories) == 1 and "" in ranks:
        run = ranks[""]
        judgement = judge(run)
    else:
        joined = join(directories, across=across)
        run, judgement = joined.run, judge(joined.run, joined.pairs)
    print_report(run, judgement, form=form)
    if page:
        write_text(page, html.render(run, judgement))
    return judgement.exit_status


if __name__ == "__main__":
    sys.exit(main())
