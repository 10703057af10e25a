"""Loops with graphs and gradients of other kinds: recorded, or the recording ends with a sentence; never an error."""

from unittest.mock import MagicMock

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import parity
from parity.judge.judging import judge
from parity.judge.several_runs import join

STEPS = 6


pytestmark = pytest.mark.usefixtures("one_thread")


class Words(nn.Module):
    """The sum of a row's words; a word that comes twice has two gradients, which a sparse one keeps apart."""

    def __init__(self, *, sparse=False):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(12, 4, sparse=sparse), nn.Linear(4, 1)

    def forward(self, tokens):
        return self.head(self.words(tokens).sum(1))


def sgd(model):
    return [torch.optim.SGD(model.parameters(), 0.05)]


def two_kinds(model):
    return [torch.optim.SparseAdam([model.words.weight], 0.05), torch.optim.SGD(model.head.parameters(), 0.05)]


def plain(model, tokens, target):
    output = model(tokens)
    return output, mse_loss(output, target)


def train(out, *, sparse=False, optimizers=sgd, rows=8, weight=1.0, compute=plain):
    """Trains, recorded if there is a place for it, and returns the losses.

    A step has one backward for all its parts of so many rows; the loss of the last one gets a weight.
    """
    tokens = torch.randint(12, (STEPS, 8, 5), generator=torch.Generator().manual_seed(1))
    model = Words(sparse=sparse)
    made, losses = optimizers(model), []
    recorder = parity.Recorder(out, model, optimizers=made, criterion=mse_loss) if out else MagicMock()
    with recorder:
        for inputs in tokens:
            model.zero_grad()
            parts = []
            for some in inputs.split(rows):
                target = some.float().mean(1, keepdim=True) / 12
                output, loss = compute(model, some, target)
                recorder.forward(some, output=output, target=target, loss=loss, factor=rows / 8)
                parts.append(loss * rows / 8)
            total = sum(parts[:-1]) + weight * parts[-1]
            total.backward()
            recorder.backward()
            for optimizer in made:
                optimizer.step()
            recorder.step()
            losses.append(total.item())
    return losses


def judged(baseline, candidate):
    joined = join([baseline, candidate], across=False)
    (pair,) = judge(joined.run, joined.pairs).pairs
    return pair


def test_several_forwards_before_one_backward_are_one_step(tmp_path):
    assert train(tmp_path / "parts", rows=4) == train(None, rows=4)
    train(tmp_path / "whole")
    train(tmp_path / "wrong", rows=4, weight=2.0)
    right, wrong = (judged(tmp_path / "whole", tmp_path / name) for name in ("parts", "wrong"))
    assert (right.verdict, right.steps) == ("rounding", STEPS), right.cause
    assert (wrong.verdict, wrong.onset.step, wrong.onset.quantity) == ("diverged", 0, "output_grad"), wrong.cause


def test_sparse_gradients_are_recorded_as_the_dense_ones_that_they_stand_for(tmp_path):
    train(tmp_path / "dense")
    assert train(tmp_path / "sparse", sparse=True) == train(None, sparse=True)
    train(tmp_path / "wrong", sparse=True, optimizers=two_kinds)
    right, wrong = (judged(tmp_path / "dense", tmp_path / name) for name in ("sparse", "wrong"))
    assert (right.verdict, right.steps) == ("rounding", STEPS), right.cause
    assert (wrong.verdict, wrong.onset.step, wrong.onset.quantity) == ("diverged", 0, "update"), wrong.cause


def test_model_and_loss_in_one_compiled_graph_end_the_recording_and_not_the_training(tmp_path):
    compute = torch.compile(plain, backend="aot_eager")
    with pytest.warns(RuntimeWarning, match="may have the model, but not model and loss in one graph"):
        recorded = train(tmp_path / "run", compute=compute)
    assert recorded == train(None, compute=compute)
    assert pq.read_table(tmp_path / "run" / "trials.parquet")["rows"].to_pylist() == [0]


class Turned(nn.Module):
    """A product with complex numbers, as in a layer of a Fourier transform; of its weights the real parts are zero."""

    def __init__(self):
        super().__init__()
        numbers = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(torch.complex(torch.zeros(4, 3), numbers))

    def forward(self, inputs):
        return torch.view_as_real(inputs.to(torch.complex64) @ self.weight).flatten(1)


def train_to_ones(out, model, *, nudged=None):
    """Trains a model of four inputs, recorded; in one step `weight` is moved by as little as rounding would."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with parity.Recorder(out, model, optimizers=optimizer, criterion=mse_loss) as recorder:
        for step, inputs in enumerate(torch.randn(STEPS, 8, 4, generator=torch.Generator().manual_seed(1))):
            if step == nudged:
                model.weight.data.mul_(1 + 2**-23)
            optimizer.zero_grad()
            output = model(inputs)
            target = torch.ones_like(output)
            loss = mse_loss(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
    return pq.read_table(out / "trials.parquet").to_pylist()[0]


@pytest.mark.filterwarnings("error")
def test_the_imaginary_parts_of_weights_count(tmp_path):
    trial = train_to_ones(tmp_path / "plain", Turned())
    assert trial["initial_norms"] == pytest.approx([float(Turned().weight.detach().abs().norm())])
    # A step with complex numbers, which `double()` leaves as they are, would not be one in float64.
    assert "complex parameters" in trial["shared_error"]
    assert "complex parameters" in trial["optimizer_error"]
    train_to_ones(tmp_path / "nudged", Turned(), nudged=3)
    assert judged(tmp_path / "plain", tmp_path / "nudged").verdict == "rounding"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_frozen_parameters_of_any_dtype_are_recorded(tmp_path, dtype):
    """As quantized weights and masks are."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)
            self.mask = nn.Parameter(torch.ones(2).to(dtype), requires_grad=False)

        def forward(self, inputs):
            return self.linear(inputs) * self.mask.float()

    assert train_to_ones(tmp_path / "run", Masked())["status"] == "complete"
    assert len(pq.read_table(tmp_path / "run" / "traces")) == STEPS
