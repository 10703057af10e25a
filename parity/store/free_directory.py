"""Directories for recordings: one that no run is in, and a run that is set aside for its successor."""

from __future__ import annotations

import itertools
from pathlib import Path

from parity.ground.current_folder import current_folder
from parity.ground.errors import Trouble
from parity.store.directory import hold
from parity.store.found_runs import holds_run
from parity.store.storage import FIRST_PATIENCE_S, StoragePath
from parity.store.stored_run import read_info

# In the name of a recording that another one is to replace.
REPLACED = "replaced"


def free_directory(out: StoragePath) -> StoragePath:
    """The directory itself, or the first of `out-2`, `out-3` and so on that holds no run.

    Raises:
        OSError: The store does not answer, or refuses.
    """
    numbered = (out.with_name(f"{out.name}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([out], numbered) if not holds_run(each, patience_s=FIRST_PATIENCE_S))


def set_aside(out: StoragePath) -> Path | None:
    """Renames the recording in a directory, so that another one can take its place.

    Returns:
        Where it is now; None where the directory holds no run.

    Raises:
        Trouble: The directory is on an object store, or holds something other than a recording; or the recording is
            in use by another process, damaged, or cannot be renamed.
        OSError: The store does not answer, or refuses.
    """
    if not holds_run(out, patience_s=FIRST_PATIENCE_S):
        return None
    if not isinstance(out, Path):
        raise Trouble(f"{out} already holds a run, and only local directories can be overwritten. Choose another out.")
    if not (out / "run.json").exists():
        raise Trouble(
            f"{out} holds the recordings of several ranks, which are not overwritten. Choose another out, or remove it."
        )
    if out.is_symlink():
        raise Trouble(f"{out} is a symbolic link, which is not overwritten. Give what it links to: {out.resolve()}.")
    if current_folder().is_relative_to(out.resolve()):
        raise Trouble(f"{out} holds the working directory, and is not overwritten. Choose another out.")
    if "recorded" not in read_info(out):
        raise Trouble(f"{out} holds a run that is not a recording, and is not overwritten. Choose another out.")
    # A recording that another process is still writing must not be taken away from it.
    with hold(out):
        pass
    aside = free_directory(out.with_name(f"{out.name}-{REPLACED}"))
    assert isinstance(aside, Path), "beside a local directory"
    try:
        out.rename(aside)
    except OSError as error:
        raise Trouble(f"{out} cannot be renamed to {aside} ({error.strerror or error}). Choose another out.") from error
    return aside
