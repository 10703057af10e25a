"""Late faults: right pairs of long trainings, and the same with a fault planted at a random step.

    python benchmarks/late_faults.py [--pairs N] [--steps N] [--seed N] [--recordings DIR]

Each pair trains one of three models twice: the loss by torch and by hand, or on one thread and on two. No step of it
may be alarmed. From a random step of the candidate on, six faults are planted, each in a copy of its own that trains on
for a few steps: each has to be found, at its step or the next. Training takes nearly all of the time: with --recordings
the traces are kept, and what is there already is judged without training it again, as after a change of the judge.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from parity.judge.differences import Comparison
from parity.judge.jumps import find_jump
from parity.judge.parting import find_parting
from parity.judge.trial_trace import Columns, TrialTrace
from parity.observe.observer import CAPACITY, Observer
from parity.plan.device import Device
from parity.plan.trial import Place, Settings, Trial
from parity.plan.user_code import CodeSpec
from parity.store.trials import TrialRecord
from parity.tasks import mnist

Batch = tuple[torch.Tensor, torch.Tensor]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Of our own: the state of Python's global generator is part of what is compared.
DRAWS = random.Random()
# Steps that a planted fault trains on for.
FAULTY_STEPS = 4
# Steps of a right training before a fault: a fault in the first steps has nothing to jump from.
SETTLED = 60


def _mse(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    difference = output - target
    return (difference * difference).sum() / difference.numel()


def _cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output.logsumexp(1) - output.gather(1, target[:, None])[:, 0]).mean()


@functools.cache
def _data() -> dict[str, Any]:
    return mnist.load()


def _images(rows: slice) -> Batch:
    data = _data()
    images = torch.from_numpy(data["images"][rows].copy()).float() / 255
    return images, torch.from_numpy(data["labels"][rows].copy()).long()


@dataclass(frozen=True)
class Setup:
    """A model with its data, its loss, and the loss by hand."""

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[int], Batch]
    losses: tuple[LossFunction, LossFunction]
    lr: float


def _rows(step: int, size: int) -> slice:
    begin = step * size % (60_000 - size)
    return slice(begin, begin + size)


def _autoencoder_batch(step: int) -> Batch:
    images, _ = _images(_rows(step, 128))
    flat = images.reshape(len(images), -1)
    return flat, flat


def _flat_batch(step: int) -> Batch:
    images, labels = _images(_rows(step, 128))
    return images.reshape(len(images), -1), labels


def _square_batch(step: int) -> Batch:
    images, labels = _images(_rows(step, 32))
    return images.reshape(len(images), 1, 28, 28), labels


def _autoencoder() -> nn.Module:
    widths = (784, 64, 16, 64, 784)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


def _classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(16, 10)),
    )


SETUPS = (
    Setup("autoencoder", _autoencoder, _autoencoder_batch, (nn.MSELoss(), _mse), 1e-3),
    Setup("classifier", _classifier, _flat_batch, (nn.CrossEntropyLoss(), _cross_entropy), 1e-3),
    Setup("convolutions", _convolutions, _square_batch, (nn.CrossEntropyLoss(), _cross_entropy), 1e-3),
)


class Training:
    """A training that is observed, and that can be copied between two steps."""

    def __init__(self, setup: Setup, seed: int, loss: LossFunction, threads: int) -> None:
        torch.manual_seed(seed)
        self.setup, self.loss, self.threads, self.step = setup, loss, threads, 0
        self.model = setup.model()
        self.optimizer = torch.optim.Adam(self.model.parameters(), setup.lr)
        self.after_backward: Callable[[nn.Module], None] = lambda _: None
        self._observe()

    def _observe(self) -> None:
        self._observer = Observer(_trial(), self.model, oracle=_nothing, baseline=_nothing, optimizers=[self.optimizer])
        self._observer.begin()

    def copy(self) -> Training:
        """A copy that trains on by itself."""
        model, optimizer = self.model, self.optimizer
        made = copy.copy(self)
        made.model = copy.deepcopy(model)
        made.optimizer = torch.optim.Adam(made.model.parameters(), self.setup.lr)
        made.optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        made._observe()
        return made

    def take(self) -> None:
        """Takes a step."""
        torch.set_num_threads(self.threads)
        inputs, target = self.setup.batch(self.step)
        self.optimizer.zero_grad()
        output = self.model(inputs)
        loss = self.loss(output, target)
        place = Place(self.step, 0, self.step, len(inputs), partial=False, audited=False)
        given, fixed = output.detach(), target.detach()
        batch = self._observer.forward(place, [inputs], given, fixed)
        grad = torch.autograd.grad(loss, output, retain_graph=True)[0]
        self._observer.loss(batch, given, fixed, loss=loss.detach(), output_grad=[grad])
        loss.backward()
        self.after_backward(self.model)
        self._observer.backward()
        self._observer.before_update(self.optimizer)
        self.optimizer.step()
        self._observer.update(step_s=0.0, unchanged=True)
        self._observer.begin()
        self.step += 1

    def facts(self) -> dict[str, Any]:
        """What a record has to say of the model."""
        named = [*self.model.named_parameters()]
        norms = [float(parameter.detach().norm()) for _, parameter in named]
        return {"param_names": [name for name, _ in named], "initial_norms": norms, **self._observer.facts}

    def tables(self, steps: int) -> Iterator[pa.Table]:
        """Trains on; yields the trace."""
        for _ in range(steps):
            self.take()
            if self._observer.rows == CAPACITY:
                yield self._observer.flush()
        if self._observer.rows:
            yield self._observer.flush()


def _nothing(*_: Any) -> Any:
    raise AssertionError("no step is audited")


def _trial() -> Trial:
    code = CodeSpec(name="late_faults", attr="late_faults")
    settings = Settings(task=code, rows=1, batch_size=1, steps=0, lr=0.0, audit_every=0)
    return Trial(loss=code, oracle=code, device=Device("cpu"), seed=0, replica=0, settings=settings)


# What happens to the candidate from a step on. Each changes one thing only.
def _rate(training: Training) -> None:
    for group in training.optimizer.param_groups:
        group["lr"] *= 1.01


def _decay(training: Training) -> None:
    for group in training.optimizer.param_groups:
        group["weight_decay"] = 1e-4


def _half(training: Training) -> None:
    layers = [module for module in training.model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    number = DRAWS.randrange(len(layers))

    def halve(model: nn.Module) -> None:
        layer = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][number]
        for parameter in layer.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)

    training.after_backward = halve


def _doubled(training: Training) -> None:
    weights = [parameter for parameter in training.model.parameters() if parameter.dim() > 1]
    flat = DRAWS.choice(weights).data.reshape(-1)
    # One that matters: the largest of its tensor.
    flat[int(flat.abs().argmax())] *= 2


def _frozen(training: Training) -> None:
    weights = [parameter for parameter in training.model.parameters() if parameter.dim() > 1]
    number = DRAWS.randrange(len(weights))

    def freeze(model: nn.Module) -> None:
        [parameter for parameter in model.parameters() if parameter.dim() > 1][number].grad = None

    training.after_backward = freeze


def _lost(training: Training) -> None:
    training.optimizer.state.clear()


FAULTS: dict[str, Callable[[Training], None]] = {
    "learning rate +1 %": _rate,
    "weight decay 1e-4": _decay,
    "half of one layer's gradient": _half,
    "one weight doubled": _doubled,
    "one frozen tensor": _frozen,
    "optimizer state lost": _lost,
}


@dataclass(frozen=True)
class Recording:
    """The traces of a pair, and of the candidate with each fault.

    Attributes:
        facts: What a record has to say of both models.
        at: The step of the faults.
        right: The trace of the baseline.
        whole: The trace of the candidate without a fault.
        faulty: The steps of the candidate from `at` on, by the name of the fault.
    """

    facts: dict[str, Any]
    at: int
    right: pa.Table
    whole: pa.Table
    faulty: dict[str, pa.Table]


def record(number: int, steps: int, seed: int) -> Recording:
    """Trains a pair."""
    DRAWS.seed(seed * 1000 + number)
    setup = SETUPS[number % len(SETUPS)]
    by_hand = bool(number // len(SETUPS) % 2)
    baseline = Training(setup, seed * 1000 + number, setup.losses[0], 1)
    candidate = Training(setup, seed * 1000 + number, setup.losses[by_hand], 1 if by_hand else 2)
    right = _joined([*baseline.tables(steps)])
    at = DRAWS.randrange(SETTLED, steps - FAULTY_STEPS)
    before, faulty = [*candidate.tables(at)], {}
    for name, plant in FAULTS.items():
        training = candidate.copy()
        plant(training)
        faulty[name] = _joined([*training.tables(FAULTY_STEPS)])
    whole = _joined([*before, *candidate.tables(steps - at)])
    return Recording(baseline.facts(), at, right, whole, faulty)


def recorded(folder: Path | None, number: int, steps: int, seed: int) -> Recording:
    """The recording of a pair: from the folder where it is there, else made, and kept in the folder if there is one."""
    if folder is None:
        return record(number, steps, seed)
    place = folder / f"{steps}-steps-seed-{seed}-pair-{number}"
    notes = place / "notes.json"
    if not notes.exists():
        made = record(number, steps, seed)
        place.mkdir(parents=True, exist_ok=True)
        tables = {"right": made.right, "whole": made.whole, **made.faulty}
        for name, table in tables.items():
            pq.write_table(table, place / f"{name}.parquet")
        # Last: a pair without notes is recorded again.
        notes.write_text(json.dumps({"at": made.at, "facts": made.facts}))
    kept = json.loads(notes.read_text())
    tables = {name: pq.read_table(place / f"{name}.parquet") for name in ("right", "whole", *FAULTS)}
    return Recording(kept["facts"], kept["at"], tables.pop("right"), tables.pop("whole"), tables)


def _joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).unify_dictionaries()


def _trace(table: pa.Table, facts: dict[str, Any]) -> TrialTrace:
    record = TrialRecord(
        **dict.fromkeys(("task", "loss_name", "oracle", "trace"), ""),
        **dict.fromkeys(("task_origin", "task_sha256", "loss_origin", "loss_sha256", "batches", "lr", "optimizer")),
        **dict.fromkeys(("seed", "replica", "noise", "steps", "batch_size", "audit_every"), 0),
        trial="t",
        device="cpu",
        rows=len(table),
        loss_dtype="float32",
        **facts,
    )
    return TrialTrace(record, Columns({"t": table}))


def _alarm(baseline: TrialTrace, candidate: TrialTrace) -> tuple[int | None, str]:
    """The first step that is not explained by rounding, and what was found there."""
    comparison = Comparison(baseline, candidate)
    parting = find_parting(comparison)
    if parting is None:
        return None, "equal"
    if parting.finding == "beyond":
        return parting.index, parting.explain()
    jump = find_jump(comparison, after=parting.index, parted=parting.quantity)
    return (jump.index, jump.explain()) if jump else (None, "")


def main() -> int:
    """Runs the pairs; exit status 1 if one was judged wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="folder of the traces, which are kept")
    options = parser.parse_args()
    began, found, missed, false = time.perf_counter(), Counter[str](), [], []
    for number in range(options.pairs):
        made = recorded(options.recordings, number, options.steps, options.seed)
        model = SETUPS[number % len(SETUPS)].name
        right, before = _trace(made.right, made.facts), made.whole.slice(0, made.at)
        for name, steps in made.faulty.items():
            step, why = _alarm(right, _trace(_joined([before, steps]), made.facts))
            found[name] += step in (made.at, made.at + 1)
            if step not in (made.at, made.at + 1):
                missed.append(f"{model} {number}: {name} at step {made.at}, found at {step} {why}")
                print(f"missed: {missed[-1]}", flush=True)
        step, why = _alarm(right, _trace(made.whole, made.facts))
        if step is not None:
            false.append(f"{model} {number}: no fault, alarmed at step {step}: {why}")
            print(f"false alarm: {false[-1]}", flush=True)
        print(f"{number + 1} pairs, {len(missed)} faults missed, {len(false)} false alarms", flush=True)
    print(f"{options.pairs} pairs of {options.steps} steps in {time.perf_counter() - began:.0f} s")
    for name in FAULTS:
        print(f"  {name}: {found[name]} of {options.pairs} found at its step or the next")
    print(f"  false alarms: {len(false)}")
    return int(bool(missed or false))


if __name__ == "__main__":
    raise SystemExit(main())
