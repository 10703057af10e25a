"""The folder in which a check that does not pass keeps its run and its page, if it was given no directory.

    <temporary folder>/parity-checks-1000/2026-11-27T11-30-05-doubled-x3k2m1qz/run/report.html

A folder of this kind is removed by the next check without a directory that runs more than seven days later; a system
that empties its temporary folder may remove it earlier.
"""

import getpass
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

# Days for which a run is kept; chosen: longer than a weekend, and short enough for a disk.
DAYS = 7
# Most characters of the loss in the name of a folder, since file systems limit that.
_NAME = 40


def keep_folder(name: str) -> Path:
    """Makes a new folder that only this user can read, and removes those that are older than `DAYS`.

    Args:
        name: What the check is about; letters and digits of it become part of the folder's name.

    Raises:
        OSError: The temporary folder cannot be written to.
    """
    place = _place()
    if place:
        _remove_old(place)
    plain = re.sub(r"\W+", "-", name, flags=re.ASCII).strip("-")[:_NAME]
    when = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime())
    # Another process may make one for the same name in the same second.
    prefix = f"{when}-{plain or 'check'}-"
    # Where it is not in a folder of this user alone, its name says what it is.
    return Path(tempfile.mkdtemp(prefix=prefix if place else f"parity-check-{prefix}", dir=place))


def _place() -> Path | None:
    """The folder of this user for all checks; None where the name belongs to somebody else."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    place = Path(tempfile.gettempdir()) / f"parity-checks-{user}"
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        # In a temporary folder that all users share, somebody else may have made it, or a link to somewhere else.
        # Source: pytest's tmp_path, whose folder of the user is checked in the same way.
        found = place.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != user):
            return None
    return place


def _remove_old(place: Path) -> None:
    for folder in place.iterdir():
        try:
            old = time.time() - folder.lstat().st_mtime > DAYS * 86_400
        except FileNotFoundError:  # another process has removed it
            continue
        if old:
            shutil.rmtree(folder, ignore_errors=True)
