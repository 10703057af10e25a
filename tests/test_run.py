import contextlib
import functools
import json
import os
import re
import sys

import pandas as pd
import pytest

from parity import measuring, run
from parity.ground import interrupt
from parity.ground.errors import Trouble
from parity.plan.options import make_parser
from parity.store.events import Advanced
from parity.train import inline, loop

from conftest import command

WRONG = "tests/wrong_losses.py"
RIGHT = "tests/right_losses.py"


def inline_run(out, *arguments):
    return run.main(["--inline", "--device", "cpu", "--out", str(out), *map(str, arguments)])


def pairs(out):
    return {pair["candidate_loss"]: pair for pair in json.loads((out / "summary.json").read_text())["pairs"]}


def test_wrong_losses_are_caught_at_their_onset_and_right_ones_are_not_flagged(tmp_path):
    wrong = {
        "Doubled": ("diverged", 0),
        "SlightlyScaled": ("diverged", 0),
        "SignFlipped": ("diverged", 0),
        "Zero": ("diverged", 0),
        "detached": ("failed", None),
        "raising_at_9": ("failed", None),
        "nan_at_5": ("diverged", 5),
    }
    right = ["float64_accumulation", "row_means", "functional", "ReorderedGradient", "sum_over_numel", "reported_only"]
    losses = [*(f"{WRONG}:{name}" for name in wrong), *(f"{RIGHT}:{name}" for name in right)]
    short = ("--steps", 10, "--batch-size", 64)
    assert inline_run(tmp_path / "run", *short, "--loss", "builtin", *losses) == 1
    found = pairs(tmp_path / "run")
    for name, (verdict, onset) in wrong.items():
        assert found[name]["verdict"] == verdict, name
        assert (found[name]["onset"]["step"] if found[name]["onset"] else None) == onset, name
    assert found["Doubled"]["audit"]["grad_ratio"] == pytest.approx(2)
    assert found["SignFlipped"]["audit"]["grad_ratio"] == pytest.approx(-1)
    assert found["Zero"]["audit"]["grad_ratio"] == 0
    assert found["raising_at_9"]["steps"] == 9
    for name in right:
        assert found[name]["verdict"] in ("identical", "report-only", "rounding"), name
    assert found["functional"]["verdict"] == "identical"
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet").set_index("loss_name")
    assert "planted" in trials.traceback["raising_at_9"] and "wrong_losses.py" in trials.traceback["raising_at_9"]
    assert trials.loss_sha256.notna().sum() == len(losses)


def test_what_shows_on_the_partial_batch_alone_is_caught_there(tmp_path, few_images):
    """A mean over 96 rows is rounded, one over 256 rows is not, in whatever order it is summed."""
    losses = [f"{WRONG}:HardCoded", f"{WRONG}:tripled_report"]
    assert inline_run(tmp_path / "run", "--steps", 13, "--loss", "builtin", *losses) == 1
    found = pairs(tmp_path / "run")
    assert [pair["verdict"] for pair in found.values()] == ["diverged", "diverged"]
    assert found["HardCoded"]["onset"]["step"] == 11
    assert found["HardCoded"]["audit"]["grad_ratio"] == pytest.approx(96 / 256)
    # Where its gradient is equal to the bit as well, the contract alone speaks of the number.
    assert (found["tripled_report"]["onset"]["step"], found["tripled_report"]["onset"]["quantity"]) == (0, "loss")


def test_two_runs_are_bit_identical(tmp_path):
    for name in ("one", "two"):
        assert inline_run(tmp_path / name, "--steps", 4) == 0
    one, two = (pd.read_parquet(tmp_path / name / "traces").drop(columns="step_s") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_the_report_does_not_wait_for_the_cluster_to_let_go(tmp_path, monkeypatch):
    """A head that is frozen may keep the connection for long, and everything has been trained by then."""
    there = []

    @contextlib.contextmanager
    def executor(asked, data):
        yield inline.Inline(), ()
        there.extend(name for name in ("summary.json", "report.html") if (tmp_path / "run" / name).exists())

    monkeypatch.setattr(measuring, "_executor", executor)
    inline_run(tmp_path / "run", "--steps", 1, "--loss", "builtin", "--quick")
    assert there == ["summary.json", "report.html"]


def test_seeds_and_replicas_make_their_pairs(tmp_path):
    assert inline_run(tmp_path / "run", "--steps", 2, "--seed", 0, 7, "--replicas", 2) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [pair["axis"] for pair in summary["pairs"]] == ["loss"] * 4 + ["replica"] * 4
    assert {pair["verdict"] for pair in summary["pairs"] if pair["axis"] == "replica"} == {"identical"}


def test_one_trial_compares_nothing(tmp_path, capsys):
    assert inline_run(tmp_path / "run", "--steps", 1, "--loss", "numpy") == 3
    assert "Nothing to compare" in capsys.readouterr().out
    assert len(pd.read_parquet(tmp_path / "run" / "differences.parquet")) == 0


@pytest.mark.parametrize("devices", [["cpu"], ["auto"]])
def test_a_run_that_can_compare_nothing_says_so_before_it_trains(tmp_path, devices, monkeypatch, capsys):
    def train(*_):
        assert (
            "nothing to compare: this run has a single trial. Add a --loss, a --device or --replicas; or compare it "
            "with another run later (parity report A B)\n"
        ) in capsys.readouterr().err
        raise Trouble("trained")

    monkeypatch.setattr(inline.Inline, "accelerators", lambda self: [])
    monkeypatch.setattr(inline.Inline, "train", train)
    options = ["--inline", "--device", *devices, "--loss", "numpy", "--seed", "0", "1"]
    assert run.main([*options, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.endswith("parity: trained\n")


def test_no_interruption_is_raised_within_an_import_while_ray_is_imported(tmp_path, monkeypatch, capsys):
    """It would leave a lock behind, for which the thread that imports Ray would wait for ever."""
    held = []

    class Finder:
        def find_spec(self, name, *_):
            if name == "parity.measuring":
                held.append(interrupt._state.held)

    monkeypatch.delattr("parity.measuring")
    monkeypatch.delitem(sys.modules, "parity.measuring")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert inline_run(tmp_path / "run", "--steps", 1) == 0
    assert held == [True] and not interrupt._state.held


def test_a_failed_baseline_exits_with_2(tmp_path, capsys):
    assert inline_run(tmp_path / "run", "--steps", 2, "--loss", f"{WRONG}:unreduced", "builtin") == 2
    out = " ".join(capsys.readouterr().out.split())
    host = os.uname().nodename
    assert out.startswith(
        f"The baseline failed: Trial unreduced@cpu-s0 failed at step 0 on {host}: "
        "loss returned shape [256], a scalar is needed. mnist-autoencoder, 2 steps: inconclusive "
    )


def test_a_baseline_without_a_float64_form_leaves_differences_undecided(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def mse(output, target):\n    assert output.dtype.itemsize == 4\n    return ((output - target) ** 2).mean()\n"
    )
    assert inline_run(tmp_path / "run", "--steps", 2, "--loss", f"{tmp_path}/mine.py:mse", "numpy") == 3
    assert pairs(tmp_path / "run")["numpy"]["cause"].startswith("no audit: in float64 it raised AssertionError")


def test_run_json_says_what_was_asked(equal_pair):
    info = json.loads((equal_pair / "run.json").read_text())
    assert info["schema"] == 1 and info["state"] == "complete"
    assert info["command"].startswith("python -m parity.run --inline --device cpu --steps 8 --loss builtin ")
    assert info["trials"] == ["builtin@cpu-s0", "functional@cpu-s0"]
    assert set(info["versions"]) == {"python", "training-parity", "numpy", "pandas", "pyarrow", "ray", "torch"}


def test_an_existing_out_is_refused(equal_pair, capsys):
    before = {path: path.read_bytes() for path in equal_pair.rglob("*") if path.is_file()}
    assert inline_run(equal_pair) == 2
    assert capsys.readouterr().err == (
        f"parity: {equal_pair} already holds a run. Choose another --out, or continue it with --resume {equal_pair}.\n"
    )
    assert {path: path.read_bytes() for path in equal_pair.rglob("*") if path.is_file()} == before


def test_a_uri_of_no_filesystem_is_reported(capsys):
    assert inline_run("nix://bucket/run") == 2
    assert capsys.readouterr().err == (
        "parity: nix://bucket/run cannot be used (Unsupported filesystem: 'nix'). "
        "Give a path, or a URI such as s3://BUCKET/DIR.\n"
    )


def test_a_batch_larger_than_the_data_is_refused_and_leaves_nothing(tmp_path, capsys):
    assert inline_run(tmp_path / "run", "--batch-size", 60_001) == 2
    assert "--batch-size 60001 is larger than the data, which has 60000 rows." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_trouble_before_the_first_step_leaves_no_folder(tmp_path, capsys):
    status = run.main(
        ["--inline", "--device", "cpu:isa=default", "cpu:isa=avx2", "--steps", "1", "--out", str(tmp_path / "run")]
    )
    assert status == 2
    assert capsys.readouterr().err.split("\n", 1)[1] == (
        "parity: --inline trains in this process, which can have only one instruction set; found cpu:isa=avx2, "
        "cpu:isa=default. Leave out --inline, or give one isa=.\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "mse2"], "Unknown loss 'mse2'. Known losses: builtin, numpy; or give module:attr or file.py:attr."),
        (
            ["--task", "cifar"],
            "Unknown task 'cifar'. Known tasks: mnist-autoencoder, mnist-classifier; "
            "or give module:attr or file.py:attr.",
        ),
    ],
)
def test_unknown_names_exit_with_2(tmp_path, arguments, message, capsys):
    assert inline_run(tmp_path / "run", *arguments) == 2
    assert capsys.readouterr().err == f"parity: {message}\n"
    assert not (tmp_path / "run").exists()


def test_an_unknown_device_exits_with_2(tmp_path, capsys):
    assert run.main(["--inline", "--device", "gpu", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("parity: Unknown device 'gpu'. Known devices: cpu, ")


def test_ctrl_c_keeps_what_was_trained(tmp_path, monkeypatch, capsys):
    perform = inline.perform
    # Each step by itself, however many of them a machine takes in the time of a chunk.
    monkeypatch.setattr(loop, "train", functools.partial(loop.train, chunk_s=0.0))

    def interrupted(trial, *arguments):
        for event in perform(trial, *arguments):
            yield event
            if trial.loss.name == "numpy" and isinstance(event, Advanced):
                raise KeyboardInterrupt

    monkeypatch.setattr(inline, "perform", interrupted)
    assert inline_run(tmp_path / "run", "--steps", 12) == 2
    out = capsys.readouterr().out
    assert out.startswith("This run is partial: numpy@cpu-s0 did not finish. The verdict is about the ")
    assert out.endswith(
        f"\nInterrupted. What was trained is kept: continue it with\n  parity run --resume {tmp_path / 'run'}\n"
    )
    (pair,) = pairs(tmp_path / "run").values()
    assert pair["verdict"] == "inconclusive" and pair["steps"] == 1
    assert re.fullmatch(r"numpy@cpu-s0 was interrupted: 1 of 12 steps can be compared", pair["cause"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "running"
    assert list(pd.read_parquet(tmp_path / "run" / "trials.parquet")["status"]) == ["complete", "interrupted"]


def test_auto_is_the_cpu_and_each_accelerator_once():
    assert measuring._expand_auto(["auto"], lambda: ["cuda"]) == ["cpu", "cuda"]
    assert measuring._expand_auto(["auto", "cpu:threads=2", "cpu"], list) == ["cpu", "cpu:threads=2"]
    assert measuring._expand_auto(["cpu", "cpu"], list) == ["cpu", "cpu"], (
        "a repeat that was typed is reported, not dropped"
    )


def test_inline_pins_an_isa_before_torch_is_imported(tmp_path):
    out = tmp_path / "run"
    ended = command("-m", "parity.run", "--inline", "--device", "cpu:isa=default", "--steps", 1, "--out", out)
    assert ended.status == 0, ended.stderr
    assert set(pd.read_parquet(out / "trials.parquet")["cpu_capability"]) == {"DEFAULT"}


def test_inline_reports_an_isa_that_comes_too_late(make_trials, data):
    with pytest.raises(Trouble, match=r"the setting did not take effect|this CPU lacks"):
        for capability in ("default", "avx2", "avx512"):
            (trial,) = make_trials(device=f"cpu:isa={capability}")
            next(inline.perform(trial, data))


def test_every_option_has_help():
    for action in make_parser()._actions:
        assert action.help


def test_the_help_fits_a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = make_parser().format_help()
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "(default: 256)" in text and "%(" not in text
