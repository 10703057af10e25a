import pytest

from parity.ground.errors import Trouble
from parity.plan.planning import make_settings
from parity.plan.task_spec import parse_task


def settings(**changes):
    chosen = {
        "task": parse_task("mnist-autoencoder"),
        "rows": 60_000,
        "batch_size": 256,
        "epochs": 2,
        "steps": None,
        "lr": 1e-3,
    }
    return make_settings(**(chosen | {"audit_every": 1} | changes))


def test_the_reference_has_470_steps_of_which_two_are_partial():
    reference = settings()
    rows = [stop - start for start, stop in map(reference.row_range, range(reference.steps))]
    assert len(rows) == 470
    assert [step for step, count in enumerate(rows) if count != 256] == [234, 469]
    assert rows[234] == 96
    assert sum(rows) == 2 * 60_000


def test_steps_stop_the_run_early_but_do_not_lengthen_it():
    assert settings(steps=7).steps == 7
    assert settings(steps=1000).steps == 470


def test_a_batch_larger_than_the_data_is_reported():
    assert settings(batch_size=60_000).steps == 2
    with pytest.raises(Trouble) as trouble:
        settings(batch_size=60_001)
    assert str(trouble.value) == (
        "--batch-size 60001 is larger than the data, which has 60000 rows. Choose at most 60000."
    )


def test_a_thinned_audit_keeps_the_first_the_last_and_the_partial_batches():
    audited = settings(audit_every=100, steps=240).audited
    assert [step for step in range(240) if audited(step)] == [0, 100, 200, 234, 239]
    assert not any(settings(audit_every=0).audited(step) for step in range(470))


def test_trials_are_named_by_loss_device_seed_and_replica(make_trials):
    trials = make_trials("builtin", "numpy", seeds=(0, 3), replicas=2)
    assert [trial.name for trial in trials] == [
        "builtin@cpu-s0",
        "numpy@cpu-s0",
        "builtin@cpu-s0-r1",
        "numpy@cpu-s0-r1",
        "builtin@cpu-s3",
        "numpy@cpu-s3",
        "builtin@cpu-s3-r1",
        "numpy@cpu-s3-r1",
    ]
    assert {trial.oracle.name for trial in trials} == {"builtin"}


def test_a_seed_given_twice_is_reported(make_trials):
    with pytest.raises(Trouble) as trouble:
        make_trials(seeds=(1, 1))
    assert str(trouble.value) == "--seed 1 1 names a seed twice. To repeat trials, use --replicas."


def test_an_unknown_task_is_reported():
    with pytest.raises(Trouble) as trouble:
        parse_task("cifar")
    assert str(trouble.value) == (
        "Unknown task 'cifar'. Known tasks: mnist-autoencoder, mnist-classifier; or give module:attr or file.py:attr."
    )
