"""python -m parity.report DIR: judges stored runs again and prints the report; needs neither torch nor Ray."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from parity import other_files
from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.judge.judging import judge
from parity.judge.several_runs import join
from parity.judge.sides import read_ranks
from parity.judge.verdict import Judgement
from parity.plan.command_options import make_report_parser
from parity.render import run_list
from parity.render.formats import print_report
from parity.render.page import html
from parity.store.files import write_text
from parity.store.found_runs import find_runs
from parity.store.storage import StoragePath, parse_path
from parity.store.stored_run import StoredRun

# How each web page begins that parity writes.
_PAGE = b"<!doctype html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return guarded(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = make_report_parser().parse_args(arguments)
    for_others = {"--scalar": options.scalar or None, "--rtol": options.rtol, "--atol": options.atol}
    others = other_files.kind_of(options.directories)
    unfit = {"--across": options.across or None, "--html": options.html} if others else for_others
    for name, given in unfit.items():
        if given is not None:
            what = "runs, and these are not" if others else "logs and checkpoints, and these are runs"
            raise Trouble(f"{name} is an option for {what}. Leave it out.")
    if others:
        return other_files.report(
            options.directories,
            others,
            scalars=options.scalar,
            rtol=options.rtol,
            atol=options.atol,
            form=options.format,
        )
    directories = [parse_path(text) for text in options.directories]
    if len(directories) == 1 and (found := find_runs(directories[0])):
        sys.stdout.write(run_list.render(found))
        raise Trouble(
            f"{directories[0]} is not a run itself, and nothing was judged. Give one of these runs, or several to "
            f"compare them: parity report {shlex.quote(str(found[0].path))}"
        )
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
            on different hardware; or the page would replace another file, or cannot be written.
    """
    if page:
        _check_page(page)
    run, judgement = judged(directories, across=across)
    # Printed first, so that the report is not lost where the page cannot be written.
    print_report(run, judgement, form=form)
    if page:
        write_text(page, html.render(run, judgement))
    return judgement.exit_status


def _check_page(path: Path) -> None:
    """Raises `Trouble` for a file that is there and is not a web page: it may be the table of a run, or code."""
    if path.is_file():
        try:
            with path.open("rb") as file:
                head = file.read(len(_PAGE)).lower()
        except OSError as error:
            raise Trouble(f"--html {path} is a file that cannot be read ({error.strerror}). Choose another.") from error
        if head and head != _PAGE:
            raise Trouble(
                f"--html {path} would replace a file that is not a web page. Choose another file, or remove that one."
            )


def judged(directories: Sequence[StoragePath], *, across: bool = False) -> tuple[StoredRun, Judgement]:
    """Reads and judges a run, or several compared with the first; arguments and errors are those of `report`."""
    # A single run is judged as it was stored. The ranks of a distributed training are several runs, even in one
    # directory.
    if len(directories) == 1 and "" in (ranks := read_ranks(directories[0])):
        return ranks[""], judge(ranks[""])
    joined = join(directories, across=across)
    return joined.run, judge(joined.run, joined.pairs)


if __name__ == "__main__":
    sys.exit(main())
