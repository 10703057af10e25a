"""Records the loops of pairs, each loop once, and keeps their histories."""

from dataclasses import dataclass
from pathlib import Path

from .loop import History, Loop, train
from .pair import Pair
from .ranks import read_history, record_ranked


@dataclass(frozen=True)
class Recorded:
    """A recorded loop.

    Attributes:
        path: The run directory, or that of its ranks.
        history: What the loop left; of several ranks, the first one's.
    """

    path: Path
    history: History


class Recordings:
    """Recorded loops, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Loop, Recorded] = {}
        self._ranked: Path | None = None

    def of(self, pair: Pair) -> tuple[Recorded, Recorded]:
        """Baseline and candidate, recorded unless they have been before."""
        baseline = self._of(pair, "baseline", pair.baseline)
        # A loop beside itself is recorded twice.
        if pair.candidate == pair.baseline:
            return baseline, self._record(pair.candidate, self._folder / f"{pair.name}-again")
        return baseline, self._of(pair, "candidate", pair.candidate)

    def _of(self, pair: Pair, side: str, loop: Loop) -> Recorded:
        if loop.rank_share:
            if self._ranked is None:
                self._ranked = self._folder / "ranked"
                self._ranked.mkdir(parents=True)
                record_ranked(self._ranked)
            path = self._ranked / pair.name / side
            return Recorded(path, read_history(path))
        if loop not in self._known:
            self._known[loop] = self._record(loop, self._folder / f"{pair.name}-{side}")
        return self._known[loop]

    def _record(self, loop: Loop, path: Path) -> Recorded:
        return Recorded(path, train(loop, path))
