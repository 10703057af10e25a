"""The plan of a run: one trial for each device, seed, replica and loss."""

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace

from parity.ground.errors import Trouble
from parity.plan.device import Device
from parity.plan.numbers import checked
from parity.plan.trial import DigestKind, Settings, Trial
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
    """Makes the settings of a run: what `epochs`, `batch_size` and `steps` amount to, checked against the data.

    Args:
        task: What is trained.
        rows: Number of rows in the data.
        batch_size: Number of rows in a batch.
        epochs: Most passes over the data.
        steps: Most optimizer steps, or None for whole passes.
        lr: Learning rate.
        audit_every: Audit every step that this divides; 0 turns the audit off.
        save_every_s: Seconds of training between two stored states.

    Returns:
        The settings, with as many steps as the run will have.

    Raises:
        Trouble: A number is not allowed, or the batch is larger than the data.
    """
    # Here and in `plan`, through which the command and Python's calls both come.
    batch_size, epochs, lr = checked("batch_size", batch_size), checked("epochs", epochs), checked("lr", lr)
    steps = None if steps is None else checked("steps", steps)
    audit_every = checked("audit_every", audit_every)
    if batch_size > rows:
        raise too_large(batch_size, rows)
    steps_in_all = epochs * math.ceil(rows / batch_size)
    return Settings(
        task=task,
        rows=rows,
        batch_size=batch_size,
        # --steps can end a run early, and never makes it longer than --epochs.
        steps=steps_in_all if steps is None else min(steps, steps_in_all),
        lr=lr,
        audit_every=audit_every,
        save_every_s=save_every_s,
    )


def too_large(batch_size: int, rows: int) -> Trouble:
    """The error about a batch that is larger than the data."""
    return Trouble(f"--batch-size {batch_size} is larger than the data, which has {rows} rows. Choose at most {rows}.")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises `Trouble` if a seed is given twice."""
    if len(set(seeds)) < len(seeds):
        raise Trouble(f"--seed {' '.join(map(str, seeds))} names a seed twice. To repeat trials, use --replicas.")


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
    """Makes the trials of a run.

    Args:
        losses: The losses, the baseline first.
        devices: The devices, the baseline first.
        seeds: The seeds; each trial is trained with each of them.
        replicas: Number of times that each trial is trained.
        settings: What all trials share.
        noise: Number of additional baseline trials under random rounding.
        equals: Gives a key that is equal for devices which must agree to the bit; those need no shared steps.
        quick: Whether to leave out everything but the training itself: no contract, no shared steps.

    Returns:
        The trials by device, seed, replica and loss, each in the order given, then those under random rounding. A
        loss comes on the baseline device before the others, which take its shared steps.

    Raises:
        Trouble: A number is not allowed, a seed is given twice, or there is no seed or device.
    """
    seeds = [checked("seed", seed) for seed in seeds]
    replicas, noise = checked("replicas", replicas), checked("noise", noise)
    for name, given in (("seed", seeds), ("device", devices)):
        if not given:
            raise Trouble(f"{name}={given!r} names none, and without one nothing is trained. Give at least one.")
    check_seeds(seeds)
    # The contract of a loss depends on neither seed nor replica; it compares the loss with the baseline.
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
            digest_kind=digest_kind(devices),
        )
        # The first device comes first, since trials on others wait for the steps that it shares.
        for device in devices
        for seed in seeds
        for replica in range(replicas)
        for loss in losses
    ]
    # Devices that must agree to the bit with the first are compared digest by digest, which needs no shared steps.
    others = {device for device in devices if equals(device) != equals(devices[0])}
    if others and not quick:
        trials = [_with_shared_steps(trial, devices[0], others) for trial in trials]
    baselines = [
        trial for trial in trials if trial.loss is losses[0] and trial.device is devices[0] and trial.replica == 0
    ]
    return (*trials, *(_with_noise(trial, number) for number in range(1, noise + 1) for trial in baselines))


def digest_kind(devices: Sequence[Device]) -> DigestKind:
    """How all trials on these devices are digested: where one is an accelerator, as it can do it itself."""
    return "xxh3" if all(device.kind == "cpu" for device in devices) else "words"


def _with_noise(trial: Trial, number: int) -> Trial:
    """The trial under random rounding: its states are not those of the baseline, so no device takes steps from them."""
    return replace(trial, noise=number, measured=False, shares=False)


def _with_shared_steps(trial: Trial, first: Device, others: Collection[Device]) -> Trial:
    """The trial as one that leaves shared steps (on the first device) or takes them (on the others)."""
    if trial.device == first:
        return replace(trial, shares=True)
    # The same trial on the first device, whose name follows from its fields.
    return replace(trial, shared_from=replace(trial, device=first).name) if trial.device in others else trial
