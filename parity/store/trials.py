"""trials.parquet: a row for each trial, with the facts of its machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from parity.store.parquet import write_table
from parity.store.schema import NAME, column, describe_table
from parity.store.storage import StoragePath

TRIALS = describe_table(
    "a trial",
    [
        column("trial", NAME, "name of the trial"),
        column("task", NAME, "name of the task"),
        column("task_origin", pa.string(), "file or module of the task, null for a shipped one"),
        column("task_sha256", pa.string(), "SHA-256 of the task's file, null where there is none"),
        column("loss_name", NAME, "name of the loss it trains with"),
        column("loss_origin", pa.string(), "file or module of the loss, null for a shipped one"),
        column("loss_sha256", pa.string(), "SHA-256 of the loss's file, null where there is none"),
        column("oracle", NAME, "name of the loss that the audit evaluates in float64"),
        column("device", NAME, "device it runs on"),
        column("seed", pa.int64(), "seed of the generators"),
        column("replica", pa.int32(), "0, or the number of the repeat"),
        column("noise", pa.int32(), "0, or the number of a baseline trial whose output gradient is randomly rounded"),
        column("steps", pa.int64(), "optimizer steps that were planned"),
        column("batches", pa.int64(), "batches of an epoch"),
        column("batch_size", pa.int64(), "rows of a batch"),
        column("lr", pa.float64(), "learning rate"),
        column("optimizer", pa.string(), "class and settings of the optimizer, null where they are not known"),
        column("audit_every", pa.int64(), "the audit takes the steps that this divides; 0 is never"),
        column("trace", pa.string(), "file of the trace, in traces/"),
        column("status", NAME, "planned, complete, failed or interrupted"),
        column("rows", pa.int64(), "steps that its trace has"),
        column("failed_step", pa.int64(), "the step that failed, null where it is not known"),
        column("failure", NAME, "raised, result, detached, mutates, died, hung, memory or node; null if it did not"),
        column("error", pa.string(), "why it failed, null if it did not"),
        column("traceback", pa.string(), "of the user's code that raised, else null"),
        column("attempts", pa.int32(), "workers that it had, one after the other"),
        column("restarts", pa.list_(pa.string()), "of each but the first: when, from which step on, and why"),
        column("wall_s", pa.float64(), "from the loading of the loss to the end", unit="s"),
        column("began", pa.timestamp("us", tz="UTC"), "when the first step began"),
        column("ended", pa.timestamp("us", tz="UTC"), "when the last step ended"),
        column("loss_dtype", NAME, "dtype of the loss"),
        column("param_names", pa.list_(pa.string()), "names of the parameter tensors, in the model's order"),
        column("initial_norms", pa.list_(pa.float64()), "L2 norm of each parameter tensor before the first step"),
        column("audit_error", pa.string(), "why there is no audit, null where there is one"),
        column("shared_error", pa.string(), "why the steps from the baseline device's states are missing, else null"),
        column("host", pa.string(), "name of the machine"),
        column("node", pa.string(), "node of the Ray cluster that it ran on, null where there is none"),
        column("node_id", pa.string(), "Ray's number of that node"),
        column("os", pa.string(), "operating system"),
        column("cpu_model", pa.string(), "model of the CPU"),
        column("cpu_isa", pa.string(), "instruction sets of the CPU that arithmetic libraries choose their code by"),
        column("cores", pa.int32(), "logical cores of the machine"),
        column("cpu_capability", pa.string(), "instruction set of ATen's kernels in use"),
        column("threads", pa.int32(), "threads of an operation"),
        column("blas", pa.string(), "library of the CPU's matrix products"),
        column("gpu_name", pa.string(), "model of the GPU, null on a CPU"),
        column("gpu_index", pa.int32(), "number of the GPU on its machine, null where it is not known"),
        column("gpu_uuid", pa.string(), "UUID of the GPU, null on a CPU"),
        column("gpu_driver", pa.string(), "version of the GPU's driver, null on a CPU"),
        column("cuda", pa.string(), "version of CUDA, null on a CPU"),
        column("cudnn", pa.string(), "version of cuDNN, null on a CPU"),
        column("python", pa.string(), "version of Python"),
        column("torch", pa.string(), "version of torch"),
        column("numpy", pa.string(), "version of NumPy"),
        column("parity", pa.string(), "version of parity"),
    ],
)


@dataclass(frozen=True)
class TrialRecord:
    """A row of trials.parquet; see `TRIALS` for what the fields mean.

    Attributes:
        run: Which run it is of, where several are judged together; is not stored.
    """

    trial: str
    task: str
    task_origin: str | None
    task_sha256: str | None
    loss_name: str
    loss_origin: str | None
    loss_sha256: str | None
    oracle: str
    device: str
    seed: int
    replica: int
    noise: int
    steps: int
    batches: int | None
    batch_size: int
    lr: float | None
    optimizer: str | None
    audit_every: int
    trace: str
    status: str = "planned"
    rows: int = 0
    failed_step: int | None = None
    failure: str | None = None
    error: str | None = None
    traceback: str | None = None
    attempts: int = 1
    restarts: list[str] = field(default_factory=list)
    wall_s: float | None = None
    began: datetime | None = None
    ended: datetime | None = None
    loss_dtype: str | None = None
    param_names: list[str] = field(default_factory=list)
    initial_norms: list[float] | None = None
    audit_error: str | None = None
    shared_error: str | None = None
    host: str | None = None
    node: str | None = None
    node_id: str | None = None
    os: str | None = None
    cpu_model: str | None = None
    cpu_isa: str | None = None
    cores: int | None = None
    cpu_capability: str | None = None
    threads: int | None = None
    blas: str | None = None
    gpu_name: str | None = None
    gpu_index: int | None = None
    gpu_uuid: str | None = None
    gpu_driver: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    python: str | None = None
    torch: str | None = None
    numpy: str | None = None
    parity: str | None = None
    run: str = ""

    @property
    def unit(self) -> str:
        """The device, and the run where there are several: what computes by itself."""
        return f"{self.device} ({self.run})" if self.run else self.device


def write_trials(directory: StoragePath, records: Sequence[TrialRecord]) -> None:
    """Writes trials.parquet."""
    rows = [vars(record) for record in records]  # `asdict` copies each value, and costs more than all else here
    write_table(directory / "trials.parquet", pa.Table.from_pylist(rows, schema=TRIALS))


# Facts that decide which code computes, and so the bits.
HARDWARE = ("cpu_model", "cpu_isa", "cpu_capability", "gpu_name")
SOFTWARE = ("python", "torch", "numpy", "parity", "blas", "gpu_driver", "cuda", "cudnn")
