"""Which trials are held against each other: pairs that differ in one thing, the axis."""

from collections.abc import Sequence
from dataclasses import dataclass

from parity.fleet import Fleet
from parity.store import TrialRecord


@dataclass(frozen=True)
class Pair:
    """A baseline and a candidate that differ in the axis alone: "loss", "device", "replica" or "noise"."""

    axis: str
    baseline: TrialRecord
    candidate: TrialRecord


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
        own = fleet.of(device)
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
