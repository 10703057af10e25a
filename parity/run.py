"""python -m parity.run: plans trials, trains them, stores their traces, judges and reports.

This module is what the command does first: it checks what can be checked in a moment, starts what takes long, and only
then imports the rest (`measuring`).
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from parity.cluster import ray_job
from parity.cluster.starting import Early, begin_imports, begin_ray
from parity.ground import interrupt, phases
from parity.ground.command import guarded
from parity.ground.current_folder import current_folder
from parity.ground.storable import check_storable
from parity.plan.options import address_of, make_parser
from parity.plan.request import parse_request

if TYPE_CHECKING:
    from parity.store.resume import Started
    from parity.store.storage import StoragePath


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _timed(given, process=arguments is None))


def _timed(given: Sequence[str], *, process: bool) -> int:
    """Runs the command; with `--verbose`, prints its phases at the end.

    Args:
        given: The arguments of the command.
        process: Whether the command began with this process.
    """
    # First of all, before anything is made that would have to be removed again.
    _check_text(given)
    options = make_parser().parse_args(given)
    phases.begin(process=process, quiet=options.quiet)
    try:
        return run(options, given)
    finally:
        if options.verbose:
            print("\n".join(phases.table()), file=sys.stderr)


def run(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Plans, trains, stores, judges and reports; returns the exit status.

    Args:
        options: The parsed options of `options.make_parser`.
        given: The arguments that they were parsed from.

    Raises:
        Trouble: The run could not be made: an argument is wrong, a trial cannot run, or the run cannot be stored
            or read.
    """
    phases.enter("plan")
    with contextlib.ExitStack() as held:
        if options.resume is None:
            return _run(options, given, None, held)
        from parity.measuring import reopened

        started = reopened(options, given, held)
        return started if isinstance(started, int) else _run(started.options, given, started, held)


def _run(
    options: argparse.Namespace, given: Sequence[str], started: "Started | None", held: contextlib.ExitStack
) -> int:
    """Makes or continues a run; returns the exit status.

    Args:
        options: The parsed options.
        given: The arguments of the command.
        started: The run to continue, or None.
        held: Receives what is to be undone when the run has been judged.
    """
    request = parse_request(options, announce=started is None)
    early = Early()
    if not options.inline and address_of(options) == "local":
        phases.announce("starting Ray")
        early = begin_imports(options, request, held)
    with contextlib.ExitStack() as unused:
        out = started.directory if started else _make_out(options.out, held, unused)
        early = begin_ray(early, options, request, held)
        phases.enter("imports")
        # Ray is imported meanwhile, which would wait for ever for a lock that an interrupted import leaves behind.
        with interrupt.held():
            from parity import measuring

        asked = measuring.Asked(options, given, request, out, started, early)
        # What a loss prints must not end up in a document.
        aside = contextlib.nullcontext() if options.format == "text" else contextlib.redirect_stdout(sys.stderr)
        with aside:
            stored, interrupted, fleet = measuring.measure(asked, held, unused)
    return measuring.report(stored, interrupted=interrupted, form=options.format, fleet=fleet)


def _make_out(given: str | None, held: contextlib.ExitStack, unused: contextlib.ExitStack) -> "StoragePath":
    """Makes the run directory, and locks it.

    Args:
        given: Value of `--out`.
        held: Receives the lock.
        unused: Receives what removes the directory again.
    """
    from parity.store.directory import begun, discard

    out = _choose_out(given)
    held.enter_context(begun(out))
    # If the planning fails, nothing of the new directory stays.
    unused.callback(discard, out)
    return out


def _check_text(given: Sequence[str]) -> None:
    """Raises `Trouble` for what run.json cannot store: an argument or a folder that is not valid UTF-8."""
    for text in (*given, str(current_folder())):
        check_storable(text)


def _choose_out(given: str | None) -> "StoragePath":
    """The new run directory: `--out`, or a folder below runs/ named after the time in UTC."""
    from parity.store.storage import parse_path

    if ray_job.inside_job():
        ray_job.check_out(given)
    if given is None:
        # With microseconds, since two runs may be started within a second.
        return Path("runs") / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%S.%fZ")
    return parse_path(given)


if __name__ == "__main__":
    sys.exit(main())
