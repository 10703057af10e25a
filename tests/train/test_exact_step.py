"""A step in float64 is the training's step: with its draws, its hooks and its optimizer, whatever they are."""

from pathlib import Path

import numpy as np
import pytest

from parity.observe.random_rounding import RandomRounding
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import parse_task, shipped_losses
from parity.tasks.loading import load_task_data
from parity.train.exact_step import exact_step
from parity.train.shared_step import take_shared_step
from parity.train.step import begin, take_step

TASKS = Path(__file__).parent / "exact_step_tasks.py"


@pytest.fixture
def shared(request):
    """A training of a task of `TASKS`, its data, and its third step."""
    task = parse_task(f"{TASKS}:{request.param}")
    settings = make_settings(task=task, rows=64, batch_size=16, epochs=1, steps=4, lr=0.1, audit_every=0)
    losses = parse_losses(["builtin"], shipped=shipped_losses(task))
    (trial,) = plan(losses, parse_devices(["cpu"]), seeds=[0], replicas=1, settings=settings)
    training = begin(trial)
    data = load_task_data(task, None)
    for step in range(2):
        take_step(training, data, step)
    return training, data, take_shared_step(training, data, 2, None)


def as_one(tensors):
    return np.concatenate([each.ravel() for each in tensors if each is not None])


@pytest.mark.parametrize(
    ("shared", "draws"),
    [("Drawing", True), ("Doubled", False), ("Clamped", False), ("OwnGenerator", False), ("Forked", False)],
    indirect=["shared"],
)
def test_random_rounding_moves_a_step_by_rounding_whatever_draws_or_hooks_it_has(shared, draws):
    training, data, step = shared
    assert step.draws is draws
    moved = exact_step(training, data, step.state, within=RandomRounding(2.0**-24, seed=0))
    for quantity, tensors in step.exact.items():
        exact, found = as_one(tensors), as_one(moved[quantity])
        assert 0 < np.linalg.norm(found - exact) < 1e-5 * np.linalg.norm(exact), quantity
