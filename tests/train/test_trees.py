"""A model may return several tensors, and a loss may take them: the loss is audited and diagnosed part by part."""

import json
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
import tree_tasks
from torch import nn
from tree_tasks import WEIGHT, Autoencoder, Named, Pair

import parity
from parity.plan.device import parse_devices
from parity.plan.planning import make_settings, plan
from parity.plan.user_code import CodeSpec
from parity.train.step import begin, make_batch, take_step


def check(candidate, task, **options):
    return parity.check(candidate, task=task, steps=8, batch_size=50, **options)


@pytest.mark.parametrize(
    ("task", "candidate"), [(Pair, tree_tasks.by_hand), (Named, tree_tasks.named_by_hand)], ids=["tuple", "dict"]
)
def test_a_right_loss_over_both_passes_and_is_audited(task, candidate):
    result = check(candidate, task)
    assert result.verdict in ("rounding", "identical"), result.line
    assert result.worst.decision.audited == 8
    statuses = result.contract.set_index("item").status
    assert statuses["value"] == statuses["gradient"] == "passed"
    assert not (statuses == "failed").any()


@pytest.mark.parametrize(
    ("task", "candidate", "part"),
    [(Pair, tree_tasks.doubled_code, "1"), (Named, tree_tasks.named_doubled_code, "code")],
    ids=["tuple", "dict"],
)
def test_a_wrong_second_term_is_caught_and_named(task, candidate, part):
    result = check(candidate, task)
    assert (result.verdict, result.onset.step, result.onset.quantity) == ("diverged", 0, "output_grad")
    assert result.worst.audit.grad_ratio == pytest.approx(2)
    assert result.causes[0].kind == "scaled"
    assert "scaled by 2" in result.causes[0].text and part in result.causes[0].text


def test_a_part_that_the_loss_forgets_is_caught():
    result = check(tree_tasks.without_code, Pair)
    assert (result.verdict, result.onset.step) == ("diverged", 0)
    assert result.causes[0].kind == "zero"


def test_devices_are_compared_part_by_part():
    result = check((), Named, device=["cpu", "cpu:threads=2", "cpu:plant=bfloat16"])
    verdicts = {pair.pair.candidate.device: pair.verdict for pair in result.pairs}
    assert verdicts["cpu:threads=2"] in ("identical", "rounding") and verdicts["cpu:plant=bfloat16"] == "diverged"
    assert set(result.shared_steps[result.shared_steps.quantity == "output"].tensor) == {"reconstruction", "code"}


def trial_of(task, **options):
    spec = CodeSpec(name=task.__name__, attr=task.__name__, given=task)
    settings = make_settings(task=spec, rows=192, batch_size=64, epochs=1, steps=None, lr=1e-2, audit_every=1)
    builtin = CodeSpec(name="builtin", attr="builtin")
    return plan([builtin], parse_devices(["cpu"]), seeds=[0], replicas=1, settings=settings, **options)[0]


def test_the_training_is_that_of_a_loop_by_hand():
    """The gradient of the code by way of the decoder and the loss's own are added once each, not twice."""
    training = begin(trial_of(Pair))
    data = {name: values.numpy() for name, values in Pair().data().items()}
    torch.manual_seed(0)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(3):
        values = take_step(training, data, step)
        (inputs,) = make_batch(training, data, step)
        optimizer.zero_grad()
        reconstruction, code = model(inputs)
        loss = nn.functional.mse_loss(reconstruction, inputs) + WEIGHT * code.square().mean()
        loss.backward()
        optimizer.step()
        assert values.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    for mine, theirs in zip(training.model.parameters(), model.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach(), theirs.detach(), rtol=1e-5, atol=1e-7)


class Broken(Pair):
    def __init__(self, output):
        self.output = output

    def forward(self, model, batch):
        return self.output(model(batch[0])), batch[0]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda pair: ["text", None], "gave (str, NoneType) as output, a tensor or a tree of tensors is needed"),
        (lambda pair: (pair[0].long(),), "gave an output of (int64[50, 8]), a floating dtype is needed"),
        (lambda pair: (pair[0], pair[1][:0]), "gave an output of shape [0, 3], which is empty"),
        (lambda pair: [part.detach() for part in pair], "that does not depend on the model's parameters"),
    ],
)
def test_what_is_not_a_tree_of_tensors_is_refused(output, message):
    result = check(lambda output, target: None, Broken(output))
    assert result.judgement.trouble and message in result.judgement.trouble


class Heads(nn.Module):
    """Two outputs that do not depend on each other."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(8, 6)
        self.left, self.right = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = self.trunk(inputs).tanh()
        return {"left": self.left(hidden), "right": self.right(hidden)}


def both(output, target):
    return output["left"].square().mean() + (output["right"] - target).square().mean()


def twice_the_right(output, target):
    right = output["right"]
    return output["left"].square().mean() + (right - target).square().mean() * 2


class Result(OrderedDict):
    """As transformers has them: a dict with attributes."""

    def __getattr__(self, name):
        return self[name]


@dataclass
class Struct:
    left: torch.Tensor
    right: torch.Tensor

    def __getitem__(self, name):
        return getattr(self, name)


class Halves(nn.Module):
    """Two parts of one result."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 6)

    def forward(self, inputs):
        return self.layer(inputs).chunk(2, 1)


def record(out, loss, *, model=Heads, criterion=both, result=dict):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = model()
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    inputs, target = torch.randn(6, 10, 8).unbind(), torch.randn(6, 10, 3).unbind()
    with parity.Recorder(out, made, optimizers=optimizer, criterion=criterion) as recorder:
        for each, wanted in zip(inputs, target, strict=True):
            optimizer.zero_grad()
            output = made(each)
            if isinstance(output, dict):
                output = result(**output)
            value = loss(output, wanted)
            recorder.forward(each, output=output, target=wanted, loss=value)
            value.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
    return out


def judged(capsys, *directories):
    from parity import report

    status = report.main([*map(str, directories), "--format", "json"])
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    return status, pair


@pytest.mark.parametrize("result", [dict, Result, Struct])
def test_recorded_heads_are_audited_part_by_part(tmp_path, capsys, result):
    right = record(tmp_path / "right", both, result=result)
    assert judged(capsys, right, record(tmp_path / "again", both))[1]["verdict"] == "identical"
    status, pair = judged(capsys, right, record(tmp_path / "wrong", twice_the_right, result=result))
    assert (status, pair["verdict"], pair["onset"]["step"]) == (1, "diverged", 0)
    assert "output_grad is 2 times the float64 one" in pair["cause"]
    errors = pd.read_parquet(right / "step_errors.parquet")
    assert set(errors[errors.quantity == "output_grad"].tensor) == {"left", "right"}
    assert errors[errors.step == 0].error_u.max() < 100


def test_a_part_that_no_loss_uses_has_a_gradient_of_zero(tmp_path, capsys):
    """Backward passes no gradient at all where an operation has several results, as chunk() has."""

    def first(output, target):
        return (output[0] - target).square().mean()

    def doubled(output, target):
        return 2 * first(output, target)

    right, wrong = (record(tmp_path / loss.__name__, loss, model=Halves, criterion=first) for loss in (first, doubled))
    assert pd.read_parquet(right / "traces").grad_error_u.max() < 4
    _, pair = judged(capsys, right, wrong)
    assert (pair["verdict"], pair["onset"]["step"]) == ("diverged", 0)
    assert "output_grad is 2 times the float64 one" in pair["cause"]


def test_of_recorded_parts_that_depend_on_each_other_nothing_is_audited(tmp_path, capsys):
    """The gradient that arrives at the code has come through the reconstruction as well."""

    def loss(output, target):
        reconstruction, code = output
        return (reconstruction[:, :3] - target).square().mean() + code.square().mean()

    recorded = record(tmp_path / "one", loss, model=Autoencoder, criterion=loss)
    (reason,) = pd.read_parquet(recorded / "trials.parquet").audit_error
    assert reason.startswith(
        "the output's part 0 is computed from its part 1, so the gradient of the loss for 1 cannot"
    )
    assert pd.read_parquet(recorded / "traces").grad_error_u.isna().all()
