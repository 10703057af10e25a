"""Stored runs that nobody trained, in memory: traces of any length, with differences where they are planted."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from parity.store.directory import create
from parity.store.files import write_json
from parity.store.parquet import write_table
from parity.store.stored_run import StoredRun
from parity.store.tables import EVIDENCE
from parity.store.trace import (
    GENERATORS,
    QUANTITIES,
    SKETCH_SUMS,
    SKETCHED_QUANTITIES,
    TENSOR_QUANTITIES,
    make_table,
)
from parity.store.trace_files import TraceWriter
from parity.store.trials import TrialRecord, write_trials

BATCHES = 235
TENSORS = tuple(f"{block}.{layer}.{kind}" for block in "01" for layer in "0246" for kind in ("weight", "bias"))
BUFFERS = ("norm.running_mean", "norm.num_batches_tracked")
# Relative distance of tensors that differ by rounding.
NEAR = 1e-7
_U = 2.0**-23


@dataclass(frozen=True)
class Planted:
    """A candidate.

    Attributes:
        name: Of its loss.
        device: That it runs on.
        replica: 0, or the number of the repeat.
        differs: From which step on which quantities differ; of tensor quantities all tensors, or those of `tensors`.
        tensors: Numbers of the tensors that differ; None is all.
        losses: By step, what the loss is instead.
        grad_errors: By step, the gradient's error in u.
        distances: Of quantities, by step, how far their odd tensors are from the baseline's from there on, relative;
            `NEAR` where a quantity differs and nothing is said. Of the gradient of the parameters, where nothing is
            said, as far as those of the output and its gradient.
        lengths: Of quantities, by step, how long their odd tensors are from there on; 1 where nothing is said.
        settings: By step, what the settings of the optimizer are instead from there on.
        modes: By step, what the modes of the model are instead from there on.
        counts: By step, what the optimizer's counters are instead from there on.
        generators: Step from which on torch's generator is in another state.
        steps: Of its trace; None is all.
        record: What else its record says.
    """

    name: str = "mine"
    device: str = "cpu"
    replica: int = 0
    differs: dict = field(default_factory=dict)
    tensors: tuple[int, ...] | None = None
    losses: dict = field(default_factory=dict)
    grad_errors: dict = field(default_factory=dict)
    distances: dict = field(default_factory=dict)
    lengths: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    modes: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)
    generators: int | None = None
    steps: int | None = None
    record: dict = field(default_factory=dict)


ROUNDING = dict.fromkeys(("output_grad", "param_grad", "param"), 2)


def make_run(*candidates, steps=20, tensors=TENSORS, directory="run", **evidence):
    """A run of the baseline and candidates.

    Args:
        candidates: What to plant.
        steps: Of each trial.
        tensors: Names of the parameters.
        directory: Where it says it is.
        evidence: Rows of the tables of that name.
    """
    records, traces = [], {}
    for planted in (Planted("builtin"), *candidates):
        suffix = f"-r{planted.replica}" if planted.replica else ""
        trial = f"{planted.name}@{planted.device}-s0{suffix}"
        rows = steps if planted.steps is None else planted.steps
        traces[trial] = _trace(planted, trial, rows, tensors)
        records.append(
            TrialRecord(
                trial=trial,
                task="mnist-autoencoder",
                task_origin=None,
                task_sha256=None,
                loss_name=planted.name,
                loss_origin=None,
                loss_sha256=None,
                oracle="builtin",
                device=planted.device,
                seed=0,
                replica=planted.replica,
                noise=0,
                steps=steps,
                batches=BATCHES,
                batch_size=256,
                lr=1e-3,
                optimizer=None,
                audit_every=1,
                trace="0000.parquet",
                status="complete",
                rows=rows,
                loss_dtype="float32",
                param_names=[*tensors],
                param_shapes=["4"] * len(tensors),
                param_dtypes=["float32"] * len(tensors),
                initial_norms=[1.0] * len(tensors),
                initial_digests=[7] * len(tensors),
                buffer_names=[*BUFFERS],
                output_dtype="float32",
                host="somewhere",
                cpu_model="a CPU",
                torch="2.15",
            )
        )
        records[-1] = replace(records[-1], **planted.record)
    info = {
        "schema": 1,
        "state": "complete",
        "created": "2026-01-02T03:04:05+00:00",
        "command": "python -m parity.run --loss builtin mine.py:mine --out there",
        "arguments": ["--loss", "builtin", "mine.py:mine", "--out", "there"],
        "folder": "somewhere",
        "task": "mnist-autoencoder",
        "versions": {"python": "3.11", "torch": "2.15"},
    }
    tables = {name: pa.Table.from_pylist(evidence.get(name, []), schema) for name, schema in EVIDENCE.items()}
    return StoredRun(Path(directory), info, tuple(records), traces, tables)


def _trace(planted, trial, steps, tensors):
    step = np.arange(steps)
    batch = step % BATCHES
    loss = (0.05 + 0.2 * np.exp(-step / 40) + 0.002 * np.sin(step)).astype(np.float32).astype(float)
    if "loss" in planted.differs:
        later = step >= planted.differs["loss"]
        loss = np.where(later, (loss * (1 + _U * (1 + step % 7))).astype(np.float32).astype(float), loss)
    for place, value in planted.losses.items():
        loss[place] = value
    columns = {
        "seed": np.zeros(steps),
        "replica": np.full(steps, planted.replica),
        "step": step,
        "epoch": step // BATCHES,
        "batch": batch,
        "rows": np.where(batch == BATCHES - 1, 96, 256),
        "elements": np.where(batch == BATCHES - 1, 96, 256) * 784,
        "output_grad_strided": np.zeros(steps, bool),
        "loss": loss,
        "output_grad_norm": np.full(steps, 0.002),
        "param_grad_norm": np.full(steps, 0.01),
        "loss_error_u": np.full(steps, 1.5) + np.cos(step),
        "grad_ratio": np.ones(steps),
        "step_s": np.full(steps, 0.005),
        "grad_error_u": 0.5 + 0.1 * np.sin(step),
    }
    for place, error in planted.grad_errors.items():
        columns["grad_error_u"][place] = error
    for number, quantity in enumerate(QUANTITIES):
        digests = (step * 100 + number).astype(np.uint64)
        begins = planted.differs.get(quantity, steps)
        columns[f"{quantity}_digest"] = np.where(step >= begins, digests + 50, digests)
        if quantity in TENSOR_QUANTITIES:
            each = np.repeat(digests[:, None], len(tensors), axis=1)
            odd = [*range(len(tensors))] if planted.tensors is None else [*planted.tensors]
            each[begins:, odd] += 50
            columns[f"{quantity}_digests"] = each
    columns["loss_digest"] = np.ascontiguousarray(loss).view(np.uint64)
    columns |= _states(planted, steps, tensors)
    for quantity in SKETCHED_QUANTITIES:
        columns |= _sketches(planted, quantity, steps, tensors)
    names = {"trial": trial, "loss_name": planted.name, "device": planted.device}
    return make_table(columns, names=names, rows=steps)


def _states(planted, steps, tensors):
    settings, counts, generators = [], [], np.zeros((steps, len(GENERATORS)), np.uint64)
    group = {"params": f"0-{len(tensors) - 1}", "betas": [0.9, 0.999], "lr": 1e-3, "weight_decay": 0.0}
    modes = {"scale": 1.0, "factors": [1.0], "evaluating": [], "frozen": []}
    optimizer = "Adam"
    for step in range(steps):
        # What is planted holds from its step on.
        group = group | planted.settings.get(step, {})
        optimizer = group.pop("class", optimizer)
        modes = modes | planted.modes.get(step, {})
        settings.append(json.dumps({"optimizers": [{"class": optimizer, "groups": [group]}], **modes}))
        earlier = [begins for begins in planted.counts if begins <= step]
        counts.append(planted.counts[max(earlier)] if earlier else [len(tensors) * (step > 0), step, step])
    generators[:, 0] = np.arange(steps) * 7 + 1
    if planted.generators is not None:
        generators[planted.generators :, 0] += 3
    return {"settings": settings, "state_counts": np.array(counts).reshape(steps, 3), "generator_digests": generators}


def _sketches(planted, quantity, steps, tensors):
    """Norms of 1 or as planted, and sketches that are as far apart as is planted."""
    names = {"buffer": BUFFERS, "target_grad": (), "output": ("",), "output_grad": ("",)}.get(quantity, tensors)
    distances = planted.distances.get(quantity, {})
    if quantity == "param_grad" and not distances:
        # What is computed forwards has a consequence, unless something else is planted.
        forwards = [planted.distances.get(each, {}) for each in ("output", "output_grad", "target_grad")]
        distances = {step: far for each in forwards for step, far in each.items()}
    begins = planted.differs.get("param" if quantity == "update" else quantity, steps)
    if quantity == "step_grad" and begins == steps and not distances:
        return {}  # it is the gradient of the parameters
    odd = [*range(len(names))] if planted.tensors is None or len(names) < len(tensors) else [*planted.tensors]
    sketches = np.zeros((steps, len(names), SKETCH_SUMS), np.float32)
    sketches[begins:, odd, 0] = NEAR
    for step, distance in sorted(distances.items()):
        sketches[step:, odd, 0] = distance
    norms = np.ones((steps, len(names)), np.float32)
    for step, length in sorted(planted.lengths.get(quantity, {}).items()):
        norms[step:, odd] = length
    return {f"{quantity}_norms": norms, f"{quantity}_sketches": sketches.reshape(steps, len(names) * SKETCH_SUMS)}


def long_run(steps=10_000):
    """Ten trials of many steps, with a spike at 7777, NaN at 4321, infinity at 6000: each in another one."""
    plain = {"loss": 3, **ROUNDING}
    return make_run(
        Planted("spike", differs=plain, losses={7777: 0.5}),
        Planted("nan", differs=plain, losses={4321: float("nan")}),
        Planted("inf", differs=plain, losses={6000: float("inf")}, grad_errors={6000: float("inf")}),
        *(Planted(f"mine{number}", differs=plain) for number in range(6)),
        steps=steps,
    )


def fleet_run(devices, *, odd=(), steps=6):
    """A baseline loss on so many equal devices, those of some numbers with a difference from step 3 on."""
    fault = {"param_grad": 3, "param": 3}
    return make_run(
        *(
            Planted("builtin", device=f"cpu@n{number:04d}", differs=fault if number in odd else {}, tensors=(4,))
            for number in range(devices)
        ),
        steps=steps,
    )


def with_column(run, number, name, change):
    """The run with a column of one of its trials changed.

    Args:
        run: As `make_run` returned it; it is left as it was.
        number: Of the trial.
        name: Of the column.
        change: Takes the values as a list, and returns those instead of them.
    """
    trial = run.trials[number].trial
    trace = run.traces[trial]
    index = trace.schema.get_field_index(name)
    kind = trace.schema.field(index).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    values = pa.array(change(trace[name].to_pylist()), plain).cast(kind)
    changed = trace.set_column(index, trace.schema.field(index), values)
    return replace(run, traces=run.traces | {trial: changed})


def nothing(values):
    """A column in which nothing is stored."""
    return [None] * len(values)


def write_run(run, directory):
    """Stores a run of `make_run`, all of whose trials share one trace file."""
    create(directory)
    write_json(directory / "run.json", run.info | {"trials": [record.trial for record in run.trials]})
    write_trials(directory, run.trials)
    for name, table in run.evidence.items():
        write_table(directory / f"{name}.parquet", table)
    writer = TraceWriter(directory / "traces" / run.trials[0].trace)
    for table in run.traces.values():
        writer.append(table)
    writer.close()
