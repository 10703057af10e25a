"""The run directory, local or on an object store: each file whole or not there; read back with every doubt spoken out.

run.json  trials.parquet  traces/*.parquet  shared_steps.parquet  step_errors.parquet  contract.parquet
findings.parquet  replays.parquet  differences.parquet  summary.json  report.html
"""

import contextlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from parity import storage
from parity.errors import Trouble
from parity.evidence import EVIDENCE
from parity.journal import frame, unframe
from parity.lease import lease
from parity.seal import altered, seal
from parity.storage import StoragePath, name_beside
from parity.trace import NAME, SCHEMA, column, describe_table
from parity.trace import SCHEMA_NUMBER as SCHEMA_NUMBER

# What a driver holds a run by.
LOCK = "lock"
# Of the traces that were read, so many rows stay in memory, some 600 bytes each; of longer ones, so much of columns.
KEPT_ROWS = 100_000
KEPT_BYTES = 256 * 2**20
# Columns that runs stored before them lack; there they are null.
LATER_COLUMNS = frozenset({"step_grad_norm", "optimizer", "initial_norms"})
LATER_TABLES = frozenset({"step_errors"})
# Of a run, however many trials it has.
MOST_TRACE_FILES = 16
# Of a trial's name in that of a file, whose length file systems limit.
MOST_LETTERS = 150

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


@dataclass(frozen=True)
class StoredRun:
    """A run as it was read back.

    Attributes:
        directory: Where it is.
        info: Of run.json.
        trials: In the order of the plan.
        traces: By trial name, read when they are asked for; of a trial that stored none, an empty table.
        evidence: The tables of `evidence.EVIDENCE`, by name.
        altered: Files that are not what they were when the run was complete.
    """

    directory: StoragePath
    info: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    traces: Mapping[str, pa.Table]
    evidence: dict[str, pa.Table]
    altered: tuple[str, ...] = ()


class Traces(Mapping[str, pa.Table]):
    """The traces of a run by trial name, read from storage when they are asked for; the last few stay in memory.

    Of a trace of more than `KEPT_ROWS` ask for columns, by `read_columns`: all of it may not fit into memory.
    """

    def __init__(self, directory: StoragePath, trials: Sequence[TrialRecord]) -> None:
        self._directory = directory
        self._records = {record.trial: record for record in trials}
        self._sharing: dict[str, set[str]] = {}
        for record in trials:
            self._sharing.setdefault(record.trace, set()).add(record.trial)
        self._kept: OrderedDict[str, pa.Table] = OrderedDict()
        self._kept_rows = 0
        self._columns: OrderedDict[tuple[str, str], pa.ChunkedArray] = OrderedDict()
        self._open: dict[StoragePath, pq.ParquetFile] = {}

    def __getitem__(self, trial: str) -> pa.Table:
        if trial in self._kept:
            self._kept.move_to_end(trial)
            return self._kept[trial]
        parts = list(self._parts(self._records[trial], SCHEMA.names))
        table = self._kept[trial] = pa.concat_tables([SCHEMA.empty_table(), *parts]).combine_chunks()
        self._kept_rows += len(table)
        while len(self._kept) > 1 and self._kept_rows > KEPT_ROWS:
            self._kept_rows -= len(self._kept.popitem(last=False)[1])
        return table

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def column(self, trial: str, name: str) -> pa.ChunkedArray:
        """A column of a trace.

        Raises:
            Trouble: The trace is damaged.
        """
        if self._records[trial].rows <= KEPT_ROWS:
            return self[trial][name]
        key = (trial, name)
        if key not in self._columns:
            parts = list(self._parts(self._records[trial], [name]))
            self._columns[key] = pa.concat_tables(parts)[name]
            while len(self._columns) > 1 and sum(kept.nbytes for kept in self._columns.values()) > KEPT_BYTES:
                self._columns.popitem(last=False)
        self._columns.move_to_end(key)
        return self._columns[key]

    def check(self, trial: str) -> None:
        """Reads all of a trace once.

        Raises:
            Trouble: It is damaged.
        """
        if self._records[trial].rows <= KEPT_ROWS:
            self[trial]
        else:
            for _ in self._parts(self._records[trial], SCHEMA.names):
                pass

    def _parts(self, record: TrialRecord, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a trace, a row group after the other.

        Raises:
            Trouble: It is damaged; it is not whole where the step is among the columns.
        """
        path = self._directory / "traces" / record.trace
        if not record.rows and not storage.exists(path):
            return
        file = self._open.get(path) or self._open.setdefault(path, _open_parquet(path))
        alone = len(self._sharing[record.trace]) == 1
        wanted = list(dict.fromkeys(["trial", *names]))
        rows = 0
        for group in range(file.num_row_groups) if alone else _row_groups(file, record.trial):
            with _read(path):
                read = file.read_row_group(group, columns=wanted)
            table = _cast(path, read, pa.schema([SCHEMA.field(name) for name in wanted], SCHEMA.metadata))
            if set(table["trial"].unique().to_pylist()) - self._sharing[record.trace]:
                raise Trouble(f"{path} is damaged: it holds rows of other trials than {record.trial}.")
            if not alone:
                table = table.filter(pc.equal(table["trial"], record.trial))
            if "step" in names and table["step"].to_pylist() != list(range(rows, rows + len(table))):
                raise Trouble(f"{path} is damaged: its steps are not 0, 1, 2 and so on.")
            rows += len(table)
            yield table.select(names)
        if rows != record.rows:
            raise Trouble(f"{path} is damaged: it has {rows} of {record.rows} rows.")


def read_columns(traces: Mapping[str, pa.Table], trial: str, names: Sequence[str]) -> pa.Table:
    """Some columns of a trial's trace.

    Raises:
        Trouble: The trace is damaged.
    """
    if isinstance(traces, Traces):
        return pa.table({name: traces.column(trial, name) for name in names})
    return traces[trial].select(names)


def create(out: StoragePath) -> None:
    """Makes the run directory.

    Raises:
        Trouble: It is there already, or cannot be made.
    """
    try:
        if storage.exists(out / "run.json", patience_s=storage.FIRST_PATIENCE_S):
            raise Trouble(f"{out} already holds a run. Choose another --out, or go on with it by --resume {out}.")
        if isinstance(out, Path):
            out.mkdir(parents=True)
            (out / "traces").mkdir()
        elif set(storage.names(out, patience_s=storage.FIRST_PATIENCE_S)) - {LOCK}:
            raise FileExistsError
    except FileExistsError as error:
        if isinstance(out, Path) and out.is_dir() and _left_before_planned(out):
            return
        raise Trouble(f"{out} already exists. Choose another --out, a new directory.") from error
    except OSError as error:
        raise Trouble(
            f"--out {out} cannot be made ({error.strerror or error}). Choose a folder that you can write to."
        ) from error


def _left_before_planned(out: Path) -> bool:
    """Whether a driver was killed here before it had written what the run is."""
    names = {path.name for path in out.iterdir()}
    planned = {"traces", LOCK, name_beside(out / "run.json").name}
    return "traces" in names and names <= planned and not any((out / "traces").iterdir())


@contextlib.contextmanager
def hold(directory: StoragePath) -> Iterator[None]:
    """Keeps other drivers off a run directory, until the block or the process ends, however it does.

    Raises:
        Trouble: Another driver holds it, or it cannot be written to.
    """
    path = directory / LOCK
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_lock(path) if isinstance(path, Path) else lease(path))
        except Timeout as error:
            raise Trouble(f"{directory} is in use by another driver. Wait until that has ended, or end it.") from error
        except OSError as error:
            raise Trouble(f"{path} cannot be written ({error.strerror or error}).") from error
        yield


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    lock.acquire(timeout=0)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def discard(out: StoragePath) -> None:
    """Removes a run directory into which nothing was written."""
    storage.remove(out / LOCK)
    if isinstance(out, Path):
        name_beside(out / "run.json").unlink(missing_ok=True)
        (out / "traces").rmdir()
        out.rmdir()


def trace_file(index: int, trials: Sequence[str]) -> str:
    """Name of a trial's file in traces/; unique by the number of the first trial in it, readable by that one's name.

    Args:
        index: Of the trial.
        trials: Names of all; of many, several share a file.
    """
    share = -(-len(trials) // MOST_TRACE_FILES)
    first = index // share * share
    readable = re.sub(r"[^A-Za-z0-9@.-]", "_", trials[first])[:MOST_LETTERS]
    return f"{first:04d}-{readable}.parquet"


def write_json(path: StoragePath, content: Mapping[str, Any]) -> None:
    """Writes strict JSON, whole or not at all; replaces what was there.

    Raises:
        ValueError: A number is not finite.
        Trouble: It cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: StoragePath, text: str) -> None:
    """Writes text in UTF-8, whole or not at all; replaces what was there.

    Raises:
        Trouble: It cannot be written.
    """
    _write(path, text.encode())


def complete(directory: StoragePath, info: Mapping[str, Any]) -> None:
    """Notes in run.json that all is trained and stored, and what the files are.

    Raises:
        Trouble: It cannot be written.
    """
    write_json(directory / "run.json", seal({**info, "state": "complete"}, directory))


def write_table(path: StoragePath, table: pa.Table) -> None:
    """Writes Parquet with a checksum for each page, whole or not at all; replaces what was there.

    Raises:
        Trouble: It cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    _write(path, sink.getvalue())


def write_tables(path: StoragePath, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Writes the rows of several tables as `write_table` does, holding one of them at a time.

    Raises:
        Trouble: It cannot be written.
    """
    with (
        _told(path),
        storage.written_beside(path) as beside,
        pq.ParquetWriter(beside, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in tables:
            writer.write_table(table)


class TraceWriter:
    """Traces on their way to a file: each row group is written as it comes, the file has its name once it is whole."""

    def __init__(self, path: StoragePath) -> None:
        self._path = path
        self._placing = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def append(self, chunk: pa.Table) -> None:
        """Writes some rows of one trial behind the others.

        Raises:
            Trouble: It cannot be written.
        """
        with _told(self._path):
            if self._writer is None:
                beside = self._placing.enter_context(storage.written_beside(self._path))
                self._writer = pq.ParquetWriter(beside, SCHEMA, compression="zstd", write_page_checksum=True)
            self._writer.write_table(chunk)

    def close(self) -> None:
        """Makes the file whole, and gives it its name.

        Raises:
            Trouble: It cannot be written.
        """
        with _told(self._path), self._placing:
            assert self._writer is not None, "a trace without a chunk has no file"
            self._writer.close()


def write_state(directory: StoragePath, index: int, step: int, state: bytes) -> None:
    """Writes the state of a trial before a step, whole or not at all.

    Args:
        directory: Of the run.
        index: Of the trial in the plan.
        step: That it stands before.
        state: As `saved_state.pack` gives it.

    Raises:
        Trouble: It cannot be written.
    """
    path = _state_path(directory, index, step)
    if isinstance(path, Path):
        with _told(path):
            path.parent.mkdir(exist_ok=True)
    _write(path, frame(state))


def read_state(directory: StoragePath, index: int, step: int) -> bytes:
    """Reads what `write_state` wrote.

    Raises:
        Trouble: It is missing or damaged.
    """
    path = _state_path(directory, index, step)
    try:
        with storage.on_disk(path) as copy, copy.open("rb") as file:
            state = unframe(file)
            whole = not file.read(1)
    except FileNotFoundError as error:
        raise Trouble(f"{path} is missing.") from error
    except OSError as error:
        raise Trouble(f"{path} cannot be read ({error}).") from error
    if state is None or not whole:
        raise Trouble(f"{path} is damaged.")
    return state


def remove_state(directory: StoragePath, index: int, step: int) -> None:
    """Removes what `write_state` wrote.

    Raises:
        Trouble: It cannot be removed.
    """
    path = _state_path(directory, index, step)
    with _told(path):
        storage.remove(path)


def _state_path(directory: StoragePath, index: int, step: int) -> StoragePath:
    return directory / "states" / f"{index:04d}-{step}.state"


def write_trials(directory: StoragePath, records: Sequence[TrialRecord]) -> None:
    """Writes trials.parquet."""
    rows = [vars(record) for record in records]  # `asdict` copies each value, and costs more than all else here
    write_table(directory / "trials.parquet", pa.Table.from_pylist(rows, schema=TRIALS))


def read_run(directory: StoragePath) -> StoredRun:
    """Reads a run directory and checks that it is whole.

    Raises:
        Trouble: It is no run directory, of another schema, or damaged; the message names the file.
    """
    info = read_info(directory)
    if info.get("state") == "running" and not storage.exists(directory / "trials.parquet"):
        raise Trouble(
            f"{directory} has no tables yet: its driver trains, or was killed. What the trials told is in its journal; "
            f"go on with it by --resume {directory}."
        )
    path = directory / "trials.parquet"
    table = _read_table(path, TRIALS)
    with _read(path):
        trials = tuple(TrialRecord(**row) for row in table.to_pylist())
    if [record.trial for record in trials] != info.get("trials"):
        raise Trouble(f"{directory / 'trials.parquet'} is damaged: its trials are not those of run.json.")
    traces = Traces(directory, trials)
    for record in trials:  # damage is to be told before anything is judged
        traces.check(record.trial)
    evidence = {name: _read_evidence(info, directory, name, schema) for name, schema in EVIDENCE.items()}
    return StoredRun(directory, info, trials, traces, evidence, altered(info, directory))


def read_info(directory: StoragePath) -> dict[str, Any]:
    """Reads run.json.

    Raises:
        Trouble: It is no run directory, of another schema, or damaged.
    """
    path = directory / "run.json"
    try:
        info = json.loads(storage.read(path))
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


def _row_groups(file: pq.ParquetFile, trial: str) -> list[int]:
    """Those that may hold rows of a trial."""
    column = file.schema_arrow.get_field_index("trial")
    found = []
    for number in range(file.num_row_groups):
        statistics = file.metadata.row_group(number).column(column).statistics
        if not statistics or not statistics.has_min_max or statistics.min <= trial <= statistics.max:
            found.append(number)
    return found


def _open_parquet(path: StoragePath) -> pq.ParquetFile:
    with _read(path), storage.on_disk(path) as copy:
        return pq.ParquetFile(copy, page_checksum_verification=True)


def _read_evidence(info: Mapping[str, Any], directory: StoragePath, name: str, schema: pa.Schema) -> pa.Table:
    """The table; empty where the run was complete before there were tables of that name."""
    sealed = info.get("files")
    if name in LATER_TABLES and isinstance(sealed, dict) and f"{name}.parquet" not in sealed:
        return schema.empty_table()
    return _read_table(directory / f"{name}.parquet", schema)


def _read_table(path: StoragePath, schema: pa.Schema) -> pa.Table:
    with _read(path), _open_parquet(path) as file:
        return _cast(path, file.read(), schema)


@contextlib.contextmanager
def _read(path: StoragePath) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Trouble(f"{path} is missing: the run directory is damaged.") from error
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:  # names that are no UTF-8 are a ValueError
        raise Trouble(f"{path} is damaged ({(str(error).splitlines() or [type(error).__name__])[0]}).") from error


def _cast(path: StoragePath, table: pa.Table, schema: pa.Schema) -> pa.Table:
    missing = {*schema.names} - {*table.column_names}
    if missing <= LATER_COLUMNS and len(table.column_names) + len(missing) == len(schema):
        for name in (name for name in schema.names if name in missing):
            place = schema.get_field_index(name)
            table = table.add_column(place, schema.field(name), pa.nulls(len(table), schema.field(name).type))
    try:  # what pandas writes back has the same values in types of its own
        return table if table.schema.equals(schema) else table.cast(schema)
    except (ValueError, pa.ArrowException) as error:
        raise Trouble(f"{path} is damaged: its columns are not those of schema {SCHEMA_NUMBER}.") from error


def _write(path: StoragePath, content: bytes | pa.Buffer) -> None:
    with _told(path):
        storage.write_whole(path, content)


@contextlib.contextmanager
def _told(path: StoragePath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Trouble(
            f"{path} cannot be written ({error.strerror or error}). What was written before is kept."
        ) from error
