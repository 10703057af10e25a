"""A trial, and the plan: devices x seeds x replicas x losses."""

import math
from dataclasses import dataclass

from parity.plan.device import Device
from parity.plan.user_code import CodeSpec

EPOCHS = 2
# Rounding is least at the start, and grows with the logarithm of the steps rather than with the steps.
EARLY_SHARED = (0, 1, 10, 100)
# Steps that every trial compares with float64: the first, where runs of different days still have equal states, and one
# that follows soon, when the optimizer has a state of its own.
MEASURED_STEPS = (0, 10)


@dataclass(frozen=True)
class Place:
    """Where a step stands in a training.

    Attributes:
        step: Optimizer step, from 0.
        epoch: From 0.
        batch: Of the epoch, from 0.
        rows: Of the batch.
        partial: Whether it has fewer rows than the others.
        audited: Whether the float64 audit takes the step.
    """

    step: int
    epoch: int
    batch: int
    rows: int
    partial: bool
    audited: bool


@dataclass(frozen=True)
class Settings:
    """What all trials of a run share.

    Attributes:
        task: What is trained.
        rows: Of the data.
        batch_size: Rows of a batch; the last of an epoch has what is left.
        steps: Optimizer steps in all.
        lr: Learning rate.
        audit_every: The float64 audit takes every step whose number this divides, the first, the last and the partial
            batches; 0 is never.
        save_every_s: Seconds of training after which the state is stored, to go on from.
    """

    task: CodeSpec
    rows: int
    batch_size: int
    steps: int
    lr: float
    audit_every: int
    save_every_s: float = 10.0

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return math.ceil(self.rows / self.batch_size)

    def row_range(self, step: int) -> tuple[int, int]:
        """First row of the step's batch, and the one after its last."""
        start = step % self.batches * self.batch_size
        return start, min(start + self.batch_size, self.rows)

    def place(self, step: int) -> Place:
        """Where the step stands."""
        epoch, batch = divmod(step, self.batches)
        start, stop = self.row_range(step)
        rows = stop - start
        return Place(step, epoch, batch, rows, partial=rows < self.batch_size, audited=self.audited(step))

    def audited(self, step: int) -> bool:
        """Whether the audit takes this step."""
        if self.audit_every == 0:
            return False
        start, stop = self.row_range(step)
        return step % self.audit_every == 0 or step == self.steps - 1 or stop - start < self.batch_size

    def shared(self, step: int) -> bool:
        """Whether other devices take this step from the baseline's state: some early, a partial batch, the last."""
        return step in {*EARLY_SHARED, self._partial, self.steps // 2, self.steps - 1}

    def measured(self, step: int) -> bool:
        """Whether this step is held against float64 in each trial: the first, one soon after, a partial batch."""
        return step in {*MEASURED_STEPS, self._partial}

    @property
    def _partial(self) -> int:
        """The first step of a partial batch; 0 where there is none."""
        return self.batches - 1 if self.rows % self.batch_size else 0


@dataclass(frozen=True)
class Trial:
    """Description of one training run.

    Attributes:
        loss: What it trains with.
        oracle: The loss that the audit evaluates in float64: the baseline's.
        device: Where it runs.
        seed: Of Python's, NumPy's and torch's generators.
        replica: 0, or the number of the repeat.
        noise: 0, or the number of a baseline trial whose output gradient is randomly rounded by 1 ulp at each step.
        contract: Whether the loss is held to its contract before the training.
        measured: Whether some of its steps are held against float64, for runs to come to be compared with.
        shares: Whether other devices take steps from this trial's states.
        shared_from: Name of the trial from whose states this one takes steps, or None.
        capture: Not a whole training, but the tensor of that step, quantity and parameter alone; or None.
        settings: What all trials of the run share.
    """

    loss: CodeSpec
    oracle: CodeSpec
    device: Device
    seed: int
    replica: int
    settings: Settings
    noise: int = 0
    contract: bool = False
    measured: bool = False
    shares: bool = False
    shared_from: str | None = None
    capture: tuple[int, str, str | None] | None = None

    @property
    def name(self) -> str:
        """As in `numpy@cpu-s0`, `numpy@cpu-s0-r1` for a replica, `builtin@cpu-s0-n1` for a noisy baseline."""
        suffix = f"-r{self.replica}" if self.replica else f"-n{self.noise}" if self.noise else ""
        return f"{self.loss.name}@{self.device.name}-s{self.seed}{suffix}"
