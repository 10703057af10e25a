"""Several stored runs as one, for `python -m parity.report A B`: A is the baseline of all others.

Each trial of a later run is paired with the trial of the first that has its loss, device, seed, replica and rank. Where
a run has none, it may be another loss, device or seed that takes the place, if there is just one that can be meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from parity.ground.errors import Trouble
from parity.judge.between import OWED_HARDWARE, differ, make_pair
from parity.judge.pairs import Pair
from parity.judge.sides import RenamedTraces, Side, StepErrors, label, read_ranks, rows_of
from parity.store.storage import StoragePath
from parity.store.stored_run import StoredRun
from parity.store.tables import EVIDENCE, SHARED_STEPS
from parity.store.trials import TrialRecord


@dataclass(frozen=True)
class Joined:
    """Several runs as one.

    Attributes:
        run: The trials that are in pairs, each named after its run; traces and evidence under these names.
        pairs: The first run's trials are the baselines.
    """

    run: StoredRun
    pairs: tuple[Pair, ...]


def join(directories: Sequence[StoragePath], *, across: bool) -> Joined:
    """Reads several runs and pairs their trials.

    Args:
        directories: The baseline's first.
        across: Whether to compare different hardware.

    Raises:
        Trouble: One is no run, or damaged; two have no trials that could be held against each other; the hardware is
            not the same, and `across` was not asked for.
    """
    labels = label(directories)
    runs = [
        {rank: Side.of(run, f"{name}/{rank}" if rank else name) for rank, run in read_ranks(directory).items()}
        for name, directory in zip(labels, directories, strict=True)
    ]
    pairs: list[Pair] = []
    notes: list[str] = []
    steps: list[pa.Table] = []
    for name, later in zip(labels[1:], runs[1:], strict=True):
        compared = [
            make_pair(earlier, here, *found)
            for rank, here in later.items()
            if (earlier := runs[0].get(rank))
            for found in _match(earlier.run.trials, here.run.trials)
        ]
        if not compared:
            raise Trouble(_nothing(labels[0], runs[0], name, later))
        if not across:
            _check_hardware(compared)
        errors = {trial: found for side in (*runs[0].values(), *later.values()) for trial, found in side.errors.items()}
        steps += [_common_steps(errors, pair) for pair in compared if pair.between and not pair.between.apart]
        notes += dict.fromkeys(_told(pair) for pair in compared)
        notes += _left_out(labels[0], runs[0], name, later, compared)
        pairs += compared
    return Joined(_joined(directories, labels, runs, pairs, steps, notes), tuple(pairs))


def _joined(
    directories: Sequence[StoragePath],
    labels: Sequence[str],
    runs: Sequence[Mapping[str, Side]],
    pairs: Sequence[Pair],
    steps: Sequence[pa.Table],
    notes: Sequence[str],
) -> StoredRun:
    each = [side.run for ranks in runs for side in ranks.values()]
    wanted = {record.trial for pair in pairs for record in (pair.baseline, pair.candidate)}
    if not pairs:
        wanted = {record.trial for run in each for record in run.trials}
    evidence = {kind: pa.concat_tables([run.evidence[kind] for run in each]).unify_dictionaries() for kind in EVIDENCE}
    evidence["shared_steps"] = pa.concat_tables([SHARED_STEPS.empty_table(), *steps])
    # Its own run holds a loss to its contract; here it says something only where the loss is what differs.
    held = {pair.candidate.trial for pair in pairs if pair.axis == "loss"}
    evidence = {kind: rows_of(table, held if kind == "contract" else wanted) for kind, table in evidence.items()}
    info: dict[str, Any] = {
        "task": " and ".join(dict.fromkeys(str(run.info.get("task")) for run in each)),
        "command": f"python -m parity.report {' '.join(map(str, directories))}",
        "created": max((str(run.info.get("created") or "") for run in each), default=None),
        "folder": None,
        "versions": {},
        "quick": any(run.info.get("quick") for run in each),
        "runs": list(labels),
        "notes": list(notes),
    }
    return StoredRun(
        directories[-1],
        info,
        tuple(record for run in each for record in run.trials if record.trial in wanted),
        RenamedTraces.together([run.traces for run in each]),
        evidence,
        tuple(f"{run.directory}/{name}" for run in each for name in run.altered),
    )


def _match(earlier: Sequence[TrialRecord], later: Sequence[TrialRecord]) -> list[tuple[TrialRecord, TrialRecord]]:
    """Baselines and candidates that belong together, in the order of the candidates."""
    free = {_key(record): record for record in earlier if not record.noise}
    found: dict[str, tuple[TrialRecord, TrialRecord]] = {}
    waiting = []
    for record in later:
        if record.noise:
            continue
        if baseline := free.pop(_key(record), None):
            found[record.trial] = (baseline, record)
        else:
            waiting.append(record)
    # What is left may have another device, loss or seed: where one of each is left, they are meant.
    for name in ("device", "loss_name", "seed"):
        ones, others = ({getattr(record, name) for record in side} for side in (free.values(), waiting))
        if len(ones) == len(others) == 1:
            (one,) = ones
            for record in [*waiting]:
                if baseline := free.pop(_key(replace(record, **{name: one})), None):
                    found[record.trial] = (baseline, record)
                    waiting.remove(record)
    if len(free) == len(waiting) == 1 and not found:
        found[waiting[0].trial] = (free.popitem()[1], waiting[0])
    return [found[record.trial] for record in later if record.trial in found]


def _key(record: TrialRecord) -> tuple[str, str, int, int]:
    return record.loss_name, record.device, record.seed, record.replica


def _common_steps(errors: Mapping[str, StepErrors], pair: Pair) -> pa.Table:
    """The steps that both held against float64, in the columns of shared_steps.parquet."""
    sides = [errors[record.trial] for record in (pair.baseline, pair.candidate)]
    rows = [
        {
            "trial": pair.candidate.trial,
            "step": step,
            "quantity": quantity,
            "tensor": tensor,
            "baseline_error_u": sides[0][step, quantity, tensor]["error_u"],
            "candidate_error_u": row["error_u"],
            "spread_u": max(side[step, quantity, tensor]["spread_u"] or 0.0 for side in sides) or None,
        }
        for (step, quantity, tensor), row in sides[1].items()
        if (step, quantity, tensor) in sides[0]
    ]
    return pa.Table.from_pylist(rows, schema=SHARED_STEPS)


def _check_hardware(pairs: Sequence[Pair]) -> None:
    """Raises `Trouble` where the hardware of a pair is not the same."""
    for pair in pairs:
        sides = (pair.baseline, pair.candidate)
        names = [name for name in OWED_HARDWARE if differ(*(getattr(record, name) for record in sides))]
        if names or len({record.gpu_name is None for record in sides}) > 1:
            shown = names[0] if names else "gpu_name"
            told = "; ".join(f"{record.run}: {getattr(record, shown) or record.cpu_model}" for record in sides)
            raise Trouble(
                f"{pair.baseline.trial} and {pair.candidate.trial} ran on different hardware ({shown}: {told}), which "
                "does not owe the same bits. Add --across to compare them all the same."
            )


def _told(pair: Pair) -> str:
    """What two runs differ in, in a sentence."""
    between = pair.between
    assert between is not None, "it is of two runs"
    who = f"{pair.baseline.run} and {pair.candidate.run}"
    if not between.differ and not between.owed:
        return f"{who} have the same settings, hardware and software; of a recorded loop the code is not known."
    if not between.differ:
        return f"{who} differ in nothing that is known: code, settings, hardware and software."
    return f"{who} differ in {'; '.join(f'{name}: {left}, {right}' for name, left, right in between.differ)}."


def _nothing(first: str, runs: Mapping[str, Side], name: str, later: Mapping[str, Side]) -> str:
    has, has_too = (
        ", ".join(record.trial for side in ranks.values() for record in side.run.trials[:4]) for ranks in (runs, later)
    )
    return (
        f"Nothing of {name} can be held against {first}: {first} has {has}; {name} has {has_too}. "
        "Compare runs of the same losses, devices and seeds, or of which one thing differs."
    )


def _left_out(
    first: str,
    runs: Mapping[str, Side],
    name: str,
    later: Mapping[str, Side],
    pairs: Sequence[Pair],
) -> list[str]:
    taken = {record.trial for pair in pairs for record in (pair.baseline, pair.candidate)}
    told = []
    for ranks, there in ((runs, name), (later, first)):
        left = [record.trial for side in ranks.values() for record in side.run.trials if record.trial not in taken]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            told.append(f"Not compared, for {there} has nothing like it: {', '.join(left[:3])}{more}.")
    return told
