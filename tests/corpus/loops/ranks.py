"""Records ranked loops, two processes for all of them: python -m loops.ranks FOLDER, run in tests/corpus."""

import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from .loop import History, Loop, float64, train

RANKS = 2
CORPUS = Path(__file__).parent.parent


def record_ranked(folder: Path) -> None:
    """Records the loops of all pairs that several processes train, each in `folder / name / side`.

    Their histories stand beside them, and those in float64.

    Raises:
        RuntimeError: A process has failed; with what it wrote.
    """
    folders = [*map(str, [CORPUS, CORPUS.parent, CORPUS.parent.parent]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "loops.ranks", str(folder)],
        cwd=CORPUS,
        # In the tests, a fork of the process that has imported torch: see tests/warm.
        env={**os.environ, **variables, "PARITY_WARM_PROGRAM": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    if ended.returncode:
        raise RuntimeError(f"A rank has failed:\n{ended.stdout}")


def read_history(path: Path) -> History:
    """The history of a recorded loop: the mean of the losses, and parameters and buffers of the first rank."""
    with np.load(path.with_suffix(".npz")) as stored:
        return History(0, *(tuple(stored[name]) for name in ("losses", "parameters", "buffers")))


def main(folder: Path, rank: int) -> None:
    """Trains and records this rank's part of all loops."""
    from . import PAIRS

    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    loops: Mapping[Path, Loop] = {
        folder / pair.name / side: loop
        for pair in PAIRS
        for side, loop in (("baseline", pair.baseline), ("candidate", pair.candidate))
        if loop.rank_share
    }
    for out, loop in loops.items():
        histories = {out: train(loop, out)}
        with float64():
            histories[out.with_name(f"{out.name}-float64")] = train(loop)
        for path, history in histories.items():
            # Their mean is the loss of the whole batch, since all ranks have equally many rows.
            losses = torch.tensor(history.losses, dtype=torch.float64)
            dist.all_reduce(losses)
            if rank == 0:
                np.savez(path.with_suffix(".npz"), **{**vars(history), "losses": losses.numpy() / RANKS})
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    from two_ranks import two_ranks

    with two_ranks() as rank:
        main(Path(sys.argv[1]), rank)
