"""Several stored runs judged together: what is paired, named, refused, and called rounding."""

import json
import shutil
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
from audited_tasks import Plain

import parity
from parity import report, run
from parity.ground.errors import Trouble
from parity.judge.judging import judge
from parity.judge.several_runs import join
from parity.judge.sides import label
from parity.store.trace import QUANTITIES

from conftest import QUICK, own_environment, plant, rewrite

STEPS = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes short runs, each once."""
    folder = tmp_path_factory.mktemp("runs")

    def make(name, *candidates, **options):
        out = folder / name
        if not out.exists():
            parity.check([*candidates], out=out, **{"steps": STEPS, "replicas": 2, "batch_size": 64, **options})
        return out

    return make


@pytest.fixture
def old(made):
    return made("old", "numpy", replicas=1)


@pytest.fixture
def copied(tmp_path):
    def copy(directory, name="new"):
        return shutil.copytree(directory, tmp_path / name)

    return copy


def pairs(*directories, across=False):
    joined = join(directories, across=across)
    return joined, judge(joined.run, joined.pairs)


def first_by_hand(old, new, loss):
    """Step and quantity of the first digest that differs, from the files."""
    traces = (pd.read_parquet(str(directory / "traces")) for directory in (old, new))
    left, right = (table[table.loss_name == loss].set_index("step") for table in traces)
    for step in left.index:
        for quantity in QUANTITIES:
            if left[f"{quantity}_digest"][step] != right[f"{quantity}_digest"][step]:
                return step, quantity
    return None


def test_runs_on_other_thread_counts_name_the_axis_and_the_first_difference(made, old, capsys):
    new = made("threads", "numpy", device="cpu:threads=2", replicas=1)
    assert report.main([str(old), str(new), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(pair["axis"], pair["baseline"], pair["candidate"]) for pair in found["pairs"]] == [
        ("device", "old/builtin@cpu-s0", "threads/builtin@cpu:threads=2-s0"),
        ("device", "old/numpy@cpu-s0", "threads/numpy@cpu:threads=2-s0"),
    ]
    for pair in found["pairs"]:
        loss = pair["baseline_loss"]
        first = pair["first"] and (pair["first"]["step"], pair["first"]["quantity"])
        assert first == first_by_hand(old, new, loss)
    assert found["pairs"][0]["first"] is not None  # a sum on two threads has another order
    report.main([str(old), str(new)])
    assert "old and threads differ in device: cpu, cpu:threads=2." in capsys.readouterr().out


def test_a_run_is_identical_to_its_copy(old, copied):
    _, judgement = pairs(old, copied(old))
    assert [verdict.verdict for verdict in judgement.pairs] == ["identical", "identical"]
    assert [verdict.pair.axis for verdict in judgement.pairs] == ["run", "run"]
    assert judgement.exit_status == 0


def test_other_software_is_named_and_may_be_identical(old, copied, capsys):
    new = copied(old)
    rewrite(new, torch="9.9.0", numpy="9.0")
    assert report.main([str(old), str(new)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "identical (by torch, numpy)" in out
    assert f"old and new differ in torch: {parity_torch(old)}, 9.9.0; numpy: " in out


def parity_torch(directory):
    return pq.read_table(directory / "trials.parquet")["torch"][0].as_py()


def test_a_device_that_rounds_otherwise_is_rounding_by_its_own_steps_in_float64(old, copied):
    """Other software, and from the first step on other bits: each run's steps are as near to float64."""
    new = copied(old)
    rewrite(new, torch="9.9.0")
    for trial in ("builtin", "numpy"):
        for step in range(STEPS):
            for quantity in ("output", "loss", "output_grad", "param_grad", "param"):
                plant(new, f"{trial}@", f"{quantity}_digest", step, lambda value: value ^ 1)
    _, judgement = pairs(old, new)
    assert [verdict.verdict for verdict in judgement.pairs] == ["rounding", "rounding"]
    assert judgement.pairs[0].device_audit.steps == (0, 10)
    assert (judgement.pairs[0].first.step, judgement.pairs[0].first.quantity) == (0, "output")


def test_a_wrong_device_of_a_later_run_is_diverged(made, old):
    new = made("bfloat16", "numpy", device="cpu:plant=bfloat16", replicas=1)
    _, judgement = pairs(old, new)
    for verdict in judgement.pairs:
        assert (verdict.verdict, verdict.onset.step, verdict.onset.quantity) == ("diverged", 0, "output")
        assert "against float64, in a step from the same state" in verdict.cause
    assert judgement.exit_status == 1


def test_the_same_code_on_the_same_machine_owes_the_same_bits(old, copied):
    new = copied(old)
    plant(new, "builtin@", "param_digest", 7, lambda value: value ^ 1)
    _, judgement = pairs(old, new)
    parted, equal = judgement.pairs
    assert (parted.verdict, parted.onset.step, parted.onset.quantity) == ("diverged", 7, "param")
    assert "nothing that is recorded differs" in parted.cause
    assert equal.verdict == "identical"


def test_replicas_that_disagree_owe_nothing(made, copied):
    noisy = made("noise", device="cpu:plant=noise")
    again = copied(noisy)
    plant(again, "s0.parquet", "output_digest", 3, lambda value: value ^ 1)
    _, judgement = pairs(noisy, again)
    assert {verdict.verdict for verdict in judgement.pairs} == {"inconclusive"}
    assert "replicas disagree" in judgement.pairs[0].cause


def test_other_seeds_are_never_rounding(made, old):
    joined, judgement = pairs(old, made("seed", "numpy", seed=1, replicas=1))
    for verdict in judgement.pairs:
        assert (verdict.pair.axis, verdict.verdict, verdict.onset.quantity) == ("seed", "diverged", "state")
        assert "the states from which the step is taken differ: initial parameters of 0.0.weight" in verdict.cause
    assert joined.run.info["notes"] == ["old and seed differ in seed: 0, 1."]


def test_other_initial_parameters_are_never_rounding(made, old, copied):
    """As where another torch draws other random numbers of the same seed."""
    new = copied(made("seed", "numpy", seed=1, replicas=1))
    rewrite(new, seed=0, torch="9.9.0")
    _, judgement = pairs(old, new)
    assert {(verdict.verdict, verdict.onset.quantity) for verdict in judgement.pairs} == {("diverged", "state")}
    assert "initial parameters of 0.0.weight and 15 more" in judgement.pairs[0].cause


def test_another_learning_rate_is_named(made, old):
    _, judgement = pairs(old, made("rate", "numpy", lr=2e-3, replicas=1))
    for verdict in judgement.pairs:
        assert (verdict.pair.axis, verdict.verdict) == ("lr", "diverged")
        assert (verdict.onset.step, verdict.onset.quantity) == (0, "state")
        assert "learning rate: 0.001 and 0.002" in verdict.cause


ADAM = "Adam(betas=(0.9, 0.999), eps=1e-08, lr=0.001)"


@pytest.mark.parametrize(
    ("optimizer", "axis"),
    [
        (ADAM, "torch"),
        ("Adam(betas=(0.9, 0.999), eps=1e-08, lr=0.001, new=False)", "torch"),  # another torch has more settings
        ("Adam(betas=(0.9, 0.99), eps=1e-08, lr=0.001)", "optimizer, torch"),
        ("AdamW(betas=(0.9, 0.999), eps=1e-08, lr=0.001)", "optimizer, torch"),
        ("Adam(betas=(0.9, 0.999), eps=1e-08, lr=0.001; betas=(0.9, 0.999), eps=1e-06, lr=0.001)", "optimizer, torch"),
    ],
)
def test_optimizers_differ_in_what_both_have(old, copied, optimizer, axis):
    one, two = copied(old, "one"), copied(old, "two")
    rewrite(one, optimizer=ADAM)
    rewrite(two, optimizer=optimizer, torch="9.9.0")
    _, judgement = pairs(one, two)
    assert {verdict.pair.axis for verdict in judgement.pairs} == {axis}


def test_another_batch_size_is_other_data(made, old):
    _, judgement = pairs(old, made("rows", "numpy", batch_size=128, replicas=1))
    assert {(verdict.verdict, verdict.onset.quantity) for verdict in judgement.pairs} == {("diverged", "input")}
    assert "the inputs or targets differ, and what is computed from them is too far apart" in judgement.pairs[0].cause


LOSS = "def mine(output, target):\n    return ((output - target) ** 2).sum() / {divisor}\n"


@pytest.mark.parametrize(
    ("divisor", "verdict", "status"),
    [("output.numel()  # again", "identical", 0), ("(output.shape[0] * 392)", "diverged", 1)],
)
def test_the_code_of_a_loss_that_changed_is_the_axis(tmp_path, divisor, verdict, status):
    for name, text in (("old", "output.numel()"), ("new", divisor)):
        (tmp_path / "loss.py").write_text(LOSS.format(divisor=text))
        parity.check(f"{tmp_path}/loss.py:mine", steps=4, batch_size=64, out=tmp_path / name)
    _, judgement = pairs(tmp_path / "old", tmp_path / "new")
    found = {each.pair.candidate.loss_name: each for each in judgement.pairs}
    assert (found["builtin"].pair.axis, found["builtin"].verdict) == ("run", "identical")
    assert (found["mine"].pair.axis, found["mine"].verdict) == ("loss", verdict)
    assert judgement.exit_status == status
    if verdict == "diverged":
        assert "the gradient is scaled by 2" in found["mine"].cause


HELPED = "import {how}\n\n\ndef mine(output, target):\n    return ((output - target) ** 2).mean() / helper.DIVISOR\n"


@pytest.mark.parametrize(
    ("how", "made_by", "named"),
    [
        ("helper", "command", "helper.py"),
        ("importlib; helper = importlib.import_module('help' + 'er')", "command", "helper.py"),
        ("helper", "call", "imported code"),
    ],
    ids=["travels", "imported", "call"],
)
def test_a_file_beside_a_loss_that_changed_is_the_axis(tmp_path, monkeypatch, how, made_by, named):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "loss.py").write_text(HELPED.format(how=how))
    for name, divisor in (("old", "1.0"), ("same", "1.0"), ("new", "(4.0 / 2)")):
        (tmp_path / "helper.py").write_text(f"DIVISOR = {divisor}\n")
        sys.modules.pop("helper", None)
        loss, out = f"{tmp_path}/loss.py:mine", tmp_path / name
        if made_by == "call":
            parity.check(loss, steps=4, batch_size=64, out=out)
        else:
            with own_environment():
                run.main([*QUICK, "--loss", "builtin", loss, "--steps", "4", "--out", str(out)])
    sys.modules.pop("helper", None)
    joined, judgement = pairs(tmp_path / "old", tmp_path / "new")
    found = {each.pair.candidate.loss_name: each.pair for each in judgement.pairs}
    assert (found["builtin"].axis, found["mine"].axis) == ("run", named)
    assert any(f"old and new differ in {named}: " in note for note in joined.run.info["notes"])
    same = judge(*_run_and_pairs(tmp_path / "old", tmp_path / "same"))
    assert {(each.pair.axis, each.verdict) for each in same.pairs} == {("run", "identical")}


def _run_and_pairs(*directories):
    joined = join(directories, across=False)
    return joined.run, joined.pairs


def test_another_commit_of_parity_is_named_and_may_be_identical(old, copied, monkeypatch):
    new = copied(old)
    rewrite(new, parity_sha256="0" * 64)
    joined, judgement = pairs(old, new)
    assert {(each.pair.axis, each.verdict) for each in judgement.pairs} == {("code of parity", "identical")}
    assert "old and new differ in code of parity: " in joined.run.info["notes"][0]


def test_other_hardware_is_refused_and_compared_when_asked(old, copied, capsys):
    new = copied(old)
    rewrite(new, cpu_model="Another CPU")
    assert report.main([str(old), str(new)]) == 2
    stderr = capsys.readouterr().err
    assert "different hardware (cpu_model: old: " in stderr and "new: Another CPU" in stderr and "--across" in stderr
    assert report.main([str(old), str(new), "--across"]) == 0
    assert "identical (by cpu_model)" in capsys.readouterr().out


def test_a_gpu_is_other_hardware_than_a_cpu(old, copied):
    new = copied(old)
    rewrite(new, gpu_name="NVIDIA H100")
    with pytest.raises(Trouble, match=r"gpu_name: old: .*; new: NVIDIA H100"):
        join([old, new], across=False)


def test_trials_without_a_counterpart_are_told(made, old):
    joined, judgement = pairs(old, made("alone", replicas=2))
    assert [verdict.pair.candidate.trial for verdict in judgement.pairs] == ["alone/builtin@cpu-s0"]
    assert joined.run.info["notes"][1:] == [
        "Not compared, since alone has no counterpart: old/numpy@cpu-s0.",
        "Not compared, since old has no counterpart: alone/builtin@cpu-s0-r1.",
    ]


def test_runs_without_anything_in_common_are_refused(made, tmp_path):
    small = {"task": Plain, "epochs": 99}
    several = made("several", seed=(3, 4), replicas=1, device=("cpu", "cpu:threads=2"), **small)
    other = made("other", seed=(5, 6), replicas=1, device=("cpu:threads=3", "cpu:threads=4"), **small)
    with pytest.raises(Trouble, match="No trial of other can be compared with several"):
        join([several, other], across=False)


def test_several_runs_are_all_held_against_the_first(old, copied):
    one, two = copied(old, "one"), copied(old, "two")
    plant(two, "numpy@", "loss", 3, lambda value: value * 2)
    _, judgement = pairs(old, one, two)
    assert [(each.pair.baseline.run, each.pair.candidate.run) for each in judgement.pairs] == [
        ("old", "one"), ("old", "one"), ("old", "two"), ("old", "two"),
    ]  # fmt: skip
    assert [each.first is None for each in judgement.pairs] == [True, True, True, False]


def test_a_baseline_that_failed_is_trouble(made, old, tmp_path):
    (tmp_path / "raising.py").write_text("def numpy(output, target):\n    raise ValueError('no')\n")
    broken = made("broken", f"{tmp_path}/raising.py:numpy", replicas=1)
    _, judgement = pairs(old, broken)
    assert [verdict.verdict for verdict in judgement.pairs] == ["identical", "failed"]
    assert judgement.exit_status == 1
    _, judgement = pairs(broken, old)
    assert judgement.exit_status == 2
    assert "The baseline failed: Trial broken/numpy@cpu-s0 failed" in judgement.trouble


def test_a_run_from_before_there_were_steps_in_float64_is_read(old, copied):
    new = copied(old)
    (new / "step_errors.parquet").unlink()
    info = json.loads((new / "run.json").read_text())
    del info["files"]["step_errors.parquet"]
    (new / "run.json").write_text(json.dumps(info))
    rewrite(new, torch="9.9.0")
    plant(new, "builtin@", "output_digest", 0, lambda value: value ^ 1)
    # The distance says more than no step in float64: here none.
    assert pairs(old, new)[1].pairs[0].verdict == "rounding"
    for quantity in ("output", "param_grad"):
        plant(new, "builtin@", f"{quantity}_sketches", 0, lambda sums: [1.0001 * each for each in sums])
    _, judgement = pairs(old, new)
    assert judgement.pairs[0].verdict == "inconclusive"
    assert "new checked no step against float64" in judgement.pairs[0].cause


def test_steps_in_float64_that_a_run_should_have_are_missed(old, copied):
    new = copied(old)
    (new / "step_errors.parquet").unlink()
    with pytest.raises(Trouble, match=r"step_errors.parquet is missing"):
        join([old, new], across=False)


@pytest.mark.parametrize(
    ("directories", "labels"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["monday/run", "tuesday/run/"], ["monday/run", "tuesday/run"]),
        (["s3://bucket/a/x", "/tmp/b/x"], ["a/x", "b/x"]),
        (["runs/a", "runs/a"], ["runs/a#1", "runs/a#2"]),
    ],
)
def test_runs_are_called_by_what_tells_them_apart(directories, labels):
    assert label(directories) == labels


def test_the_page_of_two_runs_is_made(made, old, tmp_path, capsys):
    new = made("bfloat16", "numpy", device="cpu:plant=bfloat16", replicas=1)
    page = tmp_path / "page.html"
    assert report.main([str(old), str(new), "--html", str(page)]) == 1
    text = page.read_text(encoding="utf-8")
    assert "old and bfloat16 differ in device: cpu, cpu:plant=bfloat16." in text
    assert "bfloat16/builtin@cpu:plant=bfloat16-s0" in text


@pytest.mark.parametrize("form", ["markdown", "junit"])
def test_two_runs_are_told_in_each_format(made, old, capsys, form):
    new = made("bfloat16", "numpy", device="cpu:plant=bfloat16", replicas=1)
    assert report.main([str(old), str(new), "--format", form]) == 1
    out = capsys.readouterr().out
    assert "bfloat16/builtin@cpu:plant=bfloat16-s0" in out and "old/builtin@cpu-s0" in out
    assert "diverged" in out
