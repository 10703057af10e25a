"""Reads a run back from its directory, and checks that it is complete and undamaged."""

import shlex
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from parity.ground.errors import Trouble
from parity.store import storage
from parity.store.evidence_rows import find_wrong_evidence
from parity.store.footer_probe import check_footers
from parity.store.found_runs import not_a_run
from parity.store.json_text import MOST_BYTES, parse_json
from parity.store.parquet import read_table, reading
from parity.store.run_info import find_wrong_value
from parity.store.schema import SCHEMA_NUMBER
from parity.store.seal import altered, sealed_files
from parity.store.statuses import run_state
from parity.store.storage import StoragePath
from parity.store.tables import EVIDENCE
from parity.store.traces import Traces
from parity.store.trial_rows import find_wrong_trial
from parity.store.trials import TRIALS, TrialRecord

# Tables added after the first release: older runs lack them, and are read with empty ones.
LATER_TABLES = frozenset({"step_errors"})


@dataclass(frozen=True)
class StoredRun:
    """A run as read from its directory.

    Attributes:
        directory: The run directory.
        info: The content of run.json.
        trials: The records of the trials, in the order of the plan.
        traces: The traces by trial name, each read when it is asked for; empty for a trial that stored no step.
        evidence: The tables of `tables.EVIDENCE`, by name.
        altered: Files that have changed since the run was sealed.
    """

    directory: StoragePath
    info: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    traces: Mapping[str, pa.Table]
    evidence: dict[str, pa.Table]
    altered: tuple[str, ...] = ()


def read_run(directory: StoragePath, *, own: bool = False) -> StoredRun:
    """Reads a run directory and checks that it is complete and undamaged.

    Args:
        directory: The run directory.
        own: Whether this process has just written its tables, whose footers then need no look by another process.

    Raises:
        Trouble: It is not a run directory, of another schema, or damaged; the message names the file.
    """
    info = read_info(directory)
    if run_state(info) == "running" and not storage.exists(directory / "trials.parquet"):
        raise Trouble(
            f"{directory} has no tables yet: its driver is still training, or was killed. What was trained is in its "
            f"journal; continue it with --resume {shlex.quote(str(directory))}."
        )
    digests = {} if own else check_footers(directory, sealed_files(info))
    path = directory / "trials.parquet"
    table = read_table(path, TRIALS)
    with reading(path):
        # Within `reading`, since a name that is not UTF-8 raises only when it becomes a `str`.
        trials = tuple(TrialRecord(**row) for row in table.to_pylist())
    if [record.trial for record in trials] != info.get("trials"):
        raise Trouble(f"{path} is damaged: its trials are not those of run.json.")
    if wrong := find_wrong_trial(trials):
        raise Trouble(f"{path} is damaged: {wrong}.")
    traces = Traces(directory, trials, sealed=sealed_files(info))
    traces.check_all()  # report damage before anything is judged
    names = {record.trial for record in trials}
    evidence = {name: _read_evidence(info, directory, name, names) for name in EVIDENCE}
    return StoredRun(
        directory, info, trials, traces, evidence, altered(info, directory, known=digests | traces.digests)
    )


def read_info(directory: StoragePath) -> dict[str, Any]:
    """Reads run.json.

    Raises:
        Trouble: It is not a run directory, of another schema, or damaged.
    """
    path = directory / "run.json"
    try:
        info = parse_json(storage.read(path, most_bytes=MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise not_a_run(directory) from error
    except (OSError, ValueError) as error:
        raise Trouble(f"{path} is damaged ({error}).") from error
    if not isinstance(info, dict) or "schema" not in info:
        raise Trouble(f"{path} was not written by parity: it has no schema number. Give the --out of a run.")
    if info["schema"] != SCHEMA_NUMBER:
        raise Trouble(
            f"{directory} has schema {info['schema']!r}, and this parity reads schema {SCHEMA_NUMBER}. "
            "Use the version of parity that wrote it."
        )
    if wrong := find_wrong_value(info):
        raise Trouble(f"{path} is damaged: {wrong}.")
    return info


def _read_evidence(info: Mapping[str, Any], directory: StoragePath, name: str, trials: Container[str]) -> pa.Table:
    """The table; empty if the run was completed before such tables existed."""
    path, schema = directory / f"{name}.parquet", EVIDENCE[name]
    # Only the list of files in a sealed run excuses a missing table; elsewhere a missing table is damage.
    sealed = info.get("files")
    if name in LATER_TABLES and isinstance(sealed, dict) and f"{name}.parquet" not in sealed:
        return schema.empty_table()
    table = read_table(path, schema)
    with reading(path):
        wrong = find_wrong_evidence(name, table, trials)
    if wrong:
        raise Trouble(f"{path} is damaged: {wrong}.")
    return table
