"""Relations that people mean: resumed and uninterrupted, micro-batches and one batch, ranks and one process."""

import copy
import json

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import parity
from parity import report

from conftest import warm_command

CRITERION = nn.CrossEntropyLoss()
ROWS, FEATURES, CLASSES = 24, 6, 4


pytestmark = pytest.mark.usefixtures("one_thread")


def perceptron():
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.GELU(), nn.Linear(16, CLASSES))


def normed():
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, CLASSES))


def batches(steps, rows=ROWS):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(rows, FEATURES, generator=generator), torch.randint(CLASSES, (rows,), generator=generator))
        for _ in range(steps)
    ]


class Loop:
    """A training that can be saved and taken up again."""

    def __init__(self, make=perceptron, *, kind=torch.optim.AdamW, criterion=CRITERION, scaler=None, **settings):
        torch.manual_seed(0)
        self.model, self.criterion, self.scaler = make(), criterion, scaler
        self.optimizer = kind(self.model.parameters(), **{"lr": 1e-2, "foreach": False} | settings)

    def saved(self):
        return copy.deepcopy({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def restore(self, saved, *, without=()):
        for name in {"model", "optimizer"} - {*without}:
            getattr(self, name).load_state_dict(saved[name])

    def run(self, steps, out=None, *, first=0, split=None, factor=lambda rows, whole, parts: rows / whole, clear=False):
        """Takes the steps of these numbers, recorded if there is a place for it."""
        recorder = out and parity.Recorder(
            out, self.model, optimizers=self.optimizer, criterion=self.criterion, scaler=self.scaler, first_step=first
        )
        for inputs, target in batches(steps)[first:]:
            self.optimizer.zero_grad()
            cut = list(zip(inputs.split(split or [ROWS]), target.split(split or [ROWS]), strict=True))
            for some, targets in cut:
                if clear:
                    self.optimizer.zero_grad()
                output = self.model(some)
                loss, weight = self.criterion(output, targets), factor(len(some), len(inputs), len(cut))
                if recorder:
                    recorder.forward(some, output=output, target=targets, loss=loss, factor=weight)
                loss = loss * weight
                (self.scaler.scale(loss) if self.scaler else loss).backward()
            if recorder:
                recorder.backward()
            if self.scaler:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                self.optimizer.step()
            if recorder:
                recorder.step()
        if recorder:
            recorder.close()
        return self


def ask(capsys, *paths):
    """Exit status, verdicts and all that is printed."""
    status = report.main([*map(str, paths), "--format", "json"])
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    report.main([*map(str, paths)])
    return status, pairs, " ".join(capsys.readouterr().out.split())


def place(pair):
    return pair["onset"] and (pair["onset"]["step"], pair["onset"]["quantity"])


# Resumed


def resume(tmp_path, first, *, steps=14, make=perceptron, saved_at=None, end=None, without=(), change=None):
    """A whole training, and one that is taken up again at a step."""
    Loop(make).run(steps, tmp_path / "whole")
    saved = Loop(make).run(first if saved_at is None else saved_at).saved()
    loop = Loop(make)
    loop.restore(saved, without=without)
    if change:
        with torch.no_grad():
            change(loop.model)
    loop.run(end or steps, tmp_path / "resumed", first=first)
    return tmp_path / "whole", tmp_path / "resumed"


@pytest.mark.parametrize("make", [perceptron, normed])
@pytest.mark.parametrize("first", [1, 5])
def test_a_resumed_training_is_identical_over_the_common_steps(tmp_path, capsys, first, make):
    status, (pair,), out = ask(capsys, *resume(tmp_path, first, make=make))
    assert (status, pair["verdict"], pair["steps"]) == (0, "identical", 14 - first)
    assert f"resumed/loop@cpu-s0 begins at step {first}: only the steps that both have are compared." in out
    assert f"{14 - first} steps" in out


def test_a_resumed_training_may_be_the_baseline(tmp_path, capsys):
    status, (pair,), _ = ask(capsys, *reversed(resume(tmp_path, 5)))
    assert (status, pair["verdict"], pair["steps"]) == (0, "identical", 9)


def test_steps_that_are_missing_at_the_end_are_never_identical(tmp_path, capsys):
    status, (pair,), _ = ask(capsys, *resume(tmp_path, 5, end=13))
    assert (status, pair["verdict"]) == (3, "inconclusive")
    assert "ends after step 13 and resumed/loop@cpu-s0 after step 12" in pair["cause"]


def test_trainings_without_a_common_step_are_never_identical(tmp_path, capsys):
    Loop().run(3, tmp_path / "whole")
    Loop().run(6, tmp_path / "resumed", first=3)
    status, (pair,), _ = ask(capsys, tmp_path / "whole", tmp_path / "resumed")
    assert (status, pair["verdict"]) == (3, "inconclusive")
    assert "no step in common" in pair["cause"]


def test_parameters_of_another_step_are_named(tmp_path, capsys):
    _, (pair,), _ = ask(capsys, *resume(tmp_path, 5, saved_at=4))
    assert (pair["verdict"], place(pair)) == ("diverged", (5, "state"))
    assert "parameters before step 5: those after step 4 and those after step 3" in pair["cause"]
    assert "optimizer's state: of 4 parameters after 5 steps and of 4 parameters after 4 steps" in pair["cause"]


def test_parameters_that_were_changed_are_named(tmp_path, capsys):
    _, (pair,), _ = ask(capsys, *resume(tmp_path, 5, change=lambda model: model[2].weight.mul_(1.01)))
    assert (pair["verdict"], place(pair)) == ("diverged", (5, "state"))
    assert "parameters of 2.weight before step 5: " in pair["cause"]


def test_buffers_that_were_lost_are_named(tmp_path, capsys):
    _, (pair,), _ = ask(capsys, *resume(tmp_path, 5, make=normed, change=lambda model: model[1].running_mean.zero_()))
    assert (pair["verdict"], place(pair)) == ("diverged", (5, "state"))
    assert "buffers of 1.running_mean before step 5: " in pair["cause"]


def test_a_lost_state_of_the_optimizer_is_named(tmp_path, capsys):
    _, (pair,), _ = ask(capsys, *resume(tmp_path, 5, without=("optimizer",)))
    assert (pair["verdict"], place(pair)) == ("diverged", (5, "state"))
    assert "optimizer's state: of 4 parameters after 5 steps and none" in pair["cause"]


def test_the_first_steps_of_a_resumed_training_are_taken_in_float64(tmp_path):
    _, resumed = resume(tmp_path, 3)
    assert {*pq.read_table(resumed / "step_errors.parquet")["step"].to_pylist()} == {3, 13}


# Micro-batches


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("split", [[12, 12], [6] * 4, [20, 3, 1]])
def test_micro_batches_are_rounding_beside_one_batch(tmp_path, capsys, kind, split):
    Loop(kind=kind).run(8, tmp_path / "whole")
    Loop(kind=kind).run(8, tmp_path / "parts", split=split)
    status, (pair,), _ = ask(capsys, tmp_path / "whole", tmp_path / "parts")
    assert (status, pair["verdict"], pair["steps"]) == (0, "rounding", 8)


def test_losses_that_are_sums_need_no_factor(tmp_path, capsys):
    criterion = nn.CrossEntropyLoss(reduction="sum")
    Loop(kind=torch.optim.SGD, lr=1e-3, criterion=criterion).run(6, tmp_path / "whole", factor=lambda *_: 1.0)
    parts = Loop(kind=torch.optim.SGD, lr=1e-3, criterion=criterion)
    parts.run(6, tmp_path / "parts", split=[20, 3, 1], factor=lambda *_: 1.0)
    assert ask(capsys, tmp_path / "whole", tmp_path / "parts")[1][0]["verdict"] == "rounding"


@pytest.mark.parametrize(
    ("split", "factor", "named"),
    [
        (
            [16, 4, 4],
            lambda rows, whole, parts: 1 / parts,
            "0.333333 (3 times) for batches of 16, 4 and 4 rows in the candidate, a mean of means over unequal counts",
        ),
        ([8, 8, 8], lambda *_: 1.0, "1 (3 times) for batches of 8 (3 times) rows in the candidate: every gradient is "
                                    "scaled by 3"),
        ([8, 8, 8], lambda *_: 0.25, "every gradient is scaled by 0.75"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_wrong_factors_are_the_named_cause(tmp_path, capsys, kind, split, factor, named):
    Loop(kind=kind).run(6, tmp_path / "whole")
    Loop(kind=kind).run(6, tmp_path / "parts", split=split, factor=factor)
    _, (pair,), _ = ask(capsys, tmp_path / "whole", tmp_path / "parts")
    assert (pair["verdict"], place(pair)[0]) == ("diverged", 0)
    assert place(pair)[1] in ("output_grad", "param_grad")
    assert named in pair["cause"]


def test_right_factors_are_no_cause(tmp_path, capsys):
    Loop(kind=torch.optim.SGD).run(6, tmp_path / "whole")
    Loop(kind=torch.optim.SGD).run(6, tmp_path / "parts", split=[12, 12], clear=True)
    _, (pair,), _ = ask(capsys, tmp_path / "whole", tmp_path / "parts")
    assert (pair["verdict"], place(pair)) == ("diverged", (0, "param_grad"))
    assert "factor" not in pair["cause"]


def test_a_model_that_normalises_over_its_batch_differs_and_why_is_said(tmp_path, capsys):
    Loop(normed).run(4, tmp_path / "whole")
    Loop(normed).run(4, tmp_path / "parts", split=[12, 12])
    _, (pair,), _ = ask(capsys, tmp_path / "whole", tmp_path / "parts")
    assert (pair["verdict"], place(pair)) == ("diverged", (0, "output"))
    assert "a model that normalises over its batch (BatchNorm) computes other numbers" in pair["cause"]


def test_a_loss_scale_is_no_difference_by_itself(tmp_path, capsys):
    Loop().run(6, tmp_path / "plain")
    Loop(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)).run(6, tmp_path / "scaled")
    status, (pair,), _ = ask(capsys, tmp_path / "plain", tmp_path / "scaled")
    assert (status, pair["verdict"]) == (0, "rounding")


# Ranks

RANK = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
import parity
sys.path[:0] = ["tests/judge", "tests"]
from test_relations import CRITERION, batches, normed, perceptron
from two_ranks import two_ranks


def reduce(model):
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2


def train(name, rank, folder):
    torch.manual_seed(0)
    module = normed() if name == "normed" else perceptron()
    model = DistributedDataParallel(module) if name in ("right", "moved", "normed") else module
    if name.startswith("shards"):
        model = fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, foreach=False)
    with parity.Recorder(f"{folder}/{name}", model, optimizers=optimizer, criterion=CRITERION) as recorder:
        for step, (inputs, target) in enumerate(batches(6)):
            inputs, target = inputs.chunk(2)[rank], target.chunk(2)[rank]
            if name == "moved" and step == 3 and rank:
                with torch.no_grad():
                    module[0].bias.add_(1e-3)
            optimizer.zero_grad()
            output = model(inputs)
            loss = CRITERION(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            if name == "late":
                reduce(module)
            optimizer.step()
            recorder.step()


folder = sys.argv[1]
torch.set_num_threads(1)
with two_ranks() as rank:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name in ("right", "unsynchronised", "late", "moved", "shards", "shards_again", "normed"):
        train(name, rank, folder)
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """Trainings of two ranks, and one process with the whole batch."""
    folder = tmp_path_factory.mktemp("ranked")
    ended = warm_command("-c", RANK, folder)
    assert ended.status == 0, ended.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Loop().run(6, folder / "single")
    Loop(normed).run(6, folder / "single-normed")
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize("name", ["right", "late"])
def test_ranks_are_rounding_beside_one_process(ranked, capsys, name):
    status, pairs, out = ask(capsys, ranked / "single", ranked / name)
    assert (status, [pair["verdict"] for pair in pairs]) == (0, ["rounding", "rounding"])
    assert [pair["steps"] for pair in pairs] == [6, 6]
    assert "inputs, outputs and losses are not. The loss is the mean over the ranks." in out
    # The mean of the losses of the ranks, and not that of half a batch.
    assert all(pair["largest"]["rel"] < 1e-5 for pair in pairs)


@pytest.mark.parametrize("name", ["right", "late"])
def test_ranks_are_equal_to_each_other(ranked, capsys, name):
    status, (pair,), _ = ask(capsys, ranked / name)
    assert (status, pair["verdict"], pair["steps"]) == (0, "identical", 6)


@pytest.mark.parametrize("alone", [False, True])
def test_gradients_that_are_not_synchronised_are_found(ranked, capsys, alone):
    paths = [ranked / "unsynchronised"] if alone else [ranked / "single", ranked / "unsynchronised"]
    status, pairs, _ = ask(capsys, *paths)
    assert (status, {pair["verdict"] for pair in pairs}) == (1, {"diverged"})
    assert {place(pair) for pair in pairs} == {(0, "param_grad")}
    assert all(
        "of rank-1 is not that of rank-0 to the bit: the gradients are not sync" in pair["cause"] for pair in pairs
    )


def test_a_rank_whose_parameters_were_moved_is_found_at_its_step(ranked, capsys):
    status, (pair,), _ = ask(capsys, ranked / "moved")
    assert (status, pair["verdict"], place(pair)) == (1, "diverged", (3, "param"))
    assert "param 0.bias of rank-1 is not that of rank-0 to the bit" in pair["cause"]


def test_no_rank_has_a_float64_gradient_of_the_parameters(ranked):
    rows = pq.read_table(ranked / "right" / "rank-1" / "step_errors.parquet").to_pylist()
    assert {row["quantity"] for row in rows} == {"output", "loss", "output_grad"}


def test_ranks_that_normalise_over_their_own_rows_differ_and_why_is_said(ranked, capsys):
    _, pairs, _ = ask(capsys, ranked / "single-normed", ranked / "normed")
    assert {pair["verdict"] for pair in pairs} == {"diverged"}
    assert all("normalises over its batch (BatchNorm)" in pair["cause"] for pair in pairs)
    status, (pair,), out = ask(capsys, ranked / "normed")
    assert (status, pair["verdict"]) == (0, "identical")
    assert "Their buffers differ from the first step on, and are not compared." in out


def test_parts_of_parameters_are_compared_with_those_of_the_same_rank(ranked, capsys):
    """As FSDP2 makes them."""
    status, pairs, _ = ask(capsys, ranked / "shards", ranked / "shards_again")
    assert (status, [pair["verdict"] for pair in pairs]) == (0, ["identical", "identical"])
    assert report.main([str(ranked / "shards")]) == 3
    assert "ranks are not compared with each other" in " ".join(capsys.readouterr().out.split())
    assert report.main([str(ranked / "single"), str(ranked / "shards")]) == 2
    assert "hold parts of the parameters" in " ".join(capsys.readouterr().err.split())
