"""python -m parity.report DIR: judges stored runs again and prints the report; needs neither torch nor Ray."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from parity import other_files
from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.judge.judging import judge
from parity.judge.several_runs import join
from parity.judge.sides import read_ranks
from parity.plan.file_options import add_file_options
from parity.plan.options import EXIT_STATUSES, add_format
from parity.render.formats import print_report
from parity.render.page import html
from parity.store.files import write_text
from parity.store.storage import StoragePath, parse_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.report",
        description="Judges a stored run again, or compares several runs with the first, and prints\n"
        "the report. Writes no file except the one that --html names.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="+",
        help="the --out of a run: a folder or a URI. If there are several, the trials of each are compared with those "
        "of the first. Or two logs (TensorBoard, CSV, JSON lines, trainer_state.json, torchtitan, Megatron) or "
        "checkpoints (safetensors, torch.save), which are known by their content",
    )
    parser.add_argument(
        "--across", action="store_true", help="also compare runs that were trained on different hardware"
    )
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="also write the report as a web page, like the report.html of a run"
    )
    add_format(parser)
    add_file_options(parser)
    options = parser.parse_args(arguments)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    """Reports about the runs, logs or checkpoints that the options name; returns the exit status.

    Raises:
        Trouble: As `report`; or an option does not go with what is compared.
    """
    for_others = {"--scalar": options.scalar, "--rtol": options.rtol, "--atol": options.atol}
    others = other_files.are_given(options.directories)
    unfit = {"--across": options.across, "--html": options.html} if others else for_others
    for name, given in unfit.items():
        if given or isinstance(given, float):
            what = "runs, and these are not" if others else "logs and checkpoints, and these are runs"
            raise Trouble(f"{name} is an option for {what}. Leave it out.")
    if others:
        return other_files.report(
            options.directories, scalars=options.scalar, rtol=options.rtol, atol=options.atol, form=options.format
        )
    directories = [parse_path(text) for text in options.directories]
    return report(directories, across=options.across, page=options.html, form=options.format)


def report(
    directories: Sequence[StoragePath], *, across: bool = False, page: Path | None = None, form: str = "text"
) -> int:
    """Judges a run, or several compared with the first, and prints the report; returns the exit status.

    Args:
        directories: The run directories, the baseline's first.
        across: Whether to compare runs that were trained on different hardware.
        page: File to write the web page to, or None.
        form: Format of the printed report, one of `options.FORMATS`.

    Raises:
        Trouble: A directory is not a run directory or is damaged; several runs have nothing to compare, or were trained
            on different hardware; or the page cannot be written.
    """
    ranks = read_ranks(directories[0])
    # A single run is judged as it was stored. The ranks of a distributed training are several runs, even in one
    # directory.
    if len(directories) == 1 and "" in ranks:
        run = ranks[""]
        judgement = judge(run)
    else:
        joined = join(directories, across=across)
        run, judgement = joined.run, judge(joined.run, joined.pairs)
    # Printed first, so that the report is not lost where the page cannot be written.
    print_report(run, judgement, form=form)
    if page:
        write_text(page, html.render(run, judgement))
    return judgement.exit_status


if __name__ == "__main__":
    sys.exit(main())
