"""Which trials are compared with each other: pairs that differ in one thing, the axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from parity.ground.errors import Trouble
from parity.judge.fleet import Fleet
from parity.judge.ranks import RankFinding
from parity.judge.same_function import OtherFunction
from parity.store.trials import TrialRecord

# The loss, the device, the seed and the number of the replica of a trial.
_Key = tuple[str, str, int, int]
# The two sides of a pair.
Role = Literal["baseline", "candidate"]


@dataclass(frozen=True)
class Pair:
    """A baseline and a candidate, and what differs between them.

    Attributes:
        axis: Within a run the one thing that differs: "loss", "device", "replica" or "noise". Between two runs all
            things that are known to differ, as in "device" or "torch, numpy"; "run" where nothing is.
        baseline: The trial that the other is compared with.
        candidate: The trial that is judged.
        between: How the two runs relate; None for a pair within one run.
    """

    axis: str
    baseline: TrialRecord
    candidate: TrialRecord
    between: Between | None = None


@dataclass(frozen=True)
class Between:
    """How the two runs of a pair relate.

    Attributes:
        differ: What is known to differ: its name, the baseline's value, the candidate's value.
        owed: Whether nothing is known to differ, so that both must produce equal bits.
        same_machine: Whether hardware and software are the same, so that only code or settings can make a difference.
        apart: Why the steps that each run checked against float64 cannot be compared, or None where they can.
        other: Where the two compute other functions, or None where that is not known.
        own: What each of the two has of its own, so that it is not compared: see `Comparison.own`.
        ranks: What was found of the ranks of a distributed training, or None.
        peers: Whether the two are ranks of one training, which owe each other equal bits.
    """

    differ: tuple[tuple[str, str, str], ...]
    owed: bool
    same_machine: bool
    apart: str | None
    other: OtherFunction | None = None
    own: frozenset[str] = frozenset()
    ranks: RankFinding | None = None
    peers: bool = False


def make_pairs(trials: Sequence[TrialRecord], fleet: Fleet, *, across: bool = True) -> tuple[Pair, ...]:
    """Pairs the trials of a run.

    Each loss is paired with the first loss on the same device, each device with the reference of its class, the
    reference of each class with that of the first class, each replica with the original, and each noise trial with
    the baseline. Within a class, devices of equal code for a loss have a reference of their own, which is paired with
    that of most nodes.

    Args:
        trials: The trials in the order of the plan, so that the first names the baseline loss and device.
        fleet: The devices of the same trials.
        across: Whether to compare classes of devices with each other, and the losses on each device. Otherwise the
            losses are compared once in each class and seed: what holds for a device holds for all that are equal to it.

    Returns:
        The pairs of losses, then those of devices, of replicas and of noise; within an axis, in the order of the
        candidates.

    Raises:
        Trouble: A trial that others are compared with is missing.
    """
    found = {(trial.loss_name, trial.device, trial.seed, trial.replica): trial for trial in trials if not trial.noise}
    first_loss = trials[0].loss_name if trials else ""
    pairs = {"loss": [], "device": [], "replica": []}  # type: dict[str, list[Pair]]
    for (loss, device, seed, replica), candidate in found.items():
        # Devices are compared with the reference of their class, not each with each, so the number of pairs grows with
        # the devices and not with their square. References are compared across the classes, if at all.
        other = fleet.counterpart(candidate, across=across)
        baselines = {
            "loss": (first_loss, device, seed, replica),
            "device": (loss, other, seed, replica),
            "replica": (loss, device, seed, 0),
        }
        if not across and (replica or not fleet.leads(candidate)):
            del baselines["loss"]
        for axis, key in baselines.items():
            # The first loss, a reference or an original is not a candidate on its own axis.
            if (baseline := _baseline(found, key)) is not candidate:
                pairs[axis].append(Pair(axis, baseline, candidate))
    # A noise trial repeats the baseline, so it is compared with the original and not with a replica.
    noise = [
        Pair("noise", _baseline(found, (trial.loss_name, trial.device, trial.seed, 0)), trial)
        for trial in trials
        if trial.noise
    ]
    return (*pairs["loss"], *pairs["device"], *pairs["replica"], *noise)


def _baseline(found: Mapping[_Key, TrialRecord], key: _Key) -> TrialRecord:
    # A plan has every combination of loss, device, seed and replica; a run that was changed since may lack some.
    if key not in found:
        loss, device, seed, replica = key
        raise Trouble(
            f"trials.parquet is damaged: it lacks the trial of {loss} on {device} with seed {seed} in replica "
            f"{replica}, which others are compared with."
        )
    return found[key]
