"""The corpus in short: wrong losses are caught and their causes named; right ones are not flagged, nor by a contract.

benchmarks/verdicts.py runs it in full, with 3 seeds and 240 steps.
"""

import sys
from dataclasses import replace

import pandas as pd
import pytest

from parity.api import run_trials
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task

sys.path.insert(0, "tests/corpus")

from catalog import cause_named, entries

pytestmark = pytest.mark.slow
STEPS, ROWS, BATCH = 3, 96 * 2 + 40, 96  # the last batch is partial
TASKS = {"mse": "mnist-autoencoder", "cross_entropy": "mnist-classifier"}
# Right until the outputs have grown, or until a batch of another size than the corpus was made for.
LATE = {"clipped_output", "mean_of_micro_batches", "HardCodedSize", "padded", "WholeTiles", "fixed_view"}
# By kind of fault, the item of the contract that names it; the entry's text names it for kind "contract". Finding the
# other faults is the audit's task.
NAMING = {"random": "repeatable", "mutates": "mutation", "grad_output": "grad_output", "detached": "gradient"}


@pytest.fixture(scope="module", params=sorted(TASKS))
def checked(request, data, tmp_path_factory):
    """Each loss of a task's corpus with its verdict, and with the items of its contract by name."""
    settings = make_settings(
        task=parse_task(TASKS[request.param]),
        rows=ROWS,
        batch_size=BATCH,
        epochs=1,
        steps=STEPS,
        lr=1e-3,
        audit_every=1,
    )
    files = [f"tests/corpus/{kind}_{request.param}.py" for kind in ("wrong", "right")]
    found = [entry for file in files for entry in entries(file)]
    losses = parse_losses(["builtin", *(f"{entry.path}:{entry.name}" for entry in found)], shipped=SHIPPED_LOSSES)
    trials = plan(losses, parse_devices(["cpu"]), seeds=[0], replicas=1, settings=settings)
    # The steps that are measured for comparisons with other runs, a third of the time, decide nothing within one.
    trials = [replace(trial, measured=False) for trial in trials]
    few = {name: values[:ROWS] for name, values in data.items()}
    out = tmp_path_factory.mktemp("corpus") / "run"
    pairs = run_trials(trials, few, out, title="test").pairs
    items = pd.read_parquet(out / "contract.parquet").astype({"trial": str}).groupby("trial")
    contracts = {trial: rows.set_index("item") for trial, rows in items}
    return [(entry, pair, contracts[trial.name]) for entry, pair, trial in zip(found, pairs, trials[1:], strict=True)]


@pytest.fixture(scope="module")
def verdicts(checked):
    """Each loss whose fault, if it has one, shows within so few steps, with its verdict."""
    return [(entry, pair) for entry, pair, _ in checked if entry.name not in LATE]


def test_no_right_loss_has_a_failed_item_in_its_contract(checked):
    failed = {entry.name: items[items.status == "failed"] for entry, _, items in checked if not entry.kind}
    assert {name: items.reason.to_dict() for name, items in failed.items() if len(items)} == {}


def test_a_wrong_loss_fails_the_item_of_the_contract_that_names_its_fault(checked):
    naming = {
        entry.name: items.status[NAMING.get(entry.kind, entry.text)]
        for entry, _, items in checked
        if entry.kind in (*NAMING, "contract")
    }
    assert len(naming) >= 20 and {name: status for name, status in naming.items() if status != "failed"} == {}


def test_every_wrong_loss_is_caught_and_no_right_one_is_flagged(verdicts):
    failed = {entry.name for entry, pair in verdicts if pair.verdict in ("diverged", "failed")}
    assert failed == {entry.name for entry, _ in verdicts if entry.kind}
    assert not [entry.name for entry, pair in verdicts if pair.verdict == "inconclusive"]


def test_at_least_nine_in_ten_causes_are_named(verdicts):
    wrong = [(entry, pair) for entry, pair in verdicts if entry.kind]
    missed = [
        (entry.name, entry.kind, pair.causes[:1])
        for entry, pair in wrong
        if not cause_named(entry, [(cause.kind, cause.text) for cause in pair.causes])
    ]
    assert len(missed) <= len(wrong) / 10, missed


def test_there_are_enough_of_both():
    counts = {
        kind: sum(len(entries(f"tests/corpus/{kind}_{task}.py")) for task in TASKS) for kind in ("wrong", "right")
    }
    assert counts["wrong"] >= 60 and counts["right"] >= 40
