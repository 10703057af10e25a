"""Which elements and bits an odd device gets wrong: its trial and a right one repeated up to where they part."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.judge.differences import Comparison, Difference, Trace
from parity.judge.fleet import Fleet
from parity.plan.trial import Trial
from parity.store.events import Captured, Event
from parity.store.stored_run import StoredRun

# A fleet with more odd devices has a setting that is wrong; the bits of these show which.
REPEATED_UNITS = 8


@dataclass(frozen=True)
class Replay:
    """An odd trial and its reference, both to be repeated up to where they part."""

    odd: Trial
    reference: Trial


def plan_replays(run: StoredRun, trials: Sequence[Trial]) -> tuple[Replay, ...]:
    """The first odd trial of each odd device, with that of the reference of its class.

    Args:
        run: As it was stored.
        trials: The plan's.
    """
    fleet = Fleet(run.trials, run.traces)
    planned = {trial.name: trial for trial in trials}
    records = {(each.loss_name, each.device, each.seed, each.replica): each for each in run.trials if not each.noise}
    replays = []
    for each in fleet.classes:
        for unit in each.odd:
            odd = unit.trials[0]
            alike = [records[odd.loss_name, device, odd.seed, odd.replica] for device in each.devices]
            others = (record for record in alike if record.status == "complete" and not fleet.odd(record))
            right = next(others, None)
            if right is None:
                continue  # the failed have nothing to be held against
            first = _parting(run, right.trial, odd.trial)
            capture = (first.step, first.quantity, first.tensor)
            sides = (replace(planned[name], capture=capture) for name in (odd.trial, right.trial))
            replays.append(Replay(*sides))
    return tuple(replays[:REPEATED_UNITS])


def repeat(replays: Sequence[Replay], events: Iterable[Sequence[Event]]) -> list[dict[str, Any]]:
    """What came of the repeats, as rows of `evidence.REPLAYS`; none of a repeat that failed.

    Args:
        replays: What was asked for.
        events: Of the trials of `to_train`.
    """
    captured = {
        (event.trial, event.capture): event.values for some in events for event in some if isinstance(event, Captured)
    }
    rows = []
    for replay in replays:
        capture = replay.odd.capture
        assert capture is not None
        row = _compare(*(captured.get((trial.name, capture)) for trial in (replay.reference, replay.odd)))
        if row is not None:
            step, quantity, tensor = capture
            place = {"step": step, "quantity": quantity, "tensor": tensor}
            rows.append({"trial": replay.odd.name, "reference": replay.reference.name, **place, **row})
    return rows


def to_train(replays: Sequence[Replay]) -> tuple[Trial, ...]:
    """The trials of the repeats, each once."""
    plain = {"shares": False, "shared_from": None, "contract": False}
    each = [replace(trial, **plain) for replay in replays for trial in (replay.odd, replay.reference)]  # type: ignore[arg-type]
    return tuple(dict.fromkeys(each))


def explain(row: Mapping[str, Any]) -> str:
    """A row of `evidence.REPLAYS` in words."""
    where = f"{row['quantity']} {row['tensor']}" if row["tensor"] else row["quantity"]
    if not row["differing"]:
        return f"repeated, step {row['step']} came out as in {row['reference']}: it does not recur each time"
    bits = ", ".join(map(str, row["bits"]))
    return (
        f"repeated, {row['differing']} of {row['elements']} elements of {where} differ at step {row['step']}, in bit"
        f"{'s' if len(row['bits']) > 1 else ''} {bits}; element {row['element']} is {row['candidate']!r}, "
        f"not {row['baseline']!r}"
    )


def _parting(run: StoredRun, baseline: str, candidate: str) -> Difference:
    records = {record.trial: record for record in run.trials}
    sides = (Trace(records[name], run.traces) for name in (baseline, candidate))
    first = Comparison(*sides).first()
    assert first is not None, "an odd trial differs from one of the majority"
    return first


def _compare(baseline: np.ndarray | None, candidate: np.ndarray | None) -> dict[str, Any] | None:
    """Element by element and bit by bit; None where there is nothing to compare."""
    if baseline is None or candidate is None or (baseline.shape, baseline.dtype) != (candidate.shape, candidate.dtype):
        return None
    kind = np.dtype(f"u{baseline.dtype.itemsize}")
    changed = np.bitwise_xor(*(np.ascontiguousarray(side).reshape(-1).view(kind) for side in (baseline, candidate)))
    elements = np.flatnonzero(changed)
    union = int(np.bitwise_or.reduce(changed)) if changed.size else 0
    first = int(elements[0]) if elements.size else None
    return {
        "elements": baseline.size,
        "differing": len(elements),
        "bits": [bit for bit in range(8 * kind.itemsize) if union >> bit & 1],
        "element": first,
        "baseline": None if first is None else float(baseline.reshape(-1)[first]),
        "candidate": None if first is None else float(candidate.reshape(-1)[first]),
    }
