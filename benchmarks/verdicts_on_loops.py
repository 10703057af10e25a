"""What parity says of the corpus of loops, beside four checks that people use: `verdicts.py --corpus loops`.

Each pair is recorded (a loop that several pairs share once) and judged, in one process on one thread; pairs that need a
keyword that `parity.Recorder` does not have are left out, and counted.
"""

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Threads that wait for each other sleep instead of spinning. OpenMP reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

CORPUS = Path(__file__).parent.parent / "tests" / "corpus"
sys.path.insert(0, str(CORPUS))

from loops import PAIRS  # noqa: E402 - the corpus is not installed
from loops.loop import History  # noqa: E402
from loops.pair import Answer, Pair, ask, named, placed  # noqa: E402
from loops.recording import Recordings  # noqa: E402

OTHERS = (
    "last loss within 1 %",
    "losses allclose at rtol 1e-5",
    "losses equal to 4 decimals",
    "parameters allclose at the end",
)


@dataclass(frozen=True)
class Result:
    """What was found about a pair.

    Attributes:
        pair: The pair.
        answer: What parity says of it.
        flagged: Whether each of `OTHERS` says that something is wrong.
    """

    pair: Pair
    answer: Answer
    flagged: tuple[bool, ...]

    @property
    def missed(self) -> str | None:
        """What is not right in the answer, or None."""
        if self.pair.wrong:
            if self.answer.verdict not in self.pair.verdicts:
                return "not caught"
            if not placed(self.pair, self.answer):
                return f"elsewhere than {sorted(self.pair.quantities)} of step {self.pair.steps}"
            return None if named(self.pair, self.answer) else f"cause without {' or '.join(self.pair.words)}"
        return None if self.answer.verdict in self.pair.verdicts else "flagged" if self.answer.flagged else "not passed"


def flagged_by_others(baseline: History, candidate: History) -> tuple[bool, ...]:
    """Whether each of `OTHERS` flags the candidate; steps that one side lacks are not compared, as people do it."""
    first = max(baseline.first_step, candidate.first_step)
    theirs, mine = (np.array(side.losses[first - side.first_step :]) for side in (baseline, candidate))
    # The last losses of all, and the others as far as both go.
    last_apart = abs(mine[-1] - theirs[-1])
    steps = min(len(mine), len(theirs))
    last, other = candidate.parameters[-1], baseline.parameters[-1]
    # float32 tensors, as they are compared at the end of a training.
    parameters = [torch.from_numpy(each).float() for each in (last, other)]
    return (
        not last_apart <= 0.01 * abs(theirs[-1]),
        not np.allclose(mine[:steps], theirs[:steps], rtol=1e-5, atol=0),
        [f"{loss:.4f}" for loss in mine[:steps]] != [f"{loss:.4f}" for loss in theirs[:steps]],
        last.shape != other.shape or not torch.allclose(*parameters),
    )


def run(pairs: Sequence[Pair]) -> list[Result]:
    """Records and judges the pairs."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        recordings = Recordings(Path(folder))
        for pair in pairs:
            baseline, candidate = recordings.of(pair)
            answer = ask(baseline.path, candidate.path)
            results.append(Result(pair, answer, flagged_by_others(baseline.history, candidate.history)))
    return results


def table(results: Sequence[Result]) -> str:
    """The table of README."""
    wrong, right = ([result for result in results if result.pair.wrong is kind] for kind in (True, False))
    caught = [result for result in wrong if result.answer.verdict in result.pair.verdicts]
    rows = [
        (
            "parity",
            f"{len(caught)} of {len(wrong)}",
            str(sum(placed(result.pair, result.answer) for result in caught)),
            str(sum(named(result.pair, result.answer) for result in caught)),
            f"{sum(result.answer.flagged for result in right)} of {len(right)}",
            str(sum(result.answer.undecided for result in results)),
        )
    ]
    for index, name in enumerate(OTHERS):
        counts = [sum(result.flagged[index] for result in side) for side in (wrong, right)]
        rows.append((name, f"{counts[0]} of {len(wrong)}", "", "", f"{counts[1]} of {len(right)}", ""))
    head = (
        "| check | wrong ones caught | where they part | causes named rightly | right ones flagged | undecided |",
        "|---|---|---|---|---|---|",
    )
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def main(kinds: Sequence[str]) -> None:
    """Prints what parity missed, and the table.

    Args:
        kinds: Kinds of pairs to try ("late", "resume", ...); empty for all.
    """
    began = time.perf_counter()
    wanted = [pair for pair in PAIRS if not kinds or pair.kind in kinds]
    pairs = [pair for pair in wanted if not pair.missing]
    results = run(pairs)
    for result in results:
        if result.missed:
            print(f"{result.missed}: {result.pair.kind} {result.pair.name}: {result.answer}")
    print(table(results))
    print(f"{len(pairs)} pairs in {time.perf_counter() - began:.0f} s")
    if len(pairs) < len(wanted):
        lacking = ", ".join(sorted({pair.missing for pair in wanted if pair.missing}))
        print(f"{len(wanted) - len(pairs)} pairs left out: parity.Recorder has no keyword {lacking}.")
