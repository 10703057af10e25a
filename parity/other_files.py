"""What parity.report compares beside runs: logs of scalars and checkpoints, which it knows by their content."""

from collections.abc import Sequence
from pathlib import Path

from parity.checkpoints.reading import is_checkpoint
from parity.ground.errors import Trouble
from parity.plan.tolerance import EXIT_STATUSES, Tolerance
from parity.render.documents.document import Document
from parity.render.documents.formats import print_documents
from parity.scalars.reading import is_log, is_log_folder
from parity.store.found_runs import holds_run

# By what they are: a run, or one of these.
_LOG, _CHECKPOINT, _RUN = "a log", "a checkpoint", "a run of parity"


def kind_of(paths: Sequence[str]) -> str | None:
    """What is to be compared: logs, checkpoints, or None where runs are.

    Args:
        paths: What the user gave. What does not exist, and what nothing is known of, counts as a run.

    Raises:
        Trouble: Both are given.
    """
    kinds = [_kind(path) for path in paths]
    if {*kinds} == {_RUN}:
        return None
    if len({*kinds}) > 1:
        found = ", ".join(f"{path} {_found(path, kind)}" for path, kind in zip(paths, kinds, strict=True))
        raise Trouble(f"{found}. Give two runs, two logs or two checkpoints.")
    if len(paths) == 1 and kinds[0] == _LOG and not is_log(paths[0]):
        return None
    if len(paths) == 1:
        raise Trouble(f"{paths[0]} is {kinds[0]}, and one alone has nothing to be compared with. Give two.")
    return kinds[0]


def report(
    paths: Sequence[str],
    kind: str,
    *,
    scalars: Sequence[str],
    rtol: float | None,
    atol: float | None,
    form: str = "text",
) -> int:
    """Compares logs or checkpoints with the first, prints the report, and returns the exit status.

    Args:
        paths: Files and folders, the baseline first.
        kind: What they are, from `kind_of`.
        scalars: The chosen scalars of logs; all in common if empty.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        form: Format of the report, one of `options.FORMATS`.

    Raises:
        Trouble: One cannot be read, or they have nothing in common.
    """
    tolerance = Tolerance(rtol or 0.0, atol or 0.0)
    try:
        if kind == _LOG:
            documents = _logs(paths, scalars, tolerance)
        elif scalars:
            raise Trouble("--scalar chooses a scalar of two logs, and these are checkpoints. Leave it out.")
        else:
            documents = _checkpoints(paths, tolerance)
    except OSError as error:
        raise Trouble(f"{error.filename} cannot be read ({error.strerror}).") from error
    print_documents(documents, form=form)
    # A difference counts more than what could not be answered.
    return max((each.exit_status for each in documents), key=[*EXIT_STATUSES.values()].index)


def _logs(paths: Sequence[str], scalars: Sequence[str], tolerance: Tolerance) -> list[Document]:
    from parity.render.documents.scalars import document
    from parity.scalars.choosing import compare_logs
    from parity.scalars.reading import read_log

    baseline, *candidates = map(read_log, paths)
    return [document(compare_logs(baseline, each, chosen=scalars, tolerance=tolerance)) for each in candidates]


def _checkpoints(paths: Sequence[str], tolerance: Tolerance) -> list[Document]:
    from parity.checkpoints.comparing import compare_checkpoints
    from parity.checkpoints.reading import read_checkpoint
    from parity.render.documents.checkpoints import document

    baseline, *candidates = map(read_checkpoint, paths)
    return [document(compare_checkpoints(baseline, each, tolerance=tolerance)) for each in candidates]


def _found(path: str, kind: str) -> str:
    """What is found at a path, for a message: `_kind` takes for a log or a run what nothing is known of."""
    place = Path(path)
    if kind == _CHECKPOINT or "://" in path or (kind == _RUN and place.is_dir() and holds_run(place)):
        return f"is {kind}"
    if kind == _LOG and not place.is_dir() and not is_log(path):
        return "is neither a log nor a checkpoint" if place.stat().st_size else "is empty"
    if kind == _LOG:
        return f"is {kind}"
    if not place.exists():
        return "does not exist"
    return "is a folder without a run, a log or a checkpoint" if place.is_dir() else "is not a regular file"


def _kind(path: str) -> str:
    """What a path is: a run also where nothing is known of it, so that it is looked for and missed as a run."""
    if "://" in path:
        return _RUN
    place = Path(path)
    try:
        if place.is_dir():
            if holds_run(place):
                return _RUN
            return _CHECKPOINT if is_checkpoint(place) else _LOG if is_log_folder(place) else _RUN
        if place.is_file():
            return _CHECKPOINT if is_checkpoint(place) else _LOG
    except OSError:
        pass  # a name that is too long, or a folder that may not be read: the run that it is not says so
    return _RUN
