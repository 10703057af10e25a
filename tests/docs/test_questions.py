"""The five questions of docs/how-to/ask-the-files.md: pandas, DuckDB and Polars give the same answer, the judge's.

The snippets run as they stand there, in a folder that has the runs which they name.
"""

import json
import math
import re

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from synthetic_runs import Planted, make_run, write_run

from parity import run
from parity.judge.judging import judge
from parity.store.stored_run import read_run

from conftest import ROOT, own_environment

TOOLS = ("pandas", "duckdb", "polars")
DEVICES = ["cpu", "cpu:threads=2", "cpu:plant=bfloat16", "cpu:plant=element-4", "cpu:plant=flip-9"]

# A small task of three epochs; losses that differ, turn to NaN and raise.
TASK = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy

calls = 0


def count():
    global calls
    calls += 1
    return calls - 1


class Quadrants:
    def data(self):
        points = torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
        return {"points": points, "labels": (points.prod(dim=1) > 0).long()}

    def model(self):
        return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))

    def optimizer(self, parameters, lr):
        return torch.optim.SGD(parameters, lr)

    def batch(self, data, start, stop):
        return tuple(torch.tensor(data[name][start:stop]) for name in ("points", "labels"))

    def forward(self, model, batch):
        return model(batch[0]), batch[1]

    def loss(self, output, target):
        return cross_entropy(output, target)


def by_hand(output, target):
    return (output.logsumexp(dim=1) - output.gather(1, target[:, None])[:, 0]).mean()


def nan_at_11(output, target):
    return cross_entropy(output, target) * (float("nan") if count() == 11 else 1)


def raising_at_13(output, target):
    if count() == 13:
        raise ValueError("planted")
    return cross_entropy(output, target)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Has runs/devices and runs/fleet. The traces have odd lengths, so that a median is one of the values."""
    folder = tmp_path_factory.mktemp("questions")
    task = folder / "small.py"
    task.write_text(TASK)
    losses = [f"{task}:{name}" for name in ("by_hand", "nan_at_11", "raising_at_13")]
    arguments = ["--inline", "--task", f"{task}:Quadrants", "--loss", "builtin", *losses, "--device", *DEVICES]
    arguments += ["--batch-size", "64", "--epochs", "3", "--steps", "19", "--out", str(folder / "runs" / "devices")]
    with own_environment():
        assert run.main(arguments) == 1
    slow_down(folder / "runs" / "devices" / "traces", "by_hand@cpu-s0")
    write_run(fleet(), folder / "runs" / "fleet")
    return folder


def slow_down(traces, trial):
    """Makes the worker of a trial a thousand times slower, in what is stored."""
    for path in traces.iterdir():
        table = pq.read_table(path)
        index = table.schema.get_field_index("step_s")
        factor = pc.if_else(pc.equal(table["trial"], trial), 1000.0, 1.0)
        slower = pc.multiply(table["step_s"], factor)
        pq.write_table(table.set_column(index, table.schema.field(index), slower), path)


def fleet():
    """Five devices of which one is always odd and one sometimes; three of other settings, of which one is odd; two of
    other software, and four with a GPU, without a majority; and trials that have no vote.
    """
    fault = {"differs": {"param_grad": 3, "param": 3}, "tensors": (4,)}
    other = {"torch": "2.14"}
    gpu = {"gpu_name": "a GPU", "gpu_driver": "1"}
    return make_run(
        *(Planted("builtin", device=f"cpu@n{n}", replica=replica) for n in (0, 1, 2) for replica in (0, 1, 2)),
        *(Planted("builtin", device="cpu@n3", replica=replica, **fault) for replica in (0, 1, 2)),
        *(
            Planted("builtin", device="cpu@n4", replica=replica, **(fault if replica == 1 else {}))
            for replica in (0, 1, 2)
        ),
        *(Planted("builtin", device=f"cpu:threads=2@n{n}") for n in (0, 1)),
        Planted("builtin", device="cpu:threads=2,plant=element-3@n2", **fault),
        Planted("builtin", device="cpu@n5", record=other),
        Planted("builtin", device="cpu@n6", record=other, **fault),
        *(Planted("builtin", device=f"cuda@n{n}#0", record=gpu) for n in (0, 1)),
        Planted("builtin", device="cuda@n2#0", record=gpu, **fault),
        Planted("builtin", device="cuda@n3#0", record=gpu, differs={"param": 2}),
        Planted("builtin", device="cpu@n7", steps=4, record={"status": "interrupted"}, **fault),
        Planted("builtin", device="cpu", replica=9, record={"noise": 1, "replica": 0}, **fault),
        steps=7,
    )


@pytest.fixture(scope="module")
def judged(folder):
    """Each run's verdicts, by its name."""
    return {name: judge(read_run(folder / "runs" / name)) for name in ("devices", "fleet")}


@pytest.fixture(scope="module")
def summary(folder):
    return json.loads((folder / "runs" / "devices" / "summary.json").read_text())["pairs"]


def sections():
    """The questions of the page: heading -> the text below it."""
    page = (ROOT / "docs" / "how-to" / "ask-the-files.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))


def blocks(question, language):
    """The fenced blocks of a question."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", sections()[question], re.MULTILINE | re.DOTALL)
    return [text for found, text in fenced if found == language]


def snippets(question):
    """The code of a question, by tool."""
    found = blocks(question, "python")
    tools = [re.match(r"import (\w+)", code)[1] for code in found]
    assert tools == list(TOOLS)
    return dict(zip(TOOLS, found, strict=True))


def ask(code):
    """The rows of a snippet's answer, with "nan" for a NaN."""
    names = {}
    exec(code, names)
    answer = names["answer"]
    if isinstance(answer, pd.DataFrame):
        found = answer.itertuples(index=False, name=None)
    else:
        found = answer.fetchall() if "duckdb" in names else answer.rows()
    return [tuple("nan" if isinstance(value, float) and math.isnan(value) else value for value in row) for row in found]


FIRST_STEP = "Which step differs first, on each device?"
DRIFT = "How far do the losses drift, epoch by epoch?"
SLOWEST = "Which worker is the slowest?"
TENSOR = "Which tensor's gradient differs first?"
ODD = "Which device of a fleet is the odd one?"
QUESTIONS = (FIRST_STEP, DRIFT, SLOWEST, TENSOR, ODD)


@pytest.fixture
def answers(folder, judged, summary):
    """What the judge says, by question."""
    pairs = judged["devices"].pairs
    return {
        FIRST_STEP: first_steps(summary),
        DRIFT: [row for pair in pairs if pair.pair.axis == "loss" for row in drift(pair)],
        SLOWEST: slowest(read_run(folder / "runs" / "devices")),
        TENSOR: [row for pair in pairs for row in first_tensor(pair)],
        ODD: [(unit.device, len(unit.trials)) for each in judged["fleet"].fleet.classes for unit in each.odd],
    }


def first_steps(summary):
    found = [pair for pair in summary if pair["axis"] == "device" and pair["first"]]
    return [(pair["candidate_loss"], pair["candidate_device"], pair["first"]["step"]) for pair in found]


def drift(pair):
    """The largest of each epoch, a NaN before any number, as NumPy has it."""
    epochs = pair.comparison.both("epoch")[0]
    for epoch in np.unique(epochs):
        largest = pair.comparison.loss_rel[epochs == epoch].max()
        yield pair.pair.candidate.trial, int(epoch), "nan" if np.isnan(largest) else float(largest)


def slowest(stored):
    found = [(r.trial, r.host, float(np.median(stored.traces[r.trial]["step_s"].to_numpy()))) for r in stored.trials]
    return sorted(found, key=lambda row: -row[2])[:3]


def first_tensor(pair):
    first = pair.comparison.first(among=("param_grad",))
    if first:
        yield pair.pair.baseline.trial, pair.pair.candidate.trial, first.step, first.tensor


@pytest.fixture
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_the_page_has_the_questions():
    assert tuple(sections()) == QUESTIONS


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_the_judges(question, tool, answers, capsys):
    found, want = ask(snippets(question)[tool]), answers[question]
    assert (found == want) if question == SLOWEST else (sorted(found) == sorted(want))
    assert capsys.readouterr().out.strip(), "it prints its answer"


def test_the_runs_have_something_to_answer(answers, judged, summary):
    """What was planted is what the judge says; else the snippets would be compared with nothing."""
    first = {device: step for loss, device, step in answers[FIRST_STEP] if loss == "builtin"}
    assert first == {"cpu:plant=bfloat16": 0, "cpu:plant=element-4": 4, "cpu:plant=flip-9": 9}
    drifted = {(trial, epoch): largest for trial, epoch, largest in answers[DRIFT]}
    assert [drifted["nan_at_11@cpu-s0", epoch] for epoch in (0, 1, 2)] == [0.0, "nan", "nan"]
    assert 0 < drifted["by_hand@cpu-s0", 0] < 1e-5 and ("raising_at_13@cpu-s0", 2) not in drifted
    for pair in summary:
        largest = [value for (trial, _), value in drifted.items() if trial == pair["candidate"]]
        if pair["axis"] == "loss" and "nan" not in largest:
            assert max(largest) == pair["largest"]["rel"]
    assert answers[SLOWEST][0][0] == "by_hand@cpu-s0"
    tensors = {(baseline, candidate): (step, tensor) for baseline, candidate, step, tensor in answers[TENSOR]}
    assert tensors["builtin@cpu-s0", "builtin@cpu:plant=element-4-s0"][0] == 4
    direct = [pair for pair in summary if pair["first"] and pair["first"]["quantity"] == "param_grad"]
    assert len(direct) > 4
    for pair in direct:
        assert tensors[pair["baseline"], pair["candidate"]] == (pair["first"]["step"], pair["first"]["tensor"])
    assert dict(answers[ODD]) == {"cpu@n3": 3, "cpu@n4": 1, "cpu:threads=2,plant=element-3@n2": 1}
    assert [len(each.devices) for each in judged["fleet"].fleet.classes] == [7, 3, 2, 4]


# By question, what makes each tool's snippet wrong.
MISTAKES = {
    FIRST_STEP: {
        "pandas": ("step.min()", "step.max()"),
        "duckdb": ("min(step)", "max(step)"),
        "polars": ("pl.min", "pl.max"),
    },
    DRIFT: {
        "pandas": ("skipna=False", "skipna=True"),
        "duckdb": ("axis = 'loss'", "NOT isnan(loss_rel)"),
        "polars": (".sort().last()", ".max()"),
    },
    SLOWEST: {
        "pandas": ("nlargest", "nsmallest"),
        "duckdb": (" DESC", ""),
        "polars": ("top_k", "bottom_k"),
    },
    TENSOR: {"pandas": ("[-1]", "[0]"), "duckdb": ("][-1]", "][1]"), "polars": ("pl.last", "pl.first")},
    ODD: {
        "pandas": ("settings, *facts", "settings"),
        "duckdb": ("(.plant=.*)?@", "@"),
        "polars": ('pl.max("lead").over(same) > 0, ', ""),
    },
}


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_wrong_snippet_gives_another_answer(question, tool, answers):
    right, wrong = MISTAKES[question][tool]
    code = snippets(question)[tool]
    assert code.count(right) >= 1
    assert sorted(ask(code.replace(right, wrong))) != sorted(answers[question])


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_printed_answer_of_the_page_has_the_columns_of_the_real_one(question, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (shown,) = blocks(question, "")
    exec(snippets(question)["pandas"], {})
    printed = capsys.readouterr().out
    assert shown.splitlines()[0].split() == printed.splitlines()[0].split()
