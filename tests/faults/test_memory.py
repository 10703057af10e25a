"""A loss that eats up the memory: Ray ends its worker, twice, and the reason is given in words."""

import pandas as pd
import psutil
import pytest

from conftest import parity_command

pytestmark = [pytest.mark.ray, pytest.mark.kills]
EATING = """
import torch
from torch.nn import functional

held = []


def eating(output, target):
    if output.requires_grad and len(output) > 8:
        held.append(torch.ones(100_000_000))
    return functional.mse_loss(output, target)
"""
# What may be used beyond what is in use now, before Ray ends a worker: more than an honest trial needs.
ROOM_BYTES = 4 * 2**30


def test_a_loss_that_eats_up_the_memory_has_failed_and_takes_no_other_trial_with_it(tmp_path):
    (tmp_path / "eating.py").write_text(EATING)
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + ROOM_BYTES) / memory.total
    assert threshold < 0.95, "this machine is too small, or too full, for this test"
    ended = parity_command(
        *("parity.run", "--device", "cpu", "--steps", 50, "--batch-size", 64, "--out", tmp_path / "run"),
        *("--loss", "builtin", f"{tmp_path / 'eating.py'}:eating"),
        RAY_memory_usage_threshold=str(threshold),
    )
    assert ended.status == 1, ended.stderr
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet").set_index("loss_name")
    assert list(trials.status) == ["complete", "failed"]
    assert (trials.failure["eating"], trials.attempts["eating"]) == ("memory", 2)
    assert (
        "ran out of memory, and Ray ended the worker to free some; an earlier worker of this trial was lost as well"
        in trials.error["eating"]
    )
    assert "ran out of memory" in " ".join(ended.stdout.split())
