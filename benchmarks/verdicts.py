"""Runs the corpus of wrong and right losses through parity and through five checks that people use instead.

    python benchmarks/verdicts.py [--seed N ...] [--steps N] [--first N] [--device DEVICE] [--parity-alone]
    python benchmarks/verdicts.py --corpus loops [--kind KIND ...] [--device DEVICE]

Prints a table: of all runs (a loss and a seed) how many wrong ones were caught and right ones flagged, how many causes
were named as the corpus names them, and the median seconds of a run. Above it stands what parity missed. The corpus of
loops has a table of its own, see verdicts_on_loops.py.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from parity.api import run_trials
from parity.ground.errors import Trouble
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task
from parity.plan.trial import Trial
from parity.tasks import mnist
from parity.tasks.loading import load_task
from parity.tasks.losses import Loss, load_loss
from parity.train.step import begin, forward, make_batch

CORPUS = Path(__file__).parent.parent / "tests" / "corpus"
sys.path.insert(0, str(CORPUS))

from catalog import Entry, cause_named, entries  # noqa: E402 - the corpus is no package

TASKS = {"mse": "mnist-autoencoder", "cross_entropy": "mnist-classifier"}
OTHERS = (
    "printed losses equal to 4 decimals",
    "losses allclose at rtol 1e-5",
    "last loss within 1 %",
    "assert_close of one gradient",
    "gradcheck",
)
# gradcheck evaluates the loss twice for each element.
GRADCHECK_ROWS = 2
# What a loss of the corpus raises elsewhere that goes through NumPy or keeps a tensor on the CPU.
OF_THE_CPU = re.compile(r"device type tensor to numpy|tensors to be on the same device")
# Losses that one process takes at a time, beside a baseline of their own.
SHARE = 12


@dataclass(frozen=True)
class Result:
    """What the checks said of one run.

    Attributes:
        name: Of the loss, with its file and seed.
        wrong: Whether it is.
        flagged: By check.
        seconds: By check; a check that trains has the baseline's share in it.
        named: Whether parity named the cause as the corpus does; None of a right loss.
        answer: What parity said.
        of_the_cpu: Whether the loss raised on another device because it is written for the CPU.
    """

    name: str
    wrong: bool
    flagged: dict[str, bool]
    seconds: dict[str, float]
    named: bool | None
    answer: str
    of_the_cpu: bool


def run_share(
    task: str, share: Sequence[Entry], seed: int, steps: int, others: bool, device: str = "cpu"
) -> list[Result]:
    """Trains some losses beside the builtin one, judges them, and asks the other checks if they are wanted."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = mnist.load()
    settings = make_settings(
        task=parse_task(task), rows=len(data["images"]), batch_size=256, epochs=2, steps=steps, lr=1e-3, audit_every=1
    )
    losses = parse_losses(["builtin", *(f"{entry.path}:{entry.name}" for entry in share)], shipped=SHIPPED_LOSSES)
    baseline, *candidates = plan(losses, parse_devices([device]), seeds=[seed], replicas=1, settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        checked = run_trials([baseline, *candidates], data, Path(folder) / "run", title="benchmarks/verdicts.py")
        parity_s = (time.perf_counter() - began) / len(share)
    records = {record.trial: record for record in checked.run.trials}
    losses_of = {name: table["loss"].to_numpy() for name, table in checked.run.traces.items()}
    results = []
    for entry, trial, pair in zip(share, candidates, checked.pairs, strict=True):
        mine, theirs = losses_of[trial.name], losses_of[baseline.name]
        plain_s = sum(checked.run.traces[name]["step_s"].to_numpy().sum() for name in (trial.name, baseline.name))
        whole = records[trial.name].status == "complete"
        flagged = {"parity": pair.verdict not in ("identical", "report-only", "rounding")}
        seconds = {"parity": parity_s}
        if others:
            close, close_s = _timed(lambda trial=trial: _gradients_close(trial, data))
            checks, gradcheck_s = _timed(lambda trial=trial: _gradcheck_passes(trial, data))
            flagged |= {
                OTHERS[0]: not (whole and [f"{x:.4f}" for x in mine] == [f"{x:.4f}" for x in theirs]),
                OTHERS[1]: not (whole and np.allclose(mine, theirs, rtol=1e-5)),
                OTHERS[2]: not (whole and abs(mine[-1] - theirs[-1]) <= 0.01 * abs(theirs[-1])),
                OTHERS[3]: not close,
                OTHERS[4]: not checks,
            }
            seconds |= {**dict.fromkeys(OTHERS[:3], plain_s), OTHERS[3]: close_s, OTHERS[4]: gradcheck_s}
        named = cause_named(entry, [(cause.kind, cause.text) for cause in pair.causes]) if entry.kind else None
        answer = f"{pair.verdict}: {'; '.join(f'[{cause.kind}] {cause.text}' for cause in pair.causes)}"
        name = f"{entry.path.stem}:{entry.name} seed {seed} ({entry.kind}, {entry.text})"
        of_the_cpu = device != "cpu" and records[trial.name].failure == "raised" and bool(OF_THE_CPU.search(answer))
        results.append(Result(name, entry.kind is not None, flagged, seconds, named, answer, of_the_cpu))
    return results


def _first_batch(trial: Trial, data: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and target of the seeded model, detached."""
    training = begin(trial)
    output, target = forward(training, make_batch(training, data, 0), 0)
    return output.detach(), target.detach()


def _gradients_close(trial: Trial, data: dict[str, np.ndarray]) -> bool:
    """`torch.testing.assert_close` of the output gradient on the first batch."""
    output, target = _first_batch(trial, data)
    task = load_task(trial.settings.task)
    try:
        torch.testing.assert_close(
            _gradient(load_loss(trial.loss, task), output, target),
            _gradient(load_loss(trial.oracle, task), output, target),
        )
    except Exception:  # noqa: BLE001 - whatever the loss does is that check's failure
        return False
    return True


def _gradient(loss: Loss, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    leaf = output.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf * 1, target.clone()), leaf)
    return grad


def _gradcheck_passes(trial: Trial, data: dict[str, np.ndarray]) -> bool:
    """`torch.autograd.gradcheck` with its defaults, in float64, on a few rows of the first batch."""
    output, target = (tensor[:GRADCHECK_ROWS] for tensor in _first_batch(trial, data))
    loss = load_loss(trial.loss, load_task(trial.settings.task))
    wide = target.double() if target.is_floating_point() else target
    try:
        return bool(torch.autograd.gradcheck(lambda leaf: loss(leaf * 1, wide), output.double().requires_grad_()))
    except Exception:  # noqa: BLE001 - whatever the loss does is that check's failure
        return False


def _timed(check: Callable[[], bool]) -> tuple[bool, float]:
    began = time.perf_counter()
    return check(), time.perf_counter() - began


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--steps", type=int, default=240, metavar="N")
    parser.add_argument(
        "--file", nargs="+", default=["wrong_mse", "right_mse", "wrong_cross_entropy", "right_cross_entropy"]
    )
    parser.add_argument("--corpus", choices=["losses", "loops"], default="losses")
    parser.add_argument("--kind", nargs="+", default=[], metavar="KIND", help="of loops: kinds of pairs, such as late")
    parser.add_argument("--parity-alone", action="store_true", help="without the checks that people use instead")
    parser.add_argument("--device", default="cpu", help="what to train on, such as cuda (default: %(default)s)")
    parser.add_argument("--first", type=int, metavar="N", help="of losses: the first N of each file only")
    options = parser.parse_args()
    if options.device != "cpu" and options.corpus == "losses" and not options.parity_alone:
        parser.error("the other checks run on the CPU: add --parity-alone.")
    if options.corpus == "loops":
        # Here, since it reads the loops of tests/corpus/loops.
        from verdicts_on_loops import main as on_loops

        on_loops(options.kind, options.device)
        return
    jobs = []
    for stem in options.file:
        task = TASKS[stem.partition("_")[2]]
        found = entries(CORPUS / f"{stem}.py")[: options.first]
        shares = [found[start : start + SHARE] for start in range(0, len(found), SHARE)]
        jobs += [
            (task, share, seed, options.steps, not options.parity_alone, options.device)
            for share in shares
            for seed in options.seed
        ]
    with ProcessPoolExecutor(max_tasks_per_child=1) as pool:  # a crash or a leak of one share is that share's
        results: list[Result] = []
        waiting = [(job, pool.submit(run_share, *job)) for job in jobs]
        while waiting:
            job, future = waiting.pop(0)
            try:
                results += future.result()
            except Trouble:
                task, share, *rest = job
                if len(share) == 1:
                    raise
                # A loss has made the GPU unusable for those after it: each in a process of its own.
                waiting += [
                    (each, pool.submit(run_share, *each)) for each in ((task, [entry], *rest) for entry in share)
                ]
            print(f"{len(waiting)} shares to go, {len(results)} losses", file=sys.stderr, flush=True)
    for result in (each for each in results if each.of_the_cpu):
        print(f"not for {options.device}: {result.name}: {result.answer}")
    results = [each for each in results if not each.of_the_cpu]
    for result in results:
        if result.flagged["parity"] != result.wrong or result.named is False:
            print(
                f"{'not flagged as due' if result.flagged['parity'] != result.wrong else 'other cause'}: "
                f"{result.name}: {result.answer}"
            )
    print(table(results))


def table(results: Sequence[Result]) -> str:
    """The table of README."""
    wrong, right = ([result for result in results if result.wrong is kind] for kind in (True, False))
    lines = [
        "| check | wrong ones caught | right ones flagged | causes named rightly | seconds |",
        "|---|---|---|---|---|",
    ]
    for check in results[0].flagged:
        caught, flagged = (sum(result.flagged[check] for result in side) for side in (wrong, right))
        named = sum(bool(result.named) for result in wrong) if check == "parity" else 0
        seconds = statistics.median(result.seconds[check] for result in results)
        lines.append(
            f"| {check} | {caught} of {len(wrong)} | {flagged} of {len(right)} | "
            f"{named} of {len(wrong)} | {seconds:.2g} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
