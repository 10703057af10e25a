"""Records the loops of pairs, and trains them in float64: each loop once, those of several ranks all together."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .loop import History, Loop, float64, train
from .pair import Pair
from .ranks import read_history, record_ranked


@dataclass(frozen=True)
class Recorded:
    """A recorded loop.

    Attributes:
        path: The run directory, or that of its ranks.
        history: What the loop left; of several ranks, the mean of their losses, and the rest of the first one.
    """

    path: Path
    history: History


class Recordings:
    """Loops that were recorded in a folder."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._folder = folder
        self._device = device
        self._recorded: dict[Loop, Recorded] = {}
        self._exact: dict[Loop, History] = {}

    def of(self, pair: Pair) -> tuple[Recorded, Recorded]:
        """Baseline and candidate, recorded."""
        baseline = self._of(pair, "baseline", pair.baseline)
        # A loop beside itself is recorded twice.
        if pair.candidate == pair.baseline:
            return baseline, self._record(pair.candidate, self._folder / f"{pair.name}-again")
        return baseline, self._of(pair, "candidate", pair.candidate)

    def in_float64(self, pair: Pair) -> tuple[History, History]:
        """Baseline and candidate, trained in float64."""
        return self._in_float64(pair, "baseline", pair.baseline), self._in_float64(pair, "candidate", pair.candidate)

    @cached_property
    def _ranked(self) -> Path:
        """The folder of what several ranks have trained."""
        folder = self._folder / "ranked"
        folder.mkdir(parents=True)
        record_ranked(folder)
        return folder

    def _of(self, pair: Pair, side: str, loop: Loop) -> Recorded:
        if loop.rank_share:
            path = self._ranked / pair.name / side
            return Recorded(path, read_history(path))
        if loop not in self._recorded:
            self._recorded[loop] = self._record(loop, self._folder / f"{pair.name}-{side}")
        return self._recorded[loop]

    def _in_float64(self, pair: Pair, side: str, loop: Loop) -> History:
        if loop.rank_share:
            return read_history(self._ranked / pair.name / f"{side}-float64")
        if loop not in self._exact:
            with float64():
                self._exact[loop] = train(loop)
        return self._exact[loop]

    def _record(self, loop: Loop, path: Path) -> Recorded:
        return Recorded(path, train(loop, path, self._device))
