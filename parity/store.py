"""The run directory: written file by file, each one whole or not there; read back with every doubt spoken out.

run.json  trials.parquet  traces/*.parquet  shared_steps.parquet  contract.parquet  findings.parquet
differences.parquet  summary.json
"""

import contextlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parity.errors import Trouble
from parity.evidence import EVIDENCE
from parity.trace import SCHEMA, column

# Of the run directory's layout; a reader refuses any other.
SCHEMA_NUMBER = 1
# Of the traces that were read, so many rows stay in memory, some 600 bytes each.
KEPT_ROWS = 100_000

TRIALS = pa.schema(
    [
        column("trial", pa.string(), "name of the trial"),
        column("task", pa.string(), "name of the task"),
        column("task_origin", pa.string(), "file or module of the task, null for a shipped one"),
        column("task_sha256", pa.string(), "SHA-256 of the task's file, null where there is none"),
        column("loss_name", pa.string(), "name of the loss it trains with"),
        column("loss_origin", pa.string(), "file or module of the loss, null for a shipped one"),
        column("loss_sha256", pa.string(), "SHA-256 of the loss's file, null where there is none"),
        column("oracle", pa.string(), "name of the loss that the audit evaluates in float64"),
        column("device", pa.string(), "device it runs on"),
        column("seed", pa.int64(), "seed of the generators"),
        column("replica", pa.int32(), "0, or the number of the repeat"),
        column("noise", pa.int32(), "0, or the number of a baseline trial whose output gradient is randomly rounded"),
        column("steps", pa.int64(), "optimizer steps that were planned"),
        column("batches", pa.int64(), "batches of an epoch"),
        column("batch_size", pa.int64(), "rows of a batch"),
        column("lr", pa.float64(), "learning rate"),
        column("audit_every", pa.int64(), "the audit takes the steps that this divides; 0 is never"),
        column("trace", pa.string(), "file of the trace, in traces/"),
        column("status", pa.string(), "planned, complete, failed or interrupted"),
        column("failed_step", pa.int64(), "the step that failed, null where it is not known"),
        column("failure", pa.string(), "raised, result, detached, mutates, died or node; null where it did not fail"),
        column("error", pa.string(), "why it failed"),
        column("traceback", pa.string(), "of the user's code that raised"),
        column("attempts", pa.int32(), "workers that began it"),
        column("wall_s", pa.float64(), "from the loading of the loss to the end", unit="s"),
        column("began", pa.timestamp("us", tz="UTC"), "when the first step began"),
        column("ended", pa.timestamp("us", tz="UTC"), "when the last step ended"),
        column("loss_dtype", pa.string(), "dtype of the loss"),
        column("param_names", pa.list_(pa.string()), "names of the parameter tensors, in the model's order"),
        column("audit_error", pa.string(), "why there is no audit"),
        column("shared_error", pa.string(), "why the steps from the baseline device's states are missing"),
        column("host", pa.string(), "name of the machine"),
        column("node", pa.string(), "node of the Ray cluster that it ran on, null where there is none"),
        column("node_id", pa.string(), "Ray's number of that node"),
        column("os", pa.string(), "operating system"),
        column("cpu_model", pa.string(), "CPU"),
        column("cpu_isa", pa.string(), "instruction sets of the CPU that arithmetic libraries choose their code by"),
        column("cores", pa.int32(), "logical cores of the machine"),
        column("cpu_capability", pa.string(), "instruction set of ATen's kernels in use"),
        column("threads", pa.int32(), "threads of an operation"),
        column("blas", pa.string(), "library of the CPU's matrix products"),
        column("gpu_name", pa.string(), "GPU"),
        column("gpu_index", pa.int32(), "number of the GPU on its machine, null where it is not known"),
        column("gpu_uuid", pa.string(), "UUID of the GPU"),
        column("gpu_driver", pa.string(), "version of the GPU's driver"),
        column("cuda", pa.string(), "version of CUDA"),
        column("cudnn", pa.string(), "version of cuDNN"),
        column("python", pa.string(), "version of Python"),
        column("torch", pa.string(), "version of torch"),
        column("numpy", pa.string(), "version of NumPy"),
        column("parity", pa.string(), "version of parity"),
    ]
)


@dataclass(frozen=True)
class TrialRecord:
    """A row of trials.parquet; see `TRIALS` for what the fields mean."""

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
    batches: int
    batch_size: int
    lr: float
    audit_every: int
    trace: str
    status: str = "planned"
    failed_step: int | None = None
    failure: str | None = None
    error: str | None = None
    traceback: str | None = None
    attempts: int = 1
    wall_s: float | None = None
    began: datetime | None = None
    ended: datetime | None = None
    loss_dtype: str | None = None
    param_names: list[str] = field(default_factory=list)
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


@dataclass(frozen=True)
class StoredRun:
    """A run as it was read back.

    Attributes:
        directory: Where it is.
        info: Of run.json.
        trials: In the order of the plan.
        traces: By trial name, read when they are asked for; of a trial that stored none, an empty table.
        evidence: The tables of `evidence.EVIDENCE`, by name.
    """

    directory: Path
    info: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    traces: Mapping[str, pa.Table]
    evidence: dict[str, pa.Table]


class Traces(Mapping[str, pa.Table]):
    """The traces of a run by trial name, read from storage when they are asked for; the last few stay in memory."""

    def __init__(self, directory: Path, trials: Sequence[TrialRecord]) -> None:
        self._directory = directory
        self._records = {record.trial: record for record in trials}
        self._kept: OrderedDict[str, pa.Table] = OrderedDict()
        self._kept_rows = 0

    def __getitem__(self, trial: str) -> pa.Table:
        if trial in self._kept:
            self._kept.move_to_end(trial)
            return self._kept[trial]
        table = self._kept[trial] = _read_trace(self._directory, self._records[trial])
        self._kept_rows += len(table)
        while len(self._kept) > 1 and self._kept_rows > KEPT_ROWS:
            self._kept_rows -= len(self._kept.popitem(last=False)[1])
        return table

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def create(out: Path) -> None:
    """Makes the run directory.

    Raises:
        Trouble: It is there already, or cannot be made.
    """
    if (out / "run.json").exists():
        raise Trouble(f"{out} already holds a run. Choose another --out.")
    try:
        out.mkdir(parents=True)
        (out / "traces").mkdir()
    except FileExistsError as error:
        raise Trouble(f"{out} already exists. Choose another --out, a new directory.") from error
    except OSError as error:
        raise Trouble(
            f"--out {out} cannot be made ({error.strerror}). Choose a folder that you can write to."
        ) from error


def discard(out: Path) -> None:
    """Removes a run directory into which nothing was written."""
    (out / "traces").rmdir()
    out.rmdir()


def trace_file(index: int, trial: str) -> str:
    """Name of a trial's file in traces/; unique by its number, readable by its name."""
    return f"{index:04d}-{re.sub(r'[^A-Za-z0-9@.-]', '_', trial)}.parquet"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes strict JSON, whole or not at all; replaces what was there.

    Raises:
        ValueError: A number is not finite.
        Trouble: It cannot be written.
    """
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    _write(path, text.encode())


def write_table(path: Path, table: pa.Table) -> None:
    """Writes Parquet with a checksum for each page, whole or not at all; replaces what was there.

    Raises:
        Trouble: It cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    _write(path, sink.getvalue())


class TraceWriter:
    """A trace on its way to its file: each chunk is written as it comes, and the file has its name once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = _beside(path)
        self._writer: pq.ParquetWriter | None = None

    def append(self, chunk: pa.Table) -> None:
        """Writes a chunk behind the others.

        Raises:
            Trouble: It cannot be written.
        """
        with _told(self._path):
            if self._writer is None:
                self._writer = pq.ParquetWriter(
                    self._beside, chunk.schema, compression="zstd", write_page_checksum=True
                )
            self._writer.write_table(chunk)

    def close(self) -> None:
        """Makes the file whole, and gives it its name.

        Raises:
            Trouble: It cannot be written.
        """
        with _told(self._path):
            assert self._writer is not None, "a trace without a chunk has no file"
            self._writer.close()
            with self._beside.open("rb") as file:
                os.fsync(file.fileno())
            self._beside.replace(self._path)

    def discard(self) -> None:
        """Throws away what was written."""
        with _told(self._path):
            if self._writer is not None:
                self._writer.close()
                self._beside.unlink()


def write_trials(directory: Path, records: Sequence[TrialRecord]) -> None:
    """Writes trials.parquet."""
    rows = [vars(record) for record in records]  # `asdict` copies each value, and costs more than all else here
    write_table(directory / "trials.parquet", pa.Table.from_pylist(rows, schema=TRIALS))


def read_run(directory: Path) -> StoredRun:
    """Reads a run directory and checks that it is whole.

    Raises:
        Trouble: It is no run directory, of another schema, or damaged; the message names the file.
    """
    info = _read_info(directory)
    table = _read_table(directory / "trials.parquet", TRIALS)
    trials = tuple(TrialRecord(**row) for row in table.to_pylist())
    if [record.trial for record in trials] != info.get("trials"):
        raise Trouble(f"{directory / 'trials.parquet'} is damaged: its trials are not those of run.json.")
    traces = Traces(directory, trials)
    for record in trials:  # damage is to be told before anything is judged
        traces[record.trial]
    evidence = {name: _read_table(directory / f"{name}.parquet", schema) for name, schema in EVIDENCE.items()}
    return StoredRun(directory, info, trials, traces, evidence)


def _read_info(directory: Path) -> dict[str, Any]:
    path = directory / "run.json"
    try:
        info = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Trouble(f"{directory} is no run directory: it has no run.json. Give the --out of a run.") from error
    except (OSError, ValueError) as error:
        raise Trouble(f"{path} is damaged ({error}).") from error
    if not isinstance(info, dict) or "schema" not in info:
        raise Trouble(f"{path} is not of parity: it has no schema number. Give the --out of a run.")
    if info["schema"] != SCHEMA_NUMBER:
        raise Trouble(
            f"{directory} has schema {info['schema']!r}, and this parity reads schema {SCHEMA_NUMBER}. "
            "Use the version of parity that wrote it."
        )
    return info


def _read_trace(directory: Path, record: TrialRecord) -> pa.Table:
    path = directory / "traces" / record.trace
    if not path.exists() and record.status != "complete":  # of an interrupted run the records may lag behind
        return SCHEMA.empty_table()
    table = _read_table(path, SCHEMA)
    if table["step"].to_pylist() != list(range(len(table))):
        raise Trouble(f"{path} is damaged: its steps are not 0 to {len(table) - 1} in order.")
    if set(table["trial"].to_pylist()) - {record.trial}:
        raise Trouble(f"{path} is damaged: it holds rows of other trials than {record.trial}.")
    if record.status == "complete" and len(table) != record.steps:
        raise Trouble(f"{path} is damaged: it has {len(table)} of {record.steps} rows.")
    return table


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
    except FileNotFoundError as error:
        raise Trouble(f"{path} is missing: the run directory is damaged.") from error
    except (OSError, pa.ArrowException) as error:
        raise Trouble(f"{path} is damaged ({str(error).splitlines()[0]}).") from error
    try:  # what pandas writes back has the same values in types of its own
        return table if table.schema.equals(schema) else table.cast(schema)
    except (ValueError, pa.ArrowException) as error:
        raise Trouble(f"{path} is damaged: its columns are not those of schema {SCHEMA_NUMBER}.") from error


def _write(path: Path, content: bytes | pa.Buffer) -> None:
    beside = _beside(path)
    with _told(path):
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Trouble(
            f"{path} cannot be written ({error.strerror or error}). What was written before is kept."
        ) from error
