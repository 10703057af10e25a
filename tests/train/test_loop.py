import csv
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from parity.ground.errors import TrialFailed
from parity.plan.task_spec import parse_task
from parity.store.trace import AUDIT_COLUMNS, SCHEMA
from parity.tasks import mnist_autoencoder
from parity.tasks.loading import load_data
from parity.train.loop import train

WRONG = "tests/wrong_losses.py"


def trace(chunks):
    return pa.concat_tables([chunk.table for chunk in chunks])


def without_times(table):
    return table.drop_columns(["step_s"])


@pytest.mark.parametrize("loss", ["builtin", "numpy"])
def test_losses_match_the_published_ones(reference, loss):
    found = pd.read_parquet(reference / "traces").query("loss_name == @loss").set_index(["epoch", "batch"])["loss"]
    assert len(found) == 470
    with Path("tests/published_losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 26
    for row in rows:
        assert abs(found[int(row["epoch"]) - 1, int(row["step"]) - 1] - float(row["loss"])) <= 1.0e-4, row


def test_training_is_the_plain_loop(data, make_trials):
    """Tracing changes no bit: the same experiment, written out without it."""
    (trial,) = make_trials(steps=5)
    traced = trace(train(trial, data))
    torch.manual_seed(0)
    model = mnist_autoencoder.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(5):
        (images,) = mnist_autoencoder.batch(data, step * 256, step * 256 + 256)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(images), images)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert traced["loss"].to_pylist() == losses


def test_two_trainings_are_bit_identical(data, make_trials):
    (trial,) = make_trials(steps=6)
    assert without_times(trace(train(trial, data))).equals(without_times(trace(train(trial, data))))


@pytest.mark.parametrize("chunk_steps", [1, 4])
def test_chunks_do_not_change_the_trace(data, make_trials, chunk_steps):
    (trial,) = make_trials(steps=6)
    chunks = list(train(trial, data, chunk_steps=chunk_steps, chunk_s=math.inf))
    assert [len(chunk.table) for chunk in chunks] == ([1] * 6 if chunk_steps == 1 else [1, 4, 1])
    assert without_times(trace(chunks)).equals(without_times(trace(train(trial, data))))


def test_the_first_step_is_reported_at_once(data, make_trials):
    """Also of a training that continues: from there on a limit on the time of a step counts."""
    (trial,) = make_trials(steps=3)
    first = next(train(trial, data))
    assert list(first.table["step"].to_pylist()) == [0]
    assert next(train(trial, data, state=first.take_state())).table["step"].to_pylist() == [1]


def test_a_resumed_training_is_bit_identical(data, make_trials):
    (trial,) = make_trials(steps=7)
    whole = trace(train(trial, data))
    chunks = train(trial, data, chunk_steps=3, chunk_s=math.inf)
    first = [next(chunks), next(chunks)]
    state = first[-1].take_state()
    assert state["step"] == 4
    del chunks
    random.seed(99), np.random.seed(99), torch.manual_seed(99)  # whatever happened in between
    for _ in range(2):  # a state may be used twice
        resumed = trace([*first, *train(trial, data, state=state)])
        assert without_times(resumed).equals(without_times(whole))


def test_a_state_that_is_past_is_told(data, make_trials):
    (trial,) = make_trials(steps=2)
    chunks = train(trial, data, chunk_steps=1)
    first = next(chunks)
    next(chunks)
    with pytest.raises(RuntimeError) as error:
        first.take_state()
    assert str(error.value) == "The training has gone on; take a chunk's state before you ask for the next chunk."


def test_a_trace_has_the_columns_of_the_schema_and_full_precision(data, make_trials):
    (trial,) = make_trials(steps=2)
    table = trace(train(trial, data))
    assert table.schema.equals(SCHEMA.remove_metadata(), check_metadata=True)
    assert table["loss"].to_pylist() == [float(np.float32(value)) for value in table["loss"].to_pylist()]
    assert not any(float(f"{value:.4f}") == value for value in table["loss"].to_pylist())
    row = table.slice(1, 1).to_pylist()[0]
    assert (row["trial"], row["step"], row["epoch"], row["batch"], row["rows"]) == ("builtin@cpu-s0", 1, 0, 1, 256)
    assert row["elements"] == 256 * 784
    assert len(row["param_digests"]) == len(row["param_grad_digests"]) == 16
    assert row["step_s"] > 0


def test_norms_are_those_of_the_gradients(data, make_trials):
    (trial,) = make_trials(steps=1)
    row = trace(train(trial, data)).to_pylist()[0]
    torch.manual_seed(0)
    model = mnist_autoencoder.model()
    (images,) = mnist_autoencoder.batch(data, 0, 256)
    output = model(images)
    output.retain_grad()
    torch.nn.functional.mse_loss(output, images).backward()
    gradients = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()]).double()
    assert row["output_grad_norm"] == pytest.approx(output.grad.double().norm().item(), rel=1e-6)
    assert row["param_grad_norm"] == pytest.approx(gradients.norm().item(), rel=1e-6)


def test_a_thinned_audit_leaves_nulls_and_changes_nothing_else(data, make_trials):
    (trial,) = make_trials(steps=5)
    (thin,) = make_trials(steps=5, audit_every=3)
    audit = [*AUDIT_COLUMNS, "step_s"]
    whole, thinned = trace(train(trial, data)), trace(train(thin, data))
    assert [value is None for value in thinned["grad_error_u"].to_pylist()] == [False, True, True, False, False]
    assert whole["grad_error_u"].null_count == 0
    assert thinned.drop_columns(audit).equals(whole.drop_columns(audit))


FAILURES = {
    "detached": (
        0,
        "loss returned a tensor without a gradient; a detour through NumPy needs a torch.autograd.Function",
    ),
    "independent": (0, "loss has no gradient for its output, which it must depend on"),
    "raising_at_30": (30, "the loss raised ValueError: planted"),
    "exiting": (0, "the loss raised SystemExit: 0"),
    "unreduced": (0, "loss returned shape [256], a scalar is needed"),
    "widened": (0, "loss returned torch.float64, the output's torch.float32 is needed"),
    "number": (0, "loss returned float, a tensor is needed"),
    "changes_target": (0, "the loss changed its target in place; work on a copy, target.clone()"),
    "changes_output": (0, "the loss changed its output in place; work on a copy, output.clone()"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_loss_that_does_not_fit_fails_with_its_step_and_reason(data, make_trials, name):
    step, reason = FAILURES[name]
    trial = make_trials("builtin", f"{WRONG}:{name}", steps=32)[1]
    rows = 0
    with pytest.raises(TrialFailed) as failed:
        for chunk in train(trial, data):
            rows += len(chunk.table)
    assert (failed.value.step, failed.value.reason) == (step, reason)
    assert rows == step, "the steps before the failure are kept"


def test_a_loss_file_that_raises_when_it_is_run_fails_before_the_first_step(data, make_trials, tmp_path):
    (tmp_path / "mine.py").write_text("raise ImportError('no such library')\ndef mse(output, target): ...\n")
    trial = make_trials("builtin", f"{tmp_path}/mine.py:mse")[1]
    with pytest.raises(TrialFailed) as failed:
        next(train(trial, data))
    assert (failed.value.step, failed.value.reason) == (None, "loading the loss raised ImportError: no such library")


def test_a_raising_backward_is_the_losss_own(data, make_trials, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Mse(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, output, target):\n        return ((output - target) ** 2).mean()\n"
        "    @staticmethod\n    def backward(ctx, grad):\n        raise NotImplementedError('later')\n"
    )
    trial = make_trials("builtin", f"{tmp_path}/mine.py:Mse")[1]
    with pytest.raises(TrialFailed) as failed:
        next(train(trial, data))
    assert failed.value.reason == "the loss's backward raised NotImplementedError: later"


def test_a_nan_is_stored_as_it_is(data, make_trials):
    trial = make_trials("builtin", f"{WRONG}:nan_at_5", steps=7)[1]
    rows = trace(train(trial, data)).to_pylist()
    assert [math.isnan(row["loss"]) for row in rows] == [False] * 5 + [True] * 2
    assert rows[5]["grad_error_u"] == math.inf


def test_chunks_of_a_float64_task_keep_their_numbers(make_trials, tmp_path):
    """The observer's buffers, which later steps write to, are not those of the tables."""
    task = tmp_path / "task.py"
    task.write_text(
        "import torch\n"
        "class Wide:\n"
        "    def data(self): return {'rows': torch.arange(1.0, 7.0, dtype=torch.float64)}\n"
        "    def model(self): return torch.nn.Linear(1, 1).double()\n"
        "    def optimizer(self, parameters, lr): return torch.optim.SGD(parameters, lr)\n"
        "    def batch(self, data, start, stop): return (torch.tensor(data['rows'][start:stop])[:, None],)\n"
        "    def forward(self, model, batch): return model(batch[0]), batch[0]\n"
        "    def loss(self, output, target): return torch.nn.functional.mse_loss(output, target)\n"
    )
    spec = parse_task(f"{task}:Wide")
    (pattern,) = make_trials()
    settings = replace(pattern.settings, task=spec, rows=6, batch_size=1, steps=6)
    trial = replace(pattern, settings=settings)
    data = load_data(spec)
    chunks = list(train(trial, data, chunk_steps=2, chunk_s=math.inf))
    whole = trace(train(trial, data))
    assert [len(chunk.table) for chunk in chunks] == [1, 2, 2, 1]
    assert without_times(trace(chunks)).equals(without_times(whole))
