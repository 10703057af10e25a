"""What the options of `parity.run` ask for by name: parsed and checked before anything is started or loaded."""

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from parity.ground import phases
from parity.ground.errors import Trouble
from parity.plan.device import EACH, Device, parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.options import address_of
from parity.plan.planning import check_seeds, too_large
from parity.plan.task_spec import ROWS, parse_task, shipped_losses
from parity.plan.user_code import CodeSpec, check_imports


@dataclass(frozen=True)
class Request:
    """What is to be compared.

    Attributes:
        task: What is trained.
        losses: The losses, the baseline first.
        devices: Values of `--device`, the baseline first; "auto" is replaced once it is known which devices there are.
    """

    task: CodeSpec
    losses: tuple[CodeSpec, ...]
    devices: tuple[str, ...]

    @property
    def named(self) -> tuple[Device, ...]:
        """The devices but for "auto"."""
        return parse_devices([text for text in self.devices if text != "auto"])


def parse_request(options: argparse.Namespace, *, announce: bool = True) -> Request:
    """Parses and checks what the options name.

    Args:
        options: The parsed options.
        announce: Whether to announce a run of a single trial.

    Raises:
        Trouble: A task, loss, device or option is wrong.
    """
    task = parse_task(options.task)
    shipped = shipped_losses(task)
    losses = parse_losses(options.loss or (shipped[:1] if options.quick else shipped), shipped=shipped)
    # What a cluster has is not known here.
    if options.inline or address_of(options) == "local":
        check_imports(task, *losses)
    check_seeds(options.seed or [])
    request = Request(task, losses, tuple(options.device or [EACH.get(options.each, "auto")]))
    _check_cluster_options(options, request.named)
    if options.inline or address_of(options) == "local":
        _check_platform(request.named)
    if task.shipped and options.batch_size > ROWS and not options.data:
        raise too_large(options.batch_size, ROWS)
    if announce and is_settled(options, request):
        announce_single(len(losses) * len(request.devices) * options.replicas + options.noise)
    return request


def is_settled(options: argparse.Namespace, request: Request) -> bool:
    """Whether all devices are known from the options; what "auto" and --each are is known when Ray has started."""
    return "auto" not in request.devices and not options.each


def announce_single(trials: int) -> None:
    """Announces that a run of one trial has nothing to compare.

    Args:
        trials: Number of trials with the same seed.
    """
    if trials < 2:
        phases.announce(
            "nothing to compare: this run has a single trial. Add a --loss, a --device or --replicas; or compare it "
            "with another run later (parity report A B)"
        )


def _check_platform(devices: Sequence[Device]) -> None:
    """Raises `Trouble` for a kind of GPU that this system never has, before torch or Ray could look for it."""
    for device in devices:
        if device.kind != "cpu" and (device.kind == "mps") != (sys.platform == "darwin"):
            there = "macOS" if device.kind == "mps" else "Linux and Windows"
            raise Trouble(
                f"Device {device.name}: {device.kind} is on {there} only, and this system is {platform.system()}. "
                "Use --device cpu, or the cluster of a machine that has one (--address)."
            )


def _check_cluster_options(options: argparse.Namespace, devices: Sequence[Device]) -> None:
    """Raises `Trouble` if an option needs a cluster and `--inline` rules it out."""
    needs = [f"--{name.replace('_', '-')}" for name in ("each", "wait_for_nodes") if getattr(options, name)]
    needs += [f"--device {device.name}" for device in devices if device.node]
    if options.inline and needs:
        raise Trouble(f"{needs[0]} needs a Ray cluster, and --inline trains in this process. Leave out one of them.")
