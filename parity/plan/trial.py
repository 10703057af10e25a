"""A trial: the frozen description of one training run, and which of its steps are looked at more closely."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from parity.plan.device import Device
from parity.plan.user_code import CodeSpec

# How tensors are digested: by XXH3 of their bytes on the CPU, or by sums of their words, which an accelerator computes
# itself. Digests of two kinds cannot be compared.
DigestKind = Literal["xxh3", "words"]
DIGEST_KINDS: tuple[DigestKind, ...] = get_args(DigestKind)
# Passes over the data unless --epochs says otherwise. Chosen: with two, the step after the end of an epoch is trained.
EPOCHS = 2
# Steps that other devices take from the baseline's state, beside a partial batch, the middle and the last step. Chosen,
# not measured: steps 0 and 1 are before and after the first update, and one step a decade then covers a training of any
# length at the price of a few steps, each of which stores a whole state of the baseline and is taken by every device.
EARLY_SHARED = (0, 1, 10, 100)
# Steps that each trial also takes in float64, beside a partial batch, so that later runs can be compared with this one.
# Chosen, not measured: step 0 starts from the initial parameters, which two runs share to the bit or nearly so, and
# at step 10 the optimizer has a state. Each costs a step in float64, so there are no more.
MEASURED_STEPS = (0, 10)


@dataclass(frozen=True)
class Place:
    """Where a step stands in a training.

    Attributes:
        step: Number of the optimizer step, from 0.
        epoch: Number of the epoch, from 0.
        batch: Number of the batch within the epoch, from 0.
        rows: Number of rows in the batch.
        partial: Whether the batch has fewer rows than the others.
        audited: Whether the step is audited in float64.
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
        rows: Number of rows in the data.
        batch_size: Number of rows in a batch; the last batch of an epoch has the rows that are left.
        steps: Number of optimizer steps in all.
        lr: Learning rate.
        audit_every: Every step whose number this divides is audited in float64, and so are the first step, the last and
            the partial batches; 0 turns the audit off.
        save_every_s: Seconds of training between two stored states, from which an interrupted trial continues.
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
        """Number of batches in an epoch."""
        return math.ceil(self.rows / self.batch_size)

    def row_range(self, step: int) -> tuple[int, int]:
        """The first row of the step's batch, and the row after its last."""
        start = step % self.batches * self.batch_size
        return start, min(start + self.batch_size, self.rows)

    def place(self, step: int) -> Place:
        """Where the step stands in the training."""
        epoch, batch = divmod(step, self.batches)
        start, stop = self.row_range(step)
        rows = stop - start
        return Place(step, epoch, batch, rows, partial=rows < self.batch_size, audited=self.audited(step))

    def audited(self, step: int) -> bool:
        """Whether the step is audited: every `audit_every`-th from step 0, the last, and each partial batch."""
        if self.audit_every == 0:
            return False
        start, stop = self.row_range(step)
        # A partial batch is where a gradient with a fixed batch size goes wrong, so thinning must not skip it.
        return step % self.audit_every == 0 or step == self.steps - 1 or stop - start < self.batch_size

    def shared(self, step: int) -> bool:
        """Whether other devices take this step from the baseline's state: see `EARLY_SHARED`."""
        return step in {*EARLY_SHARED, self._partial, self.steps // 2, self.steps - 1}

    def measured(self, step: int) -> bool:
        """Whether each measured trial also takes this step in float64: see `MEASURED_STEPS`."""
        return step in {*MEASURED_STEPS, self._partial}

    @property
    def _partial(self) -> int:
        """The first step whose batch is partial; 0 if there is none."""
        # Step 0 is shared and measured anyway, so it adds nothing where there is no partial batch.
        return self.batches - 1 if self.rows % self.batch_size else 0


@dataclass(frozen=True)
class Trial:
    """Description of one training run.

    Attributes:
        loss: The loss that it trains with.
        oracle: The loss that the audit evaluates in float64: the baseline's.
        device: The device that it runs on.
        seed: Seed of Python's, NumPy's and torch's generators.
        replica: 0, or the number of the repeat.
        settings: What all trials of the run share.
        noise: 0, or the number of a baseline trial whose output gradient is randomly rounded by 1 ulp at each step.
        contract: Whether the loss contract is checked before the training.
        measured: Whether some steps are also taken in float64 (`Settings.measured`), so that later runs can be
            compared with this one.
        shares: Whether other devices take steps from this trial's states.
        shared_from: Name of the trial from whose states this one takes steps, or None.
        capture: Step, quantity and parameter (or None) of the one tensor that this trial is trained for, or None for a
            whole training.
        digest_kind: How its tensors are digested.
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
    digest_kind: DigestKind = "xxh3"

    @property
    def name(self) -> str:
        """`numpy@cpu-s0`; `numpy@cpu-s0-r1` for a replica; `builtin@cpu-s0-n1` for a baseline under random rounding."""
        # The settings are left out, since all trials of a run share them; so names are unique within a run.
        suffix = f"-r{self.replica}" if self.replica else f"-n{self.noise}" if self.noise else ""
        return f"{self.loss.name}@{self.device.name}-s{self.seed}{suffix}"
