"""The plan of a run: devices x seeds x replicas x losses."""

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace

from parity.ground.errors import Trouble
from parity.plan.device import Device
from parity.plan.trial import Settings, Trial
from parity.plan.user_code import CodeSpec


def make_settings(
    *,
    task: CodeSpec,
    rows: int,
    batch_size: int,
    epochs: int,
    steps: int | None,
    lr: float,
    audit_every: int,
    save_every_s: float = 10.0,
) -> Settings:
    """Settles the number of steps.

    Raises:
        Trouble: The batch is larger than the data.
    """
    if batch_size > rows:
        raise Trouble(
            f"--batch-size {batch_size} is larger than the data, which has {rows} rows. Choose at most {rows}."
        )
    steps_in_all = epochs * math.ceil(rows / batch_size)
    return Settings(
        task=task,
        rows=rows,
        batch_size=batch_size,
        steps=steps_in_all if steps is None else min(steps, steps_in_all),
        lr=lr,
        audit_every=audit_every,
        save_every_s=save_every_s,
    )


def plan(
    losses: Sequence[CodeSpec],
    devices: Sequence[Device],
    *,
    seeds: Sequence[int],
    replicas: int,
    settings: Settings,
    noise: int = 0,
    equals: Callable[[Device], Hashable] = lambda device: device,
    quick: bool = False,
) -> tuple[Trial, ...]:
    """Makes the trials, the baseline's first, and of each loss those of the first device before the others.

    Args:
        losses: The baseline first.
        devices: The baseline first.
        seeds: Each for all trials.
        replicas: Repeats of each.
        settings: What all trials share.
        noise: Baseline trials under random rounding.
        equals: What a device has in common with those that owe it equal bits: they need no shared steps.
        quick: Whether there is nothing but the training itself: no contract, no shared steps.

    Raises:
        Trouble: A seed is given twice.
    """
    if len(set(seeds)) < len(seeds):
        raise Trouble(f"--seed {' '.join(map(str, seeds))} names a seed twice. To repeat trials, use --replicas.")
    trials = [
        Trial(
            loss=loss,
            oracle=losses[0],
            device=device,
            seed=seed,
            replica=replica,
            settings=settings,
            contract=not quick and loss is not losses[0] and seed == seeds[0] and replica == 0,
            measured=not quick and replica == 0,
        )
        for device in devices
        for seed in seeds
        for replica in range(replicas)
        for loss in losses
    ]
    others = {device for device in devices if equals(device) != equals(devices[0])}
    if others and not quick:
        trials = [_with_shared_steps(trial, devices[0], others) for trial in trials]
    noisy = [
        replace(trial, noise=number, measured=False)
        for number in range(1, noise + 1)
        for trial in trials
        if trial.loss is losses[0] and trial.device is devices[0] and trial.replica == 0
    ]
    return (*trials, *(replace(trial, shares=False) for trial in noisy))


def _with_shared_steps(trial: Trial, first: Device, others: Collection[Device]) -> Trial:
    if trial.device == first:
        return replace(trial, shares=True)
    return replace(trial, shared_from=replace(trial, device=first).name) if trial.device in others else trial
