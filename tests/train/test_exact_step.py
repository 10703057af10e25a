"""A step in float64 as far as its gradients has the bits of a whole one, and is taken only where it has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity.observe.random_rounding import RandomRounding
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import parse_task, shipped_losses
from parity.tasks.loading import load_task_data
from parity.train.exact_step import exact_gradients, exact_step
from parity.train.shared_step import take_rounded, take_shared_step
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


def bits(values):
    return {
        name: [each if each is None else (each.shape, each.tobytes()) for each in found]
        for name, found in values.items()
        if name not in ("update", "param")
    }


@pytest.mark.parametrize("shared", ["Drawing", "Clamped", "OwnGenerator", "Forked"], indirect=True)
def test_the_gradients_are_those_of_a_whole_step(shared):
    training, data, step = shared
    assert step.grads_kept
    for seed in range(3):
        whole, _ = exact_step(training, data, step.state, within=RandomRounding(2.0**-24, seed=seed))
        alone = exact_gradients(training, data, step.state, within=RandomRounding(2.0**-24, seed=seed))
        assert bits(alone) == bits(whole)
    assert bits(whole) != bits(step.exact)  # this check can fail


@pytest.mark.parametrize(("shared", "draws"), [("Drawing", True), ("Forked", False)], indirect=["shared"])
def test_what_random_rounding_moves_is_small_whatever_has_drawn(shared, draws):
    training, data, step = shared
    assert step.draws is draws
    found = take_rounded(training, data, step, RandomRounding(2.0**-24, seed=0))
    moved, exact = (np.concatenate([each.ravel() for each in values["param_grad"]]) for values in (found, step.exact))
    assert 0 < np.linalg.norm(moved - exact) < 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("shared", ["Limited"], indirect=True)
def test_an_optimizer_that_is_not_torchs_takes_whole_steps(shared):
    training, data, step = shared
    assert not step.grads_kept
    found = take_rounded(training, data, step, RandomRounding(2.0**-24, seed=0))
    assert found.keys() == step.exact.keys()


@pytest.mark.parametrize("shared", ["Doubled"], indirect=True)
def test_gradients_that_the_optimizer_changes_are_those_after_its_step(shared):
    training, data, step = shared
    assert not step.draws and not step.grads_kept
    whole, _ = exact_step(training, data, step.state, within=RandomRounding(2.0**-24, seed=0))
    assert bits(take_rounded(training, data, step, RandomRounding(2.0**-24, seed=0))) == bits(whole)
    # The gradients alone would be half of what the step was compared with.
    kept = replace(step, grads_kept=True)
    alone = take_rounded(training, data, kept, RandomRounding(2.0**-24, seed=0))
    for half, changed in zip(alone["param_grad"], whole["param_grad"], strict=True):
        np.testing.assert_array_equal(2 * half, changed)
