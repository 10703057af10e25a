"""Which elements and bits an odd device gets wrong: its trial and a right one are repeated up to their difference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.judge.differences import Comparison, Difference
from parity.judge.fleet import Fleet
from parity.plan.trial import Trial
from parity.store.events import Captured, Event
from parity.store.stored_run import StoredRun

# Where more devices than these are odd, a wrong setting is the likely cause, and the bits of these devices show it. The
# number is chosen so that the repeats take no longer than a few trials.
REPEATED_DEVICES = 8


@dataclass(frozen=True)
class Replay:
    """An odd trial and its reference, both to be repeated up to their first difference."""

    odd: Trial
    reference: Trial


def plan_replays(run: StoredRun, trials: Sequence[Trial], fleet: Fleet) -> tuple[Replay, ...]:
    """Plans the repeats: the first odd trial of each odd device, each with a trial of the majority as its reference.

    Args:
        run: The run as it was stored.
        trials: The trials of the plan.
        fleet: The devices of the same run.

    Returns:
        At most `REPEATED_DEVICES` repeats, in the order of the classes and of their devices.

    Raises:
        Trouble: A trace is damaged.
    """
    planned = {trial.name: trial for trial in trials}
    records = {(each.loss_name, each.device, each.seed, each.replica): each for each in run.trials if not each.noise}
    replays = []
    for each in fleet.classes:
        for device in each.odd:
            odd = device.trials[0]
            # The same loss, seed and replica on each device of the class: these trials owe it equal bits.
            alike = [records[odd.loss_name, name, odd.seed, odd.replica] for name in each.devices]
            alike = [record for record in alike if fleet.alike(record, odd)]
            others = (record for record in alike if record.status == "complete" and not fleet.odd(record))
            right = next(others, None)
            if right is None:
                continue  # no trial of the majority is complete, so there is nothing to compare it with
            # The tensor of the first difference: whatever differs after it is a consequence.
            first = _first_difference(fleet, right.trial, odd.trial)
            capture = (first.step, first.quantity, first.tensor)
            sides = (replace(planned[name], capture=capture) for name in (odd.trial, right.trial))
            replays.append(Replay(*sides))
    return tuple(replays[:REPEATED_DEVICES])


def repeat(replays: Sequence[Replay], events: Iterable[Sequence[Event]]) -> list[dict[str, Any]]:
    """The results of the repeats, as rows of `tables.REPLAYS`; a repeat that failed has no row.

    Args:
        replays: The trials that were repeated.
        events: Events of the trials of `to_train`.
    """
    # The events of all repeats are read before the rows are made: a reference may serve several odd trials.
    captured = {
        (event.trial, event.capture): event.values for some in events for event in some if isinstance(event, Captured)
    }
    rows = []
    for replay in replays:
        capture = replay.odd.capture
        # `plan_replays` gives a capture to each trial.
        assert capture is not None
        row = _compare(*(captured.get((trial.name, capture)) for trial in (replay.reference, replay.odd)))
        if row is not None:
            step, quantity, tensor = capture
            place = {"step": step, "quantity": quantity, "tensor": tensor}
            rows.append({"trial": replay.odd.name, "reference": replay.reference.name, **place, **row})
    return rows


def to_train(replays: Sequence[Replay]) -> tuple[Trial, ...]:
    """The trials of the repeats, each once."""
    # A repeat only has to reach its capture; it leaves no states for other devices and checks no contract again.
    plain = {"shares": False, "shared_from": None, "contract": False}
    each = [
        # A type checker cannot match the values of a dict with the fields.
        replace(trial, **plain)  # type: ignore[arg-type]
        for replay in replays
        for trial in (replay.odd, replay.reference)
    ]
    # Equal trials are trained once: a reference may serve several odd devices of its class.
    return tuple(dict.fromkeys(each))


def explain(row: Mapping[str, Any]) -> str:
    """A row of `tables.REPLAYS` in words."""
    where = f"{row['quantity']} {row['tensor']}" if row["tensor"] else row["quantity"]
    if not row["differing"]:
        return (
            f"repeated, step {row['step']} gave the same bits as {row['reference']}: the fault does not recur each time"
        )
    bits = ", ".join(map(str, row["bits"]))
    return (
        f"repeated, {row['differing']} of {row['elements']} elements of {where} differ at step {row['step']}, in bit"
        f"{'s' if len(row['bits']) > 1 else ''} {bits}; element {row['element']} is {row['candidate']!r}, "
        f"not {row['baseline']!r}"
    )


def _first_difference(fleet: Fleet, baseline: str, candidate: str) -> Difference:
    first = Comparison(fleet.traces[baseline], fleet.traces[candidate]).first()
    assert first is not None, "an odd trial differs from one of the majority"
    return first


def _compare(baseline: np.ndarray | None, candidate: np.ndarray | None) -> dict[str, Any] | None:
    """The elements and bits that differ, as columns of `tables.REPLAYS`; None where there is nothing to compare."""
    if baseline is None or candidate is None or (baseline.shape, baseline.dtype) != (candidate.shape, candidate.dtype):
        return None
    # XOR exists for integers only, so the bits are read as integers of the same width.
    kind = np.dtype(f"u{baseline.dtype.itemsize}")
    changed = np.bitwise_xor(*(np.ascontiguousarray(side).reshape(-1).view(kind) for side in (baseline, candidate)))
    elements = np.flatnonzero(changed)
    # The bits that are wrong in any element: a stuck bit shows as a single one.
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
