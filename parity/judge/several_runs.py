"""Several stored runs joined into one, for `python -m parity.report A B`: A is the baseline of all others.

Each trial of a later run is paired with the trial of the first run that has the same loss, device, seed, replica and
rank. Where there is none, a trial with another device, loss or seed takes its place if there is only one choice.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from parity.ground.errors import Trouble
from parity.judge.between import PROCESSOR, known_to_differ, pair_across_runs
from parity.judge.distances import unit_of
from parity.judge.pairs import Pair
from parity.judge.rank_pairs import (
    is_distributed,
    note_on,
    pairs_of_ranks,
    pairs_with_one_process,
    with_mean_losses,
)
from parity.judge.same_function import paired
from parity.judge.sides import ComparedRun, RenamedTraces, StepErrors, label, read_ranks, select_trials
from parity.store.storage import StoragePath
from parity.store.stored_run import StoredRun
from parity.store.tables import EVIDENCE, SHARED_STEPS
from parity.store.trials import TrialRecord


@dataclass(frozen=True)
class Joined:
    """Several runs joined into one.

    Attributes:
        run: The trials that are in pairs, each named after its run; traces and evidence under these names.
        pairs: The pairs; their baselines are trials of the first run.
    """

    run: StoredRun
    pairs: tuple[Pair, ...]


def join(directories: Sequence[StoragePath], *, across: bool) -> Joined:
    """Reads several runs and pairs their trials.

    Args:
        directories: Directories of the runs, the baseline's first.
        across: Whether to compare runs of different hardware.

    Returns:
        The joined run and its pairs.

    Raises:
        Trouble: A directory is not a run, or is damaged; two runs have no trials that can be compared; or the hardware
            differs and `across` is False.
    """
    labels = label(directories)
    runs = [
        {
            rank: ComparedRun.named(run, f"{name}/{rank}" if rank else name)
            for rank, run in read_ranks(directory).items()
        }
        for name, directory in zip(labels, directories, strict=True)
    ]
    pairs: list[Pair] = []
    notes: list[str] = []
    steps: list[pa.Table] = []
    # Each run with the first and none with its neighbour: in a chain, small steps would add up unseen.
    for name, later in zip(labels[1:], runs[1:], strict=True):
        compared = _pairs_of(runs[0], later)
        if not compared:
            raise Trouble(_nothing_to_compare(labels[0], runs[0], name, later))
        if not across:
            _check_hardware(compared)
        # The names of the trials begin with those of their runs, so no two are equal.
        errors = {trial: found for side in (*runs[0].values(), *later.values()) for trial, found in side.errors.items()}
        # Pairs whose steps cannot be compared have none; `between.apart` says why.
        steps += [_common_steps(errors, pair) for pair in compared if pair.between and not pair.between.apart]
        # All pairs of two runs usually differ in the same things, which are said once.
        notes += dict.fromkeys(_what_differs(pair) for pair in compared)
        notes += _left_out(labels[0], runs[0], name, later, compared)
        notes += _only_common(compared)
        if is_distributed(later) and not is_distributed(runs[0]):
            notes.append(note_on(later, alone=False))
        pairs += compared
    # The ranks of a single training must agree with each other.
    if len(runs) == 1 and is_distributed(runs[0]):
        pairs += pairs_of_ranks(runs[0])
        notes.append(note_on(runs[0], alone=True))
    if not all(map(is_distributed, runs)) or len(runs) == 1:
        runs = [with_mean_losses(each) if is_distributed(each) else each for each in runs]
    return Joined(_joined(directories, labels, runs, pairs, steps, notes), tuple(pairs))


def _pairs_of(earlier: Mapping[str, ComparedRun], later: Mapping[str, ComparedRun]) -> list[Pair]:
    """The pairs of two runs: of equal ranks, or of one process and each rank.

    Raises:
        Trouble: A trace is damaged, or the ranks cannot be compared with one process.
    """
    if is_distributed(later) and not is_distributed(earlier):
        return list(pairs_with_one_process(earlier[""], later))
    return [
        pair_across_runs(before, here, *found)
        for rank, here in later.items()
        # Ranks have different data, so only equal ranks are compared.
        if (before := earlier.get(rank))
        for found in _match(before.run.trials, here.run.trials)
    ]


def _only_common(pairs: Sequence[Pair]) -> list[str]:
    """Sentences about trials of which one begins later: only their common steps are compared."""
    sentences = []
    for pair in pairs:
        begins = [record.first_step or 0 for record in (pair.baseline, pair.candidate)]
        if begins[0] != begins[1]:
            later = pair.baseline if begins[0] > begins[1] else pair.candidate
            sentences.append(f"{later.trial} begins at step {max(begins)}: only the steps that both have are compared.")
    return sentences


def _joined(
    directories: Sequence[StoragePath],
    labels: Sequence[str],
    runs: Sequence[Mapping[str, ComparedRun]],
    pairs: Sequence[Pair],
    steps: Sequence[pa.Table],
    notes: Sequence[str],
) -> StoredRun:
    """One run of the trials in all pairs, with their traces and evidence, and with the notes on what differs."""
    each = [side.run for ranks in runs for side in ranks.values()]
    wanted = {record.trial for pair in pairs for record in (pair.baseline, pair.candidate)}
    # The ranks of a single recording: nothing is compared, but all trials are shown.
    if not pairs:
        wanted = {record.trial for run in each for record in run.trials}
    # The tables of each run have a dictionary of names of their own; unifying makes it one for all chunks.
    evidence = {kind: pa.concat_tables([run.evidence[kind] for run in each]).unify_dictionaries() for kind in EVIDENCE}
    # The shared steps that a run has stored start from its own first device; between runs, the common steps count.
    evidence["shared_steps"] = pa.concat_tables([SHARED_STEPS.empty_table(), *steps])
    # The contract of a loss was judged in its own run; here it matters only where the losses differ.
    contracts = {pair.candidate.trial for pair in pairs if pair.axis == "loss"}
    evidence = {
        kind: select_trials(table, contracts if kind == "contract" else wanted) for kind, table in evidence.items()
    }
    info: dict[str, Any] = {
        "task": " and ".join(dict.fromkeys(str(run.info.get("task")) for run in each)),
        "command": f"python -m parity.report {shlex.join(map(str, directories))}",
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
    """Pairs of a baseline and a candidate, for each candidate that has a baseline; in the order of the candidates."""
    free = {_key(record): record for record in earlier if not record.noise}
    found: dict[str, tuple[TrialRecord, TrialRecord]] = {}
    waiting = []
    for record in later:
        if record.noise:
            continue
        # A baseline serves one candidate, so it is taken out.
        if baseline := free.pop(_key(record), None):
            found[record.trial] = (baseline, record)
        else:
            waiting.append(record)
    # The remaining trials may have another device, loss or seed: where one value is left on each side, they belong
    # together.
    for name in ("device", "loss_name", "seed"):
        # Two values on a side would allow two ways to pair them, and a guess is not a comparison.
        ones, others = ({getattr(record, name) for record in side} for side in (free.values(), waiting))
        if len(ones) == len(others) == 1:
            (one,) = ones
            # A copy, since the list shrinks in the loop.
            for record in [*waiting]:
                if baseline := free.pop(_key(replace(record, **{name: one})), None):
                    found[record.trial] = (baseline, record)
                    waiting.remove(record)
    # One trial in each run: they are meant, however many things differ.
    if len(free) == len(waiting) == 1 and not found:
        found[waiting[0].trial] = (free.popitem()[1], waiting[0])
    return [found[record.trial] for record in later if record.trial in found]


def _key(record: TrialRecord) -> tuple[str, str, int, int]:
    """What two trials of different runs have in common if they belong together."""
    return record.loss_name, record.device, record.seed, record.replica


def _common_steps(errors: Mapping[str, StepErrors], pair: Pair) -> pa.Table:
    """The steps that both trials checked against float64, in the columns of shared_steps.parquet."""
    narrowest = [_output_units(errors[record.trial], record) for record in (pair.baseline, pair.candidate)]
    rows = []
    for baseline, candidate in paired(errors[pair.baseline.trial], errors[pair.candidate.trial]):
        # In the baseline's u: a candidate that computes in a narrower dtype must not be measured in its own.
        units = [row.get("unit") for row in (baseline, candidate)]
        scale = units[1] / units[0] if units[0] and units[1] else 1.0
        # The larger spread, since the limit must allow for what either step magnifies; 0 if neither was computed. It
        # imitates the rounding of the dtype that the step computes in; a candidate's narrower one must not widen it.
        outputs = [side.get(candidate["step"]) for side in narrowest]
        narrower = min(1.0, outputs[0] / outputs[1]) if outputs[0] and outputs[1] else 1.0
        spread_u = max(baseline["spread_u"] or 0.0, narrower * scale * (candidate["spread_u"] or 0.0))
        whole_u = candidate.get("whole_error_u")
        rows.append(
            {
                "trial": pair.candidate.trial,
                **{name: candidate[name] for name in ("step", "quantity", "tensor")},
                "baseline_error_u": baseline["error_u"],
                "candidate_error_u": scale * candidate["error_u"],
                "baseline_whole_error_u": baseline.get("whole_error_u"),
                "candidate_whole_error_u": None if whole_u is None else scale * whole_u,
                "spread_u": spread_u or None,
            }
        )
    # A key that a row lacks becomes a null: nothing was repeated, and no rounding was looked for.
    return pa.Table.from_pylist(rows, schema=SHARED_STEPS)


def _output_units(errors: StepErrors, record: TrialRecord) -> dict[int, float]:
    """The largest unit roundoff in which the output is computed, by step; nothing for older runs."""
    computed = unit_of(record) if record.computed_dtype else 0.0
    found: dict[int, float] = {}
    for (step, quantity, _), row in errors.items():
        if quantity == "output" and row["unit"]:
            found[step] = max(found.get(step, computed), row["unit"])
    return found


def _check_hardware(pairs: Sequence[Pair]) -> None:
    """Raises `Trouble` where the hardware of a pair differs."""
    for pair in pairs:
        sides = (pair.baseline, pair.candidate)
        names = [name for name in PROCESSOR if known_to_differ(*(getattr(record, name) for record in sides))]
        # A CPU has no GPU's name, which `known_to_differ` takes for a fact that is not known.
        if names or len({record.gpu_name is None for record in sides}) > 1:
            shown = names[0] if names else "gpu_name"
            values = "; ".join(f"{record.run}: {getattr(record, shown) or record.cpu_model}" for record in sides)
            raise Trouble(
                f"{pair.baseline.trial} and {pair.candidate.trial} ran on different hardware ({shown}: {values}), "
                "which need not produce the same bits. Add --across to compare them anyway."
            )


def _what_differs(pair: Pair) -> str:
    """What differs between the two runs of a pair, in a sentence."""
    between = pair.between
    assert between is not None, "the pair is of two runs"
    runs = f"{pair.baseline.run} and {pair.candidate.run}"
    if not between.differ and not between.owed:
        return f"{runs} have the same settings, hardware and software; the code of a recorded loop is not known."
    if not between.differ:
        return f"{runs} have the same code, settings, hardware and software, as far as these are recorded."
    return f"{runs} differ in {'; '.join(f'{name}: {left}, {right}' for name, left, right in between.differ)}."


def _nothing_to_compare(
    first: str, runs: Mapping[str, ComparedRun], name: str, later: Mapping[str, ComparedRun]
) -> str:
    has, has_too = (
        ", ".join(record.trial for side in ranks.values() for record in side.run.trials[:4]) for ranks in (runs, later)
    )
    return (
        f"No trial of {name} can be compared with {first}: {first} has {has}; {name} has {has_too}. "
        "Compare runs with the same losses, devices and seeds, or with one difference."
    )


def _left_out(
    first: str,
    runs: Mapping[str, ComparedRun],
    name: str,
    later: Mapping[str, ComparedRun],
    pairs: Sequence[Pair],
) -> list[str]:
    """Sentences about the trials of both runs that have no counterpart in the other run."""
    taken = {record.trial for pair in pairs for record in (pair.baseline, pair.candidate)}
    sentences = []
    for ranks, there in ((runs, name), (later, first)):
        left = [record.trial for side in ranks.values() for record in side.run.trials if record.trial not in taken]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            sentences.append(f"Not compared, since {there} has no counterpart: {', '.join(left[:3])}{more}.")
    return sentences
