"""What parity says of the corpus of loops, beside four checks that people use: `verdicts.py --corpus loops`.

Each pair is recorded (a loop that several pairs of a share have in common once) and judged, a share of the pairs in a
process with one thread. What is left out is counted: pairs that need a keyword that `parity.Recorder` does not have;
and on an accelerator those of several ranks, and those whose code makes its tensors on the CPU.
"""

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
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

# A pair holds functions that cannot be sent to a process, its name can.
PAIR_OF = {pair.name: pair for pair in PAIRS}
# Pairs that one process takes at a time: those of one kind, which stand together, share their baselines.
SHARE = 16
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
            if self.answer.undecided:
                return "undecided"
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


def run(names: Sequence[str], device: str) -> list[tuple[str, Answer, tuple[bool, ...]] | tuple[str, str]]:
    """Records and judges the pairs of these names: for each the answers of a `Result`, or why it was not recorded."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results: list[tuple[str, Answer, tuple[bool, ...]] | tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        recordings = Recordings(Path(folder), device)
        for name in names:
            try:
                baseline, candidate = recordings.of(PAIR_OF[name])
            except (RuntimeError, ValueError, AssertionError) as error:
                # A mask or a scaler that the code of a pair makes is one for the CPU, whatever the device.
                if device == "cpu":
                    raise
                results.append((name, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"))
                continue
            answer = ask(baseline.path, candidate.path)
            results.append((name, answer, flagged_by_others(baseline.history, candidate.history)))
    return results


def run_all(pairs: Sequence[Pair], device: str) -> tuple[list[Result], dict[str, str]]:
    """The results of the pairs, and why those are missing that could not be recorded on this device."""
    # Those of several ranks are trained together, so they are one share.
    ranked, names = ([pair.name for pair in pairs if pair.ranked is kind] for kind in (True, False))
    shares = [
        share for share in (ranked, *(names[start : start + SHARE] for start in range(0, len(names), SHARE))) if share
    ]
    with ProcessPoolExecutor(max_tasks_per_child=1) as pool:  # a crash or a leak of one share is that share's
        found = [each for share in pool.map(run, shares, [device] * len(shares)) for each in share]
    results = [Result(PAIR_OF[each[0]], *each[1:]) for each in found if len(each) == 3]
    return results, {each[0]: each[1] for each in found if len(each) == 2}


def table(results: Sequence[Result]) -> str:
    """The table of README."""
    wrong, right = ([result for result in results if result.pair.wrong is kind] for kind in (True, False))
    # What is undecided has no place and no cause.
    caught = [
        result for result in wrong if result.answer.verdict in result.pair.verdicts and not result.answer.undecided
    ]
    rows = [
        (
            "parity",
            _of(caught, wrong),
            _of([result for result in right if result.answer.flagged], right),
            f"{sum(placed(result.pair, result.answer) for result in caught)} of {len(wrong)}",
            f"{sum(named(result.pair, result.answer) for result in caught)} of {len(wrong)}",
        )
    ]
    for index, name in enumerate(OTHERS):
        counts = [f"{sum(result.flagged[index] for result in side)} of {len(side)}" for side in (wrong, right)]
        rows.append((name, *counts, "", ""))
    head = (
        "| check | wrong ones caught | right ones flagged | at the right step and quantity | causes named rightly |",
        "|---|---|---|---|---|",
    )
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def _of(found: Sequence[Result], of: Sequence[Result]) -> str:
    """How many were found, and how many of them all are undecided."""
    undecided = sum(result.answer.undecided for result in of)
    return f"{len(found)} of {len(of)}{f', {undecided} undecided' if undecided else ''}"


def main(kinds: Sequence[str], device: str) -> None:
    """Prints what parity missed, and the table.

    Args:
        kinds: Kinds of pairs to try ("late", "resume", ...); empty for all.
        device: The torch device to train on.
    """
    began = time.perf_counter()
    wanted = [pair for pair in PAIRS if not kinds or pair.kind in kinds]
    pairs = [pair for pair in wanted if not pair.missing and (device == "cpu" or not pair.ranked)]
    results, unrecorded = run_all(pairs, device)
    for result in results:
        if result.missed:
            print(f"{result.missed}: {result.pair.kind} {result.pair.name}: {result.answer}")
    for name, reason in unrecorded.items():
        print(f"not recorded on {device}: {PAIR_OF[name].kind} {name}: {reason}")
    print(table(results))
    print(f"{len(results)} pairs in {time.perf_counter() - began:.0f} s")
    if lacking := sorted({pair.missing for pair in wanted if pair.missing}):
        print(f"Pairs were left out: parity.Recorder has no keyword {', '.join(lacking)}.")
    if len(results) < len(wanted):
        print(f"{len(wanted) - len(results)} of {len(wanted)} pairs left out.")
