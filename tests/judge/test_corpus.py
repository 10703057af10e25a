"""The corpus in short: wrong losses are caught and their causes named, and right ones are not flagged.

benchmarks/verdicts.py runs it in full, with 3 seeds and 240 steps.
"""

import sys
from dataclasses import replace

import pytest

from parity.api import run_trials
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task

sys.path.insert(0, "tests/corpus")

from catalog import cause_named, entries

pytestmark = pytest.mark.slow
STEPS, ROWS, BATCH = 5, 96 * 4 + 40, 96  # the last batch is partial
TASKS = {"mse": "mnist-autoencoder", "cross_entropy": "mnist-classifier"}
# Right until the outputs have grown, or until a batch of another size than the corpus was made for.
LATE = {"clipped_output", "mean_of_micro_batches", "HardCodedSize", "padded", "WholeTiles", "fixed_view"}


@pytest.fixture(scope="module", params=sorted(TASKS))
def verdicts(request, data, tmp_path_factory):
    """Each loss of a task's corpus with its verdict."""
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
    found = [entry for file in files for entry in entries(file) if entry.name not in LATE]
    losses = parse_losses(["builtin", *(f"{entry.path}:{entry.name}" for entry in found)], shipped=SHIPPED_LOSSES)
    trials = plan(losses, parse_devices(["cpu"]), seeds=[0], replicas=1, settings=settings)
    # The steps that are measured for comparisons with other runs, a third of the time, decide nothing within one.
    trials = [replace(trial, measured=False) for trial in trials]
    few = {name: values[:ROWS] for name, values in data.items()}
    checked = run_trials(trials, few, tmp_path_factory.mktemp("corpus") / "run", title="test")
    return list(zip(found, checked.pairs, strict=True))


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
