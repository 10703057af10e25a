"""Which trials are held against each other: pairs that differ in one thing, the axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parity.judge.fleet import Fleet
from parity.store.trials import TrialRecord

# The two sides of a pair.
Role = Literal["baseline", "candidate"]


@dataclass(frozen=True)
class Pair:
    """A baseline and a candidate, and what they differ in.

    Attributes:
        axis: In a run the one thing that they differ in: "loss", "device", "replica" or "noise". Between two runs the
            things that are known to differ, as in "device" or "torch, numpy"; "run" where there is none.
        baseline: One side.
        candidate: The other.
        between: How two runs stand to each other; None for a pair of one run.
    """

    axis: str
    baseline: TrialRecord
    candidate: TrialRecord
    between: Between | None = None


@dataclass(frozen=True)
class Between:
    """How the runs of a pair stand to each other.

    Attributes:
        differ: What is known to differ: its name, and the two values.
        owed: Whether nothing that is known differs, so that they owe each other equal bits.
        same_machine: Whether hardware and software are, so that code or settings make the difference.
        apart: Why the two runs' own steps in float64 say nothing of the pair, or None where they do.
    """

    differ: tuple[tuple[str, str, str], ...]
    owed: bool
    same_machine: bool
    apart: str | None


def make_pairs(trials: Sequence[TrialRecord], fleet: Fleet, *, across: bool = True) -> tuple[Pair, ...]:
    """Pairs each loss with the first on the same device, each device with the reference of its class, the reference of
    each class with that of the first, each replica with the original, and the baseline with itself under random
    rounding.

    Args:
        trials: In the order of the plan, so that the first names the baseline loss and device.
        fleet: Of the same trials.
        across: Whether classes are held against each other.

    Returns:
        The pairs of losses, then of devices, of replicas and of noise; within an axis in the order of the candidates.
    """
    found = {(trial.loss_name, trial.device, trial.seed, trial.replica): trial for trial in trials if not trial.noise}
    first_loss = trials[0].loss_name if trials else ""
    pairs = {"loss": [], "device": [], "replica": []}  # type: dict[str, list[Pair]]
    for (loss, device, seed, replica), candidate in found.items():
        own = fleet.of(candidate)
        other = own.reference if device != own.reference else fleet.first.reference if across else device
        baselines = {
            "loss": (first_loss, device, seed, replica),
            "device": (loss, other, seed, replica),
            "replica": (loss, device, seed, 0),
        }
        for axis, key in baselines.items():
            if found[key] is not candidate:
                pairs[axis].append(Pair(axis, found[key], candidate))
    noise = [
        Pair("noise", found[trial.loss_name, trial.device, trial.seed, 0], trial) for trial in trials if trial.noise
    ]
    return (*pairs["loss"], *pairs["device"], *pairs["replica"], *noise)
