"""Where a recording goes, and what its end says about it: `out`, or `out-2` where `out` holds a run already."""

from __future__ import annotations

import collections
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from parity.ground.errors import Trouble
from parity.observe.measured_steps import shares_gradients
from parity.store import storage
from parity.store.free_directory import free_directory, set_aside
from parity.store.storage import StoragePath, parse_path

# How often each directory has been asked for by this process, so that the ranks of a training mean the same recording.
_asked: collections.Counter[str] = collections.Counter()


@dataclass(frozen=True)
class RecordingPlace:
    """Where a recording goes.

    Attributes:
        asked: The directory that was asked for.
        whole: The directory of the recording, with all of its ranks.
        directory: The run directory of this process.
        replaced: Where the recording is that was at `asked` before; None without one.
        quiet: Whether nothing is said about it.
    """

    asked: StoragePath
    whole: StoragePath
    directory: StoragePath
    replaced: Path | None
    quiet: bool

    def say_where(self) -> None:
        """Says on stderr that the recording does not go where it was asked to go, or takes the place of another."""
        if self.replaced:
            self._say(f"the recording in {self.asked} is kept in {self.replaced} until the new one is complete")
        elif self.whole != self.asked:
            self._say(f"{self.asked} holds a run already; recording in {self.whole}")

    def end(self, *, steps: int, ended: str | None) -> None:
        """Removes the recording that is replaced if the new one has a step and is complete, and says where that is.

        One with a step can be compared, and the command is said too.

        Args:
            steps: The number of recorded steps.
            ended: Why the recording is not complete, or None.
        """
        found = f"{steps} step{'s' * (steps != 1)} recorded in {self.whole}"
        if self.replaced and (ended or not steps):
            found += f"; the one before is in {self.replaced}"
        elif self.replaced:
            storage.remove_folder(self.replaced)
        if ended:
            found = f"{ended.rstrip('.')}; {found}"
        if not steps:
            self._say(f"{found}.")
            return
        other = "OTHER" if self.whole == self.asked else shlex.quote(str(self.asked))
        self._say(f"{found}. Compare:\n  parity report {other} {shlex.quote(str(self.whole))}")

    def put_back(self) -> None:
        """Undoes the replacement where nothing has taken the place of the recording."""
        if self.replaced and isinstance(self.asked, Path) and not self.asked.exists():
            self.replaced.rename(self.asked)
            self._say(f"the recording that was in {self.asked} is there again")

    def _say(self, text: str) -> None:
        if self.quiet:
            return
        # A progress bar of the training may be on the line: then tqdm writes above it.
        bars = sys.modules.get("tqdm")
        if bars and getattr(bars.tqdm, "_instances", None):
            bars.tqdm.write(f"parity: {text}", file=sys.stderr)
        else:
            print(f"parity: {text}", file=sys.stderr)


def place_recording(out: str | os.PathLike[str], *, overwrite: bool, quiet: bool | None) -> RecordingPlace:
    """Finds a directory for a recording.

    Under `torch.distributed` each rank has a directory of its own, `rank-0`, `rank-1` and so on, in one that the first
    rank to get here chooses for all.

    Args:
        out: The directory that is asked for, or a URI.
        overwrite: Whether a recording that is in it is replaced, rather than the next free name taken.
        quiet: Whether to say nothing; None: only under pytest.

    Raises:
        Trouble: `out` cannot be overwritten.
        OSError: The store does not answer, or refuses.
    """
    text = os.fspath(out)
    asked = parse_path(text)
    if isinstance(asked, Path) and asked.name in ("", ".."):  # a name is needed for what goes beside it
        asked = asked.resolve()
    if quiet is None:
        quiet = bool(os.environ.get("PYTEST_CURRENT_TEST"))
    if not shares_gradients():
        replaced = set_aside(asked) if overwrite else None
        whole = asked if overwrite else free_directory(asked)
        return RecordingPlace(asked, whole, whole, replaced, quiet)
    if overwrite:
        raise Trouble(
            "parity.Recorder: overwrite=True replaces recordings of one process, not of several ranks. "
            "Choose another out, or remove the directory before the training starts."
        )
    whole = parse_path(_agreed(text, lambda: str(free_directory(asked))))
    rank = torch.distributed.get_rank()
    return RecordingPlace(asked, whole, whole / f"rank-{rank}", None, quiet or rank > 0)


def _agreed(name: str, choose: Callable[[], str]) -> str:
    """What the first rank that gets here chooses, which the others take over; nobody waits for another one."""
    store = torch.distributed.distributed_c10d._get_default_store()
    _asked[name] += 1
    # Sets the value only where there is none, and returns the one that holds.
    return str(store.compare_set(f"parity/{name}/{_asked[name]}", "", choose()).decode())
