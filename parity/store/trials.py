"""trials.parquet: a row for each trial, with the facts of its machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import pyarrow as pa

from parity.store.parquet import write_table
from parity.store.schema import NAME, Column, describe_record
from parity.store.statuses import Failure, TrialStatus
from parity.store.storage import StoragePath


@dataclass(frozen=True)
class TrialRecord:
    """A row of trials.parquet: each annotated field is a column, in this order.

    Attributes:
        run: Which run it is of, where several are judged together; is not stored.
    """

    trial: Annotated[str, Column(NAME, "name of the trial")]
    task: Annotated[str, Column(NAME, "name of the task")]
    task_origin: Annotated[str | None, Column(pa.string(), "file or module of the task, null for a shipped one")]
    task_sha256: Annotated[str | None, Column(pa.string(), "SHA-256 of the task's file, null where there is none")]
    loss_name: Annotated[str, Column(NAME, "name of the loss it trains with")]
    loss_origin: Annotated[str | None, Column(pa.string(), "file or module of the loss, null for a shipped one")]
    loss_sha256: Annotated[str | None, Column(pa.string(), "SHA-256 of the loss's file, null where there is none")]
    oracle: Annotated[str, Column(NAME, "name of the loss that the audit evaluates in float64")]
    device: Annotated[str, Column(NAME, "device it runs on")]
    seed: Annotated[int, Column(pa.int64(), "seed of the generators")]
    replica: Annotated[int, Column(pa.int32(), "0, or the number of the repeat")]
    noise: Annotated[
        int, Column(pa.int32(), "0, or the number of a baseline trial whose output gradient is randomly rounded")
    ]
    steps: Annotated[int, Column(pa.int64(), "optimizer steps that were planned")]
    batches: Annotated[int | None, Column(pa.int64(), "batches of an epoch")]
    batch_size: Annotated[int, Column(pa.int64(), "rows of a batch")]
    lr: Annotated[float | None, Column(pa.float64(), "learning rate")]
    optimizer: Annotated[
        str | None, Column(pa.string(), "class and settings of the optimizer, null where they are not known")
    ]
    audit_every: Annotated[int, Column(pa.int64(), "the audit takes the steps that this divides; 0 is never")]
    trace: Annotated[str, Column(pa.string(), "file of the trace, in traces/")]
    status: Annotated[TrialStatus, Column(NAME, "planned, complete, failed or interrupted")] = "planned"
    rows: Annotated[int, Column(pa.int64(), "steps that its trace has")] = 0
    failed_step: Annotated[int | None, Column(pa.int64(), "the step that failed, null where it is not known")] = None
    failure: Annotated[
        Failure | None,
        Column(NAME, "raised, result, detached, mutates, died, hung, memory or node; null if it did not"),
    ] = None
    error: Annotated[str | None, Column(pa.string(), "why it failed, null if it did not")] = None
    traceback: Annotated[str | None, Column(pa.string(), "of the user's code that raised, else null")] = None
    attempts: Annotated[int, Column(pa.int32(), "workers that it had, one after the other")] = 1
    restarts: Annotated[
        list[str], Column(pa.list_(pa.string()), "of each but the first: when, from which step on, and why")
    ] = field(default_factory=list)
    wall_s: Annotated[float | None, Column(pa.float64(), "from the loading of the loss to the end", unit="s")] = None
    began: Annotated[datetime | None, Column(pa.timestamp("us", tz="UTC"), "when the first step began")] = None
    ended: Annotated[datetime | None, Column(pa.timestamp("us", tz="UTC"), "when the last step ended")] = None
    loss_dtype: Annotated[str | None, Column(NAME, "dtype of the loss")] = None
    param_names: Annotated[
        list[str], Column(pa.list_(pa.string()), "names of the parameter tensors, in the model's order")
    ] = field(default_factory=list)
    initial_norms: Annotated[
        list[float] | None, Column(pa.list_(pa.float64()), "L2 norm of each parameter tensor before the first step")
    ] = None
    audit_error: Annotated[str | None, Column(pa.string(), "why there is no audit, null where there is one")] = None
    shared_error: Annotated[
        str | None, Column(pa.string(), "why the steps from the baseline device's states are missing, else null")
    ] = None
    host: Annotated[str | None, Column(pa.string(), "name of the machine")] = None
    node: Annotated[
        str | None, Column(pa.string(), "node of the Ray cluster that it ran on, null where there is none")
    ] = None
    node_id: Annotated[str | None, Column(pa.string(), "Ray's number of that node")] = None
    os: Annotated[str | None, Column(pa.string(), "operating system")] = None
    cpu_model: Annotated[str | None, Column(pa.string(), "model of the CPU")] = None
    cpu_isa: Annotated[
        str | None, Column(pa.string(), "instruction sets of the CPU that arithmetic libraries choose their code by")
    ] = None
    cores: Annotated[int | None, Column(pa.int32(), "logical cores of the machine")] = None
    cpu_capability: Annotated[str | None, Column(pa.string(), "instruction set of ATen's kernels in use")] = None
    threads: Annotated[int | None, Column(pa.int32(), "threads of an operation")] = None
    blas: Annotated[str | None, Column(pa.string(), "library of the CPU's matrix products")] = None
    gpu_name: Annotated[str | None, Column(pa.string(), "model of the GPU, null on a CPU")] = None
    gpu_index: Annotated[
        int | None, Column(pa.int32(), "number of the GPU on its machine, null where it is not known")
    ] = None
    gpu_uuid: Annotated[str | None, Column(pa.string(), "UUID of the GPU, null on a CPU")] = None
    gpu_driver: Annotated[str | None, Column(pa.string(), "version of the GPU's driver, null on a CPU")] = None
    cuda: Annotated[str | None, Column(pa.string(), "version of CUDA, null on a CPU")] = None
    cudnn: Annotated[str | None, Column(pa.string(), "version of cuDNN, null on a CPU")] = None
    python: Annotated[str | None, Column(pa.string(), "version of Python")] = None
    torch: Annotated[str | None, Column(pa.string(), "version of torch")] = None
    numpy: Annotated[str | None, Column(pa.string(), "version of NumPy")] = None
    parity: Annotated[str | None, Column(pa.string(), "version of parity")] = None
    run: str = ""

    @property
    def unit(self) -> str:
        """The device, and the run where there are several: what computes by itself."""
        return f"{self.device} ({self.run})" if self.run else self.device


TRIALS = describe_record("a trial", TrialRecord)


def write_trials(directory: StoragePath, records: Sequence[TrialRecord]) -> None:
    """Writes trials.parquet."""
    rows = [vars(record) for record in records]  # `asdict` copies each value, and costs more than all else here
    write_table(directory / "trials.parquet", pa.Table.from_pylist(rows, schema=TRIALS))


# Facts that decide which code computes, and so the bits.
HARDWARE = ("cpu_model", "cpu_isa", "cpu_capability", "gpu_name")
SOFTWARE = ("python", "torch", "numpy", "parity", "blas", "gpu_driver", "cuda", "cudnn")
