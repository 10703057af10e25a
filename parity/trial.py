"""A trial, and the plan: devices x seeds x replicas x losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parity.devices import Device
from parity.errors import Trouble
from parity.loss_spec import LossSpec

EPOCHS = 2


@dataclass(frozen=True)
class Settings:
    """What all trials of a run share.

    Attributes:
        task: Name of the task.
        rows: Of the data.
        batch_size: Rows of a batch; the last of an epoch has what is left.
        steps: Optimizer steps in all.
        lr: Learning rate.
        audit_every: The float64 audit takes every step whose number this divides, the first, the last and the partial
            batches; 0 is never.
    """

    task: str
    rows: int
    batch_size: int
    steps: int
    lr: float
    audit_every: int

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return math.ceil(self.rows / self.batch_size)

    def row_range(self, step: int) -> tuple[int, int]:
        """First row of the step's batch, and the one after its last."""
        start = step % self.batches * self.batch_size
        return start, min(start + self.batch_size, self.rows)

    def audited(self, step: int) -> bool:
        """Whether the audit takes this step."""
        if self.audit_every == 0:
            return False
        start, stop = self.row_range(step)
        return step % self.audit_every == 0 or step == self.steps - 1 or stop - start < self.batch_size


@dataclass(frozen=True)
class Trial:
    """Description of one training run.

    Attributes:
        loss: What it trains with.
        oracle: The loss that the audit evaluates in float64: the baseline's.
        device: Where it runs.
        seed: Of Python's, NumPy's and torch's generators.
        replica: 0, or the number of the repeat.
        settings: What all trials of the run share.
    """

    loss: LossSpec
    oracle: LossSpec
    device: Device
    seed: int
    replica: int
    settings: Settings

    @property
    def name(self) -> str:
        """As in `numpy@cpu-s0`, and `numpy@cpu-s0-r1` for a replica."""
        suffix = f"-r{self.replica}" if self.replica else ""
        return f"{self.loss.name}@{self.device.name}-s{self.seed}{suffix}"


def make_settings(
    *,
    task: str,
    rows: int,
    batch_size: int,
    epochs: int,
    steps: int | None,
    lr: float,
    audit_every: int,
) -> Settings:
    """Settles the number of steps.

    Raises:
        Trouble: The batch is larger than the data.
    """
    if batch_size > rows:
        raise Trouble(
            f"--batch-size {batch_size} is larger than the data, which has {rows} rows. Choose at most {rows}."
        )
    steps_in_all = epochs * math.ceil(rows / batch_size)
    return Settings(
        task=task,
        rows=rows,
        batch_size=batch_size,
        steps=steps_in_all if steps is None else min(steps, steps_in_all),
        lr=lr,
        audit_every=audit_every,
    )


def plan(
    losses: Sequence[LossSpec], devices: Sequence[Device], *, seeds: Sequence[int], replicas: int, settings: Settings
) -> tuple[Trial, ...]:
    """Makes the trials, the baseline's first.

    Raises:
        Trouble: A seed is given twice.
    """
    if len(set(seeds)) < len(seeds):
        raise Trouble(f"--seed {' '.join(map(str, seeds))} names a seed twice. To repeat trials, use --replicas.")
    return tuple(
        Trial(loss=loss, oracle=losses[0], device=device, seed=seed, replica=replica, settings=settings)
        for device in devices
        for seed in seeds
        for replica in range(replicas)
        for loss in losses
    )
