"""A loss that works in place on its output is recorded by what it was given; the hook for it leaves no trace."""

import copy
import io
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import parity
from parity.judge.judging import judge
from parity.judge.several_runs import join

KEPT = (
    "loss",
    "input_digest",
    "output_digest",
    "output_grad_digest",
    "param_grad_digest",
    "param_digest",
    "audit_error",
)


def out_of_place(output, target):
    return ((output.sigmoid() - target) ** 2).mean()


def in_place(output, target):
    return ((output.sigmoid_() - target) ** 2).mean()


def wrong_in_place(output, target):
    return ((output.sigmoid_() - target) ** 2).sum()


def late(output, target, calls=[]):  # noqa: B006 - counts its calls
    calls.append(1)
    return (out_of_place if len(calls) < 3 else in_place)(output, target)


def record(folder, loss, *, batches=1, steps=4):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(1)
    with parity.Recorder(folder, model, optimizers=optimizer, criterion=out_of_place) as recorder:
        for _ in range(steps):
            optimizer.zero_grad()
            for _ in range(batches):
                inputs = torch.randn(8, 4, generator=generator)
                target = (inputs[:, :3] > 0).float()
                with torch.no_grad():
                    model(inputs).add_(1)  # an evaluation in between
                output = model(inputs)
                value = loss(output, target)
                recorder.forward(inputs, output=output, target=target, loss=value, factor=1 / batches)
                (value / batches).backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
    (path,) = (folder / "traces").iterdir()
    return pq.read_table(path).to_pandas()


@pytest.mark.parametrize("batches", [1, 2])
def test_a_loss_in_place_has_the_trace_of_one_out_of_place(batches, tmp_path):
    beside, found = (record(tmp_path / loss.__name__, loss, batches=batches) for loss in (out_of_place, in_place))
    for name in [name for name in KEPT if name in found]:
        assert found[name].tolist() == beside[name].tolist(), name
    assert found.grad_error_u.max() < 4
    joined = join([tmp_path / "out_of_place", tmp_path / "in_place"], across=False)
    assert [pair.verdict for pair in judge(joined.run, joined.pairs).pairs] == ["identical"]


def test_a_wrong_loss_in_place_is_found(tmp_path):
    found = record(tmp_path / "run", wrong_in_place)
    assert found.grad_ratio.tolist() == pytest.approx([24] * 4)


def test_a_loss_that_begins_to_write_later_ends_the_recording_with_the_reason(tmp_path):
    with pytest.warns(RuntimeWarning, match="which it did not do in the first step. Give it a copy, output.clone()"):
        found = record(tmp_path / "run", late)
    assert len(found) == 2


def test_copies_and_what_is_saved_of_the_model_know_nothing_of_the_hook(tmp_path):
    model = nn.Linear(4, 3)
    recorder = parity.Recorder(tmp_path / "run", model, criterion=out_of_place)
    stored = io.BytesIO()
    torch.save(model, stored)
    (tmp_path / "model.pt").write_bytes(stored.getvalue())
    code = (
        "import torch, sys; model = torch.load(sys.argv[1], weights_only=False); "
        "print(tuple(model(torch.ones(2, 4)).shape), 'parity' in sys.modules)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.split("\n")[0] == "(2, 3) False"
    twin = copy.deepcopy(model)
    twin(torch.ones(2, 4))
    assert not recorder._outputs._returned
    model(torch.ones(2, 4))
    assert len(recorder._outputs._returned) == 1
    recorder.close()
    assert not model._forward_hooks


def test_a_compiled_model_gets_no_hook(tmp_path):
    model = nn.Linear(4, 3)
    compiled = torch.compile(model, backend="eager")
    with parity.Recorder(tmp_path / "run", compiled, criterion=out_of_place):
        assert not model._forward_hooks
