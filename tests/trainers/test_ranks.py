"""Two ranks of each library, recorded: each rank in a directory of its own, with gradients that are the same."""

import pytest

from parity import report

from conftest import warm_command

RANKS = """
import os, sys, warnings
sys.path[:0] = ["tests", "tests/trainers"]
import torch
import torch.distributed as dist
from two_ranks import two_ranks
from pathlib import Path
import accelerate, lightning
import test_accelerate, test_hf, test_lightning
from torch.utils.data import DataLoader

warnings.simplefilter("ignore")
warnings.filterwarnings("error", message="parity")
torch.set_num_threads(1)
folder = Path(sys.argv[1])
with two_ranks() as rank:
    # As torchrun has it.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    test_hf.make(folder / "hf", max_steps=2, ddp_backend="gloo").train()
    rows = test_lightning.loader().dataset
    test_lightning.fit(
        test_lightning.Module(), folder / "lightning", strategy="ddp", devices=2, max_steps=2,
        data=DataLoader(rows, batch_size=None, sampler=[*range(rank, 8, 2)]), use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    accelerate.state.AcceleratorState._reset_state(True)
    every = test_accelerate.batches()
    test_accelerate.batches = lambda: every[rank::2]
    for _ in range(2):
        test_accelerate.record(folder / "accelerate")
    dist.barrier()
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    ended = warm_command("-c", RANKS, folder, PYTEST_CURRENT_TEST="")  # else nothing is said
    assert ended.status == 0, ended.stderr[-4000:]
    return folder, ended.stderr


def test_the_ranks_of_each_library_agree(recorded, capsys):
    for name in ("hf", "lightning", "accelerate"):
        status = report.main([str(recorded[0] / name)])
        out = " ".join(capsys.readouterr().out.split())
        pair = f"{name}/rank-0/loop@cpu-s0 {name}/rank-1/loop@cpu-s0"
        assert (status, f"{pair} identical" in out) == (0, True), out


def test_all_ranks_take_the_same_new_folder_and_one_of_them_says_so(recorded):
    folder, said = recorded
    for name in ("accelerate", "accelerate-2"):
        assert sorted(path.name for path in (folder / name).iterdir()) == ["rank-0", "rank-1"]
    one, two = folder / "accelerate", folder / "accelerate-2"
    # Line by line, since what another rank says may come between.
    said_lines = said.splitlines()
    for line in (f"parity: 3 steps recorded in {two}. Compare:", f"  parity report {one} {two}"):
        assert said_lines.count(line) == 1
