"""parity.check: what it returns, what it leaves alone, and that importing parity stays cheap."""

import doctest
import linecache
import random
import sys
import tempfile
import webbrowser
from dataclasses import replace

import numpy as np
import pytest
import torch

import parity
from parity import api, report
from parity.ground.errors import Trouble

from conftest import command


def doubled(output, target):
    return 2 * ((output - target) ** 2).mean()


def test_a_wrong_loss_is_reported_with_cause_and_tables():
    result = parity.check(doubled, steps=3)
    assert (result.verdict, result.passed, result.onset.step) == ("diverged", False, 0)
    assert result.causes[0].kind == "scaled" and "scaled by 2" in result.causes[0].text
    assert result.first.quantity == "loss" and "diverged" in str(result)
    assert set(result.contract.item) >= {"grad_output", "mutation"}
    assert (len(result.traces), len(result.differences)) == (6, 3)
    assert "Contract of doubled@cpu-s0" in result.report


@pytest.fixture(scope="module")
def wrong():
    return parity.check(doubled, steps=2, batch_size=64)


def test_a_result_is_one_short_line_with_verdict_and_cause_first(wrong):
    assert repr(wrong) == str(wrong) == f"{wrong}"
    assert str(wrong) == "diverged: the gradient is scaled by 2 (step 0); doubled against builtin"
    assert wrong.message.splitlines()[0] == str(wrong) and str(wrong.page) in wrong.message
    assert "diverged" in wrong._repr_html_()


def test_what_does_not_pass_keeps_its_run_and_its_page(wrong, tmp_path, monkeypatch):
    assert "doubled" in wrong.page.read_text(encoding="utf-8")
    assert wrong.page.parent == wrong.run.directory
    # Another process judges what is kept, and the result is not in its way.
    assert report.main([str(wrong.run.directory)]) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert parity.check("numpy", steps=2, batch_size=64).page is None
    with pytest.raises(Trouble):
        parity.check("numpy", steps=2, batch_size=64, device="cpu:isa=avx512x")
    assert [*tmp_path.glob("parity-checks-*/*")] == []


def test_the_report_is_plain_text_wherever_it_is_made(wrong, monkeypatch):
    plain = wrong.report
    assert plain.endswith(f"Report: {wrong.page}\n") and "\x1b" not in plain
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "40"), ("TTY_COMPATIBLE", "1"), ("JPY_PARENT_PID", "1")):
        monkeypatch.setenv(name, value)
    assert wrong.report == plain and max(map(len, plain.splitlines()[:-1])) <= 100


def test_the_page_opens_in_a_browser_or_is_named(wrong, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)  # returns None: there is no browser
    monkeypatch.setenv("BROWSER", "planted")
    assert wrong.open() == wrong.page and opened == [wrong.page.as_uri()]
    assert capsys.readouterr().err.startswith(f"parity: No browser was found to open {wrong.page}. ")
    # One in the terminal would get the terminal.
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert wrong.open() == wrong.page and len(opened) == 1
    # What was not kept, or what somebody has removed, is written anew: once.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = replace(wrong, page=tmp_path / "gone.html")
    assert gone.open() == gone.open() and "doubled" in gone.open().read_text(encoding="utf-8")
    assert len([*tmp_path.glob("parity-checks-*/*")]) == 1


def test_the_example_of_the_docstring_is_right():
    found = doctest.DocTestFinder(recurse=False).find(parity.check, globs={})
    assert sum(len(each.examples) for each in found) >= 4
    runner = doctest.DocTestRunner()
    assert [runner.run(each).failed for each in found] == [0]


class NoLoss:
    pass


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"candidate": NoLoss}, "The loss NoLoss is the class NoLoss. A loss is a function"),
        ({"task": 3}, "Task int has no data(), "),
        ({"out": ""}, "out='' is not a directory of this machine. "),
        ({"out": "s3://bucket/run"}, "out='s3://bucket/run' is not a directory of this machine. "),
        ({"out": 3}, "out=3 is not a directory of this machine. "),
    ],
    ids=str,
)
def test_what_cannot_be_checked_is_refused_before_anything_is_trained(wrong, message, monkeypatch):
    monkeypatch.setattr(api, "run_trials", None)
    with pytest.raises(Trouble) as trouble:
        parity.check(**{"candidate": "numpy", "steps": 2} | wrong)
    assert str(trouble.value).startswith(message)


def test_a_module_of_the_users_keeps_its_state_out_of_it():
    class Counting(torch.nn.MSELoss):
        calls = 0

        def forward(self, output, target):
            self.calls += 1
            return super().forward(output, target)

    loss = Counting()
    assert parity.check(loss, steps=2).verdict == "identical"
    assert loss.calls == 0


def test_the_process_is_left_as_it_was():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
    parity.check(doubled, steps=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()) == before[1:]


def test_after_a_check_the_files_of_a_loss_are_not_imported(tmp_path):
    """Somebody who edits them and imports them then has to get them as they are."""
    (tmp_path / "helper_of_mine.py").write_text("scale = 2\n")
    (tmp_path / "mine.py").write_text(
        "from helper_of_mine import scale\n"
        "def loss(output, target):\n    return scale * ((output - target) ** 2).mean()\n"
    )
    assert parity.check(f"{tmp_path}/mine.py:loss", steps=2).verdict == "diverged"
    assert "helper_of_mine" not in sys.modules
    assert not [path for path in linecache.cache if path.startswith(str(tmp_path))]


def test_nothing_to_compare_is_trouble():
    with pytest.raises(Trouble, match="give a candidate"):
        parity.check(steps=2)


@pytest.mark.parametrize(
    ("loss", "item"),
    [("draws_from_torch", "random generators"), ("GradOutputIgnored", "grad_output"), ("labels_from_one", "mutation")],
)
def test_a_broken_contract_fails_by_the_items_name(loss, item):
    result = parity.check(f"tests/corpus/wrong_cross_entropy.py:{loss}", task="mnist-classifier", steps=2)
    assert (result.verdict, result.judgement.exit_status) == ("failed", 1)
    assert item in set(result.contract[result.contract.status == "failed"].item)


def test_importing_parity_and_its_plugin_loads_no_torch():
    code = "import parity, parity.pytest_plugin, sys; sys.exit('torch' in sys.modules)"
    assert command("-c", code).status == 0


def test_a_run_that_is_kept_has_its_page(tmp_path):
    parity.check(doubled, steps=2, out=tmp_path / "kept")
    page = (tmp_path / "kept" / "report.html").read_text(encoding="utf-8")
    assert "doubled" in page and "diverged" in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps=0 is not a whole number of at least 1. "),
        ({"steps": -5}, "steps=-5 is not a whole number of at least 1. "),
        ({"epochs": 0}, "epochs=0 is not a whole number of at least 1. "),
        ({"batch_size": 0}, "batch_size=0 is not a whole number of at least 1. "),
        ({"batch_size": -8}, "batch_size=-8 is not a whole number of at least 1. "),
        ({"lr": float("nan")}, "lr=nan is not a number greater than 0. "),
        ({"lr": 0}, "lr=0 is not a number greater than 0. "),
        ({"replicas": 0}, "replicas=0 is not a whole number of at least 1. "),
        ({"noise": -1}, "noise=-1 is not a whole number of at least 0. "),
        ({"audit_every": -1}, "audit_every=-1 is not a whole number of at least 0. "),
        ({"audit_every": 1.5}, "audit_every=1.5 is not a whole number of at least 0. "),
        ({"seed": -1}, "seed=-1 is not a whole number of at least 0. "),
        ({"seed": [0, "1"]}, "seed='1' is not a whole number of at least 0. "),
        ({"seed": []}, "seed=[] names none, and without one nothing is trained. Give at least one."),
        ({"device": []}, "device=() names none, and without one nothing is trained. Give at least one."),
    ],
    ids=str,
)
def test_a_call_refuses_what_the_command_refuses(wrong, message, assert_parity):
    for call in (parity.check, assert_parity):
        with pytest.raises(Trouble) as trouble:
            call("numpy", **wrong)
        assert str(trouble.value).startswith(message)


def test_a_result_without_a_compared_step_does_not_pass(tmp_path):
    result = parity.check("numpy", steps=1)
    assert result.passed
    pairs = tuple(replace(pair, steps=0) for pair in result.judgement.pairs)
    assert not replace(result, judgement=replace(result.judgement, pairs=pairs)).passed
    assert not replace(result, judgement=replace(result.judgement, pairs=())).passed


def test_one_step_was_compared():
    assert "1 step of 10 quantities was compared bit for bit" in parity.check("numpy", steps=1).report
