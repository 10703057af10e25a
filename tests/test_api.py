"""parity.check: what it returns, what it leaves alone, and that importing parity stays cheap."""

import random

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
