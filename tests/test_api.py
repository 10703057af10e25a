"""parity.check: what it returns, what it leaves alone, and that importing parity stays cheap."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import parity
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
