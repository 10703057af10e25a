"""trials.parquet: a row for each trial, with the facts of its machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import pyarrow as pa

from parity.ground.quoting import MOST_STORED
from parity.plan.trial import DigestKind
from parity.store.parquet import write_table
from parity.store.schema import NAME, Column, describe_record
from parity.store.statuses import Failure, TrialStatus
from parity.store.storage import StoragePath

# Dtypes of a loss whose distances are counted in ulp.
LOSS_DTYPES = ("float16", "float32", "float64", "bfloat16")
# Of texts that may quote a message of the user's code.
_LENGTH = f"in at most {MOST_STORED:,} characters"


@dataclass(frozen=True)
class TrialRecord:
    """A row of trials.parquet: each annotated field is a column, in this order.

    Attributes:
        run: The run that the trial belongs to, if several are judged together; not stored.
    """

    trial: Annotated[str, Column(NAME, "name of the trial")]
    task: Annotated[str, Column(NAME, "name of the task")]
    task_origin: Annotated[str | None, Column(pa.string(), "file or module of the task; null for a shipped one")]
    task_sha256: Annotated[str | None, Column(pa.string(), "SHA-256 of the task's file; null if there is none")]
    loss_name: Annotated[str, Column(NAME, "name of the loss")]
    loss_origin: Annotated[str | None, Column(pa.string(), "file or module of the loss; null for a shipped one")]
    loss_sha256: Annotated[str | None, Column(pa.string(), "SHA-256 of the loss's file; null if there is none")]
    oracle: Annotated[str, Column(NAME, "name of the loss that the audit evaluates in float64")]
    device: Annotated[str, Column(NAME, "name of the device")]
    seed: Annotated[int, Column(pa.int64(), "seed of the generators")]
    replica: Annotated[int, Column(pa.int32(), "number of the repeat; 0 for the first run")]
    noise: Annotated[
        int, Column(pa.int32(), "number of a baseline trial whose output gradient is randomly rounded; else 0")
    ]
    steps: Annotated[int, Column(pa.int64(), "number of optimizer steps planned")]
    batches: Annotated[int | None, Column(pa.int64(), "number of batches in an epoch; null if not known")]
    batch_size: Annotated[int, Column(pa.int64(), "number of rows in a batch")]
    lr: Annotated[float | None, Column(pa.float64(), "learning rate; null if not known")]
    optimizer: Annotated[str | None, Column(pa.string(), "class and settings of the optimizer; null if not known")]
    audit_every: Annotated[int, Column(pa.int64(), "the steps divisible by this are audited; 0 for none")]
    trace: Annotated[str, Column(pa.string(), "name of the trace's file in traces/")]
    digest_kind: Annotated[
        DigestKind | None,
        Column(
            NAME,
            "how the tensors of the trace are digested: xxh3 (of their bytes) or words (weighted sums of their 32-bit "
            "words, which an accelerator computes itself); null in runs of earlier versions: xxh3",
        ),
    ] = None
    loss_line: Annotated[
        int | None,
        Column(pa.int32(), "line of the loss's file at which it is defined, from 1; null if not known"),
    ] = None
    # Known only once the trial trains, so the fields have defaults from here on.
    status: Annotated[TrialStatus, Column(NAME, "planned, complete, failed or interrupted")] = "planned"
    rows: Annotated[int, Column(pa.int64(), "number of steps in the trace")] = 0
    first_step: Annotated[
        int | None, Column(pa.int64(), "number of the trace's first step; null in runs of earlier versions: 0")
    ] = 0
    failed_step: Annotated[
        int | None, Column(pa.int64(), "the step that failed; null if none did, or if not known")
    ] = None
    failure: Annotated[
        Failure | None,
        Column(NAME, "raised, result, detached, mutates, died, hung, memory or node; null if the trial did not fail"),
    ] = None
    error: Annotated[str | None, Column(pa.string(), f"why the trial failed, {_LENGTH}; null if it did not")] = None
    traceback: Annotated[
        str | None, Column(pa.string(), f"traceback of the user's code that raised, {_LENGTH}; else null")
    ] = None
    attempts: Annotated[int, Column(pa.int32(), "number of workers that the trial had, one after the other")] = 1
    restarts: Annotated[
        list[str],
        Column(pa.list_(pa.string()), "for each worker after the first: when it took over, at which step, and why"),
    ] = field(default_factory=list)
    wall_s: Annotated[
        float | None, Column(pa.float64(), "wall time from the loading of the loss to the end", unit="s")
    ] = None
    began: Annotated[datetime | None, Column(pa.timestamp("us", tz="UTC"), "time at which the first step began")] = None
    ended: Annotated[datetime | None, Column(pa.timestamp("us", tz="UTC"), "time at which the last step ended")] = None
    loss_dtype: Annotated[str | None, Column(NAME, "dtype of the loss")] = None
    param_names: Annotated[
        list[str], Column(pa.list_(pa.string()), "names of the parameter tensors, in the model's order")
    ] = field(default_factory=list)
    initial_norms: Annotated[
        list[float] | None, Column(pa.list_(pa.float64()), "L2 norm of each parameter tensor before the first step")
    ] = None
    initial_digests: Annotated[
        list[int] | None, Column(pa.list_(pa.uint64()), "digest of each parameter tensor before the first step")
    ] = None
    initial_sketches: Annotated[
        list[float] | None,
        Column(pa.list_(pa.float32()), "signed sums of each parameter tensor before the first step"),
    ] = None
    param_shapes: Annotated[
        list[str] | None, Column(pa.list_(pa.string()), 'shape of each parameter tensor, as in "128x784"')
    ] = None
    param_dtypes: Annotated[list[str] | None, Column(pa.list_(pa.string()), "dtype of each parameter tensor")] = None
    buffer_names: Annotated[
        list[str] | None,
        Column(pa.list_(pa.string()), "names of the buffers, and of what else was to be compared as they are"),
    ] = None
    initial_buffer_digests: Annotated[
        list[int] | None, Column(pa.list_(pa.uint64()), "digest of each of these before the first step")
    ] = None
    sharded: Annotated[
        bool | None,
        Column(pa.bool_(), "whether the process holds a part of each parameter, as FSDP gives it; null if not known"),
    ] = None
    unobserved: Annotated[
        str | None,
        Column(
            pa.string(),
            "parameters and buffers that joined the model or its optimizers after the recording began, or were "
            "replaced, so that they were not observed; null if there are none",
        ),
    ] = None
    output_names: Annotated[
        list[str | None] | None, Column(pa.list_(pa.string()), "names of the parts of the output; null for one tensor")
    ] = None
    output_dtype: Annotated[str | None, Column(NAME, "dtype of the output; of several, the one with the largest u")] = (
        None
    )
    computed_dtype: Annotated[
        str | None,
        Column(
            NAME,
            "dtype of the largest u in which the output is computed, tf32 where CUDA may do so in its matrix products; "
            "null in runs of earlier versions",
        ),
    ] = None
    optimizer_norms: Annotated[
        list[float] | None,
        Column(
            pa.list_(pa.float64()),
            "L2 norm of what copies of the optimizers, made before their first step and given gradients that are the "
            "same in every recording, have added to each parameter tensor in float64; null if they were not asked",
        ),
    ] = None
    optimizer_sketches: Annotated[
        list[float] | None, Column(pa.list_(pa.float64()), "signed sums of the same, for each parameter tensor")
    ] = None
    optimizer_inexact: Annotated[
        float | None,
        Column(pa.float64(), "L2 norm by which the rounding in dtypes that the optimizers convert to moves the same"),
    ] = None
    optimizer_error: Annotated[str | None, Column(pa.string(), "why they were not asked; null if they were")] = None
    elsewhere_norms: Annotated[
        list[float] | None,
        Column(
            pa.list_(pa.float64()),
            "L2 norm of the gradient of each parameter tensor in float64, in the first step of a recorded loop, after "
            "a small step of its parameters against it; null if it was not computed",
        ),
    ] = None
    elsewhere_sketches: Annotated[
        list[float] | None, Column(pa.list_(pa.float64()), "signed sums of the same, for each parameter tensor")
    ] = None
    buffer_added_norms: Annotated[
        list[float] | None,
        Column(
            pa.list_(pa.float64()),
            "L2 norm of what the first step of a recorded loop, repeated in float64 as far as the gradients, adds to "
            "each buffer of the model; null if it was not repeated",
        ),
    ] = None
    buffer_added_sketches: Annotated[
        list[float] | None, Column(pa.list_(pa.float64()), "signed sums of the same, for each buffer of the model")
    ] = None
    buffer_added_inexact: Annotated[
        float | None, Column(pa.float64(), "L2 norm by which rounding in float64 moves the same")
    ] = None
    audit_error: Annotated[
        str | None, Column(pa.string(), f"why the trial was not audited, {_LENGTH}; null if it was")
    ] = None
    shared_error: Annotated[
        str | None, Column(pa.string(), "why steps from the baseline device's states are missing; null if none are")
    ] = None
    # Facts of the machine, from `machine.facts`.
    host: Annotated[str | None, Column(pa.string(), "name of the machine")] = None
    node: Annotated[
        str | None, Column(pa.string(), "name of the Ray node; null outside a cluster of several nodes")
    ] = None
    node_id: Annotated[str | None, Column(pa.string(), "Ray's identifier of that node")] = None
    os: Annotated[str | None, Column(pa.string(), "operating system")] = None
    cpu_model: Annotated[str | None, Column(pa.string(), "model of the CPU")] = None
    cpu_isa: Annotated[
        str | None, Column(pa.string(), "instruction sets of the CPU by which arithmetic libraries choose their code")
    ] = None
    cores: Annotated[int | None, Column(pa.int32(), "number of logical cores of the machine")] = None
    cpu_capability: Annotated[str | None, Column(pa.string(), "instruction set of the ATen kernels in use")] = None
    threads: Annotated[int | None, Column(pa.int32(), "number of threads of an operation")] = None
    blas: Annotated[str | None, Column(pa.string(), "library that computes matrix products on the CPU")] = None
    gpu_name: Annotated[str | None, Column(pa.string(), "model of the GPU; null on a CPU")] = None
    gpu_index: Annotated[int | None, Column(pa.int32(), "number of the GPU on its machine; null if not known")] = None
    gpu_uuid: Annotated[str | None, Column(pa.string(), "UUID of the GPU; null on a CPU")] = None
    gpu_driver: Annotated[str | None, Column(pa.string(), "version of the GPU's driver; null on a CPU")] = None
    cuda: Annotated[str | None, Column(pa.string(), "version of CUDA; null on a CPU")] = None
    cudnn: Annotated[str | None, Column(pa.string(), "version of cuDNN; null on a CPU")] = None
    python: Annotated[str | None, Column(pa.string(), "version of Python")] = None
    torch: Annotated[str | None, Column(pa.string(), "version of torch")] = None
    numpy: Annotated[str | None, Column(pa.string(), "version of NumPy")] = None
    parity: Annotated[str | None, Column(pa.string(), "version of parity")] = None
    parity_sha256: Annotated[
        str | None, Column(pa.string(), "one SHA-256 over the Python files of parity on that machine")
    ] = None
    code_sha256: Annotated[
        str | None,
        Column(
            pa.string(),
            "one SHA-256 over the code of loss, oracle and task and what it imports from beside itself; null if all "
            "ship with parity",
        ),
    ] = None
    imported: Annotated[
        list[str] | None,
        Column(
            pa.list_(pa.string()),
            "SHA-256 and name of each other file that was imported and is not installed, as sha256sum prints them; "
            "null if not known",
        ),
    ] = None
    run: str = ""

    @property
    def unit(self) -> str:
        """The device, with the run if there are several: what is compared with others of its kind."""
        return f"{self.device} ({self.run})" if self.run else self.device

    @property
    def digested_by(self) -> DigestKind:
        """How the tensors of the trace are digested."""
        return self.digest_kind or "xxh3"


TRIALS = describe_record("a trial", TrialRecord)


def write_trials(directory: StoragePath, records: Sequence[TrialRecord]) -> None:
    """Writes trials.parquet.

    Args:
        directory: The run directory.
        records: The trials, in the order of the plan.

    Raises:
        Trouble: It cannot be written.
    """
    # `asdict` would copy each value, which takes longer than all else here. Arrow leaves out `run`, which is not in the
    # schema.
    rows = [vars(record) for record in records]
    write_table(directory / "trials.parquet", pa.Table.from_pylist(rows, schema=TRIALS))


# Facts that determine which code computes, and therefore the bits.
HARDWARE = ("cpu_model", "cpu_isa", "cpu_capability", "gpu_name")
SOFTWARE = ("python", "torch", "numpy", "parity", "blas", "gpu_driver", "cuda", "cudnn")
