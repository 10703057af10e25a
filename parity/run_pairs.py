"""Several stored runs as one, for `python -m parity.report A B`: A is the baseline of all others.

Each trial of a later run is paired with the trial of the first that has its loss, device, seed, replica and rank. Where
a run has none, it may be another loss, device or seed that takes the place, if there is just one that can be meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from parity import storage
from parity.errors import Trouble
from parity.evidence import EVIDENCE, SHARED_STEPS
from parity.fleet import SOFTWARE
from parity.pairs import Between, Pair
from parity.storage import StoragePath
from parity.store import StoredRun, Traces, TrialRecord, read_columns, read_run

# Facts of the hardware: what differs here does not owe the same bits.
HARDWARE = ("cpu_model", "cpu_isa", "gpu_name")
# Norms in float64 that are further apart (relative) are not of the same step: initial parameters that differ in their
# last bits move them by some 1e-7.
SAME_FUNCTION = 1e-5
# Initial parameters whose norms are further apart (relative) are not the same ones rounded otherwise.
SAME_NORMS = 1e-6
RANK = "rank-"
# Step, quantity and tensor of a row of step_errors.parquet, and the rows by these.
_Place = tuple[int, str, str | None]
_Errors = Mapping[_Place, Mapping[str, Any]]


@dataclass(frozen=True)
class Joined:
    """Several runs as one.

    Attributes:
        run: The trials that are in pairs, each named after its run; traces and evidence under these names.
        pairs: The first run's trials are the baselines.
    """

    run: StoredRun
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class _Side:
    """A run, or a rank of one.

    Attributes:
        run: With its trials named after it.
        errors: Of the steps that it held against float64: by trial, then by step, quantity and tensor.
    """

    run: StoredRun
    errors: Mapping[str, _Errors]

    @classmethod
    def of(cls, run: StoredRun, name: str) -> _Side:
        """The side of a run that is called so."""
        named = _named(run, name)
        errors: dict[str, dict[_Place, dict[str, Any]]] = {}
        for row in named.evidence["step_errors"].to_pylist():
            errors.setdefault(row["trial"], {})[row["step"], row["quantity"], row["tensor"]] = row
        return cls(named, errors)


def read_ranks(directory: StoragePath) -> dict[str, StoredRun]:
    """The run in a directory under "", or those of its ranks under "rank-0" and so on.

    Raises:
        Trouble: There is none, or one is damaged.
    """
    if not storage.exists(directory / "run.json"):
        inside = [path.name for path in directory.glob(f"{RANK}*")] if directory.is_dir() else []
        if inside:
            return {name: read_run(directory / name) for name in sorted(inside, key=lambda name: (len(name), name))}
    return {"": read_run(directory)}


def join(directories: Sequence[StoragePath], *, across: bool) -> Joined:
    """Reads several runs and pairs their trials.

    Args:
        directories: The baseline's first.
        across: Whether to compare different hardware.

    Raises:
        Trouble: One is no run, or damaged; two have no trials that could be held against each other; the hardware is
            not the same, and `across` was not asked for.
    """
    labels = label(directories)
    runs = [
        {rank: _Side.of(run, f"{name}/{rank}" if rank else name) for rank, run in read_ranks(directory).items()}
        for name, directory in zip(labels, directories, strict=True)
    ]
    pairs: list[Pair] = []
    notes: list[str] = []
    steps: list[pa.Table] = []
    for name, later in zip(labels[1:], runs[1:], strict=True):
        compared = [
            _pair(earlier, here, *found)
            for rank, here in later.items()
            if (earlier := runs[0].get(rank))
            for found in _match(earlier.run.trials, here.run.trials)
        ]
        if not compared:
            raise Trouble(_nothing(labels[0], runs[0], name, later))
        if not across:
            _check_hardware(compared)
        errors = {trial: found for side in (*runs[0].values(), *later.values()) for trial, found in side.errors.items()}
        steps += [_common_steps(errors, pair) for pair in compared if pair.between and not pair.between.apart]
        notes += dict.fromkeys(_told(pair) for pair in compared)
        notes += _left_out(labels[0], runs[0], name, later, compared)
        pairs += compared
    return Joined(_joined(directories, labels, runs, pairs, steps, notes), tuple(pairs))


def label(directories: Sequence[StoragePath]) -> list[str]:
    """What the runs are called: the last parts of their paths, as many as it takes to tell them apart."""
    parts = [[part for part in str(directory).replace("\\", "/").split("/") if part] for directory in directories]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name}#{number}" for number, name in enumerate(names, start=1)]


def _named(run: StoredRun, name: str) -> StoredRun:
    """The run with its trials named after it."""
    trials = tuple(replace(record, trial=f"{name}/{record.trial}", run=name) for record in run.trials)
    originals = {new.trial: old.trial for new, old in zip(trials, run.trials, strict=True)}
    evidence = {}
    for kind, table in run.evidence.items():
        renamed = pa.array([f"{name}/{trial}" for trial in table["trial"].to_pylist()], pa.string())
        field = table.schema.field("trial")
        evidence[kind] = table.set_column(table.column_names.index("trial"), field, renamed.cast(field.type))
    return replace(run, trials=trials, traces=_Renamed(run.traces, originals), evidence=evidence)


class _Renamed(Traces):
    """Traces under other names."""

    def __init__(self, traces: Mapping[str, pa.Table], originals: Mapping[str, str]) -> None:
        self._found = {new: (traces, old) for new, old in originals.items()}

    @classmethod
    def together(cls, several: Sequence[Mapping[str, pa.Table]]) -> _Renamed:
        """The traces of several runs, whose names are all different."""
        joined = cls({}, {})
        joined._found = {trial: (traces, trial) for traces in several for trial in traces}
        return joined

    def __getitem__(self, trial: str) -> pa.Table:
        traces, name = self._found[trial]
        return traces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def column(self, trial: str, name: str) -> pa.ChunkedArray:
        traces, original = self._found[trial]
        return read_columns(traces, original, [name])[name]


def _joined(
    directories: Sequence[StoragePath],
    labels: Sequence[str],
    runs: Sequence[Mapping[str, _Side]],
    pairs: Sequence[Pair],
    steps: Sequence[pa.Table],
    notes: Sequence[str],
) -> StoredRun:
    each = [side.run for ranks in runs for side in ranks.values()]
    wanted = {record.trial for pair in pairs for record in (pair.baseline, pair.candidate)}
    if not pairs:
        wanted = {record.trial for run in each for record in run.trials}
    evidence = {kind: pa.concat_tables([run.evidence[kind] for run in each]).unify_dictionaries() for kind in EVIDENCE}
    evidence["shared_steps"] = pa.concat_tables([SHARED_STEPS.empty_table(), *steps])
    # Its own run holds a loss to its contract; here it says something only where the loss is what differs.
    held = {pair.candidate.trial for pair in pairs if pair.axis == "loss"}
    evidence = {kind: _of(table, held if kind == "contract" else wanted) for kind, table in evidence.items()}
    info: dict[str, Any] = {
        "task": " and ".join(dict.fromkeys(str(run.info.get("task")) for run in each)),
        "command": f"python -m parity.report {' '.join(map(str, directories))}",
        "created": max((str(run.info.get("created") or "") for run in each), default=None),
        "folder": None,
        "versions": {},
        "quick": any(run.info.get("quick") for run in each),
        "runs": list(labels),
        "notes": list(notes),
    }
    return StoredRun(
        directories[-1],
        info,
        tuple(record for run in each for record in run.trials if record.trial in wanted),
        _Renamed.together([run.traces for run in each]),
        evidence,
        tuple(f"{run.directory}/{name}" for run in each for name in run.altered),
    )


def _of(table: pa.Table, trials: Container[str]) -> pa.Table:
    """The rows of some trials."""
    return table.filter(pa.array([trial in trials for trial in table["trial"].to_pylist()], pa.bool_()))


def _match(earlier: Sequence[TrialRecord], later: Sequence[TrialRecord]) -> list[tuple[TrialRecord, TrialRecord]]:
    """Baselines and candidates that belong together, in the order of the candidates."""
    free = {_key(record): record for record in earlier if not record.noise}
    found: dict[str, tuple[TrialRecord, TrialRecord]] = {}
    waiting = []
    for record in later:
        if record.noise:
            continue
        if baseline := free.pop(_key(record), None):
            found[record.trial] = (baseline, record)
        else:
            waiting.append(record)
    # What is left may have another device, loss or seed: where one of each is left, they are meant.
    for name in ("device", "loss_name", "seed"):
        ones, others = ({getattr(record, name) for record in side} for side in (free.values(), waiting))
        if len(ones) == len(others) == 1:
            (one,) = ones
            for record in [*waiting]:
                if baseline := free.pop(_key(replace(record, **{name: one})), None):
                    found[record.trial] = (baseline, record)
                    waiting.remove(record)
    if len(free) == len(waiting) == 1 and not found:
        found[waiting[0].trial] = (free.popitem()[1], waiting[0])
    return [found[record.trial] for record in later if record.trial in found]


def _key(record: TrialRecord) -> tuple[str, str, int, int]:
    return record.loss_name, record.device, record.seed, record.replica


def _pair(earlier: _Side, later: _Side, baseline: TrialRecord, candidate: TrialRecord) -> Pair:
    recorded = any(side.run.info.get("recorded") for side in (earlier, later))
    code = [
        name
        for name, found in (
            ("task", ("task", "task_sha256")),
            ("loss", ("loss_name", "loss_sha256")),
            ("device", ("device",)),
            ("seed", ("seed",)),
            ("replica", ("replica",)),
            ("batch size", ("batch_size",)),
        )
        if any(getattr(baseline, each) != getattr(candidate, each) for each in found)
        and not (recorded and name == "task")
    ]
    code += ["data"] if _differ(*(side.run.info.get("data_xxh3") for side in (earlier, later))) else []
    code += ["lr"] if _differ(baseline.lr, candidate.lr) else []
    code += ["optimizer"] if "lr" not in code and _optimizers_differ(baseline, candidate) else []
    hardware = [name for name in HARDWARE if _differ(getattr(baseline, name), getattr(candidate, name))]
    kernels = [] if "device" in code or hardware else ["cpu_capability"]
    software = [name for name in (*SOFTWARE, *kernels) if _differ(getattr(baseline, name), getattr(candidate, name))]
    found = [*code, *hardware, *software]
    between = Between(
        differ=tuple((name, *_values(name, earlier, later, baseline, candidate)) for name in found),
        owed=not found and not recorded,
        same_machine="device" not in code and not hardware and not software,
        apart=_apart(earlier, later, baseline, candidate, [name for name in code if name != "device"]),
    )
    return Pair(", ".join(found) or "run", baseline, candidate, between)


def _values(name: str, earlier: _Side, later: _Side, baseline: TrialRecord, candidate: TrialRecord) -> tuple[str, str]:
    """What the two have there, in words."""
    if name == "data":
        left, right = (str(side.run.info.get("data_xxh3"))[:12] for side in (earlier, later))
    elif name in ("task", "loss"):
        field = "task" if name == "task" else "loss_name"
        left, right = (
            f"{getattr(record, field)}{f' {sha[:12]}' if (sha := getattr(record, f'{name}_sha256')) else ''}"
            for record in (baseline, candidate)
        )
    else:
        left, right = (str(getattr(record, name.replace(" ", "_"))) for record in (baseline, candidate))
    return left, right


def _apart(
    earlier: _Side,
    later: _Side,
    baseline: TrialRecord,
    candidate: TrialRecord,
    settings: Sequence[str],
) -> str | None:
    """Why the runs' own steps in float64 say nothing of the pair, or None."""
    if settings:
        return f"the runs differ in {' and '.join(settings)}, so they need not take the same steps"
    norms = [record.initial_norms for record in (baseline, candidate)]
    if norms[0] and norms[1] and not _same(norms[0], norms[1]):
        return "they begin with different parameters, so they need not take the same steps"
    for record, side in ((baseline, earlier), (candidate, later)):
        if not record.initial_norms or record.trial not in side.errors:
            why = record.shared_error or record.audit_error or "--quick, or an earlier parity"
            return f"{record.run} held no step against float64 ({why})"
    return _other_function(*(side.errors[record.trial] for record, side in ((baseline, earlier), (candidate, later))))


def _other_function(baseline: _Errors, candidate: _Errors) -> str | None:
    """Why the first steps in float64 are not of one function from one state, or None where they are.

    Equal states give them equal tensors: what is left is rounding of the initial parameters, where these differ in it.
    """
    for place, row in candidate.items():
        step, quantity, tensor = place
        if step == 0 and place in baseline:
            norms = (float(baseline[place]["exact_norm"]), float(row["exact_norm"]))
            if not (math.isclose(*norms, rel_tol=SAME_FUNCTION) or all(map(math.isnan, norms))):
                what = f"{quantity} {tensor}" if tensor else quantity
                return (
                    f"their first steps do not compute the same: in float64 the norm of {what} is {norms[0]:.9g} and "
                    f"{norms[1]:.9g}"
                )
    return None


def _same(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether parameters of these norms may be the same but for their last bits."""
    return len(left) == len(right) and bool(np.allclose(left, right, rtol=SAME_NORMS, atol=0))


def _common_steps(errors: Mapping[str, _Errors], pair: Pair) -> pa.Table:
    """The steps that both held against float64, in the columns of shared_steps.parquet."""
    sides = [errors[record.trial] for record in (pair.baseline, pair.candidate)]
    rows = [
        {
            "trial": pair.candidate.trial,
            "step": step,
            "quantity": quantity,
            "tensor": tensor,
            "baseline_error_u": sides[0][step, quantity, tensor]["error_u"],
            "candidate_error_u": row["error_u"],
            "spread_u": max(side[step, quantity, tensor]["spread_u"] or 0.0 for side in sides) or None,
        }
        for (step, quantity, tensor), row in sides[1].items()
        if (step, quantity, tensor) in sides[0]
    ]
    return pa.Table.from_pylist(rows, schema=SHARED_STEPS)


def _check_hardware(pairs: Sequence[Pair]) -> None:
    """Raises `Trouble` where the hardware of a pair is not the same."""
    for pair in pairs:
        sides = (pair.baseline, pair.candidate)
        names = [name for name in HARDWARE if _differ(*(getattr(record, name) for record in sides))]
        if names or len({record.gpu_name is None for record in sides}) > 1:
            shown = names[0] if names else "gpu_name"
            told = "; ".join(f"{record.run}: {getattr(record, shown) or record.cpu_model}" for record in sides)
            raise Trouble(
                f"{pair.baseline.trial} and {pair.candidate.trial} ran on different hardware ({shown}: {told}), which "
                "does not owe the same bits. Add --across to compare them all the same."
            )


def _told(pair: Pair) -> str:
    """What two runs differ in, in a sentence."""
    between = pair.between
    assert between is not None, "it is of two runs"
    who = f"{pair.baseline.run} and {pair.candidate.run}"
    if not between.differ and not between.owed:
        return f"{who} have the same settings, hardware and software; of a recorded loop the code is not known."
    if not between.differ:
        return f"{who} differ in nothing that is known: code, settings, hardware and software."
    return f"{who} differ in {'; '.join(f'{name}: {left}, {right}' for name, left, right in between.differ)}."


def _nothing(first: str, runs: Mapping[str, _Side], name: str, later: Mapping[str, _Side]) -> str:
    has, has_too = (
        ", ".join(record.trial for side in ranks.values() for record in side.run.trials[:4]) for ranks in (runs, later)
    )
    return (
        f"Nothing of {name} can be held against {first}: {first} has {has}; {name} has {has_too}. "
        "Compare runs of the same losses, devices and seeds, or of which one thing differs."
    )


def _left_out(
    first: str,
    runs: Mapping[str, _Side],
    name: str,
    later: Mapping[str, _Side],
    pairs: Sequence[Pair],
) -> list[str]:
    taken = {record.trial for pair in pairs for record in (pair.baseline, pair.candidate)}
    told = []
    for ranks, there in ((runs, name), (later, first)):
        left = [record.trial for side in ranks.values() for record in side.run.trials if record.trial not in taken]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            told.append(f"Not compared, for {there} has nothing like it: {', '.join(left[:3])}{more}.")
    return told


def _optimizers_differ(baseline: TrialRecord, candidate: TrialRecord) -> bool:
    """Whether the optimizers are of other classes, or set otherwise in what both have: a new torch adds settings."""
    left, right = baseline.optimizer, candidate.optimizer
    if left is None or right is None:
        return False
    one, other = _settings(left), _settings(right)
    return any(one[name] != other[name] for name in one.keys() & other.keys())


def _settings(optimizer: str) -> dict[str, list[str]]:
    """The values of each setting, one for each group of parameters; of the classes, under ""."""
    found: dict[str, list[str]] = {"": re.findall(r"(\w+)\(", optimizer)}
    for name, value in re.findall(r"(\w+)=(\([^)]*\)|[^,;)]*)", optimizer):
        found.setdefault(name, []).append(value)
    return found


def _differ(left: object, right: object) -> bool:
    """Whether two facts are known and not the same."""
    return left is not None and right is not None and left != right
