"""Torch's switches: what a device needs in the process that trains on it, set and verified.

The environment variables that must be set before torch is imported are in `plan.device`.
"""

import contextlib
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from parity.ground.errors import TrialFailed, Trouble
from parity.observe import tf32
from parity.plan.device import Device

# Flags of /proc/cpuinfo that ATen's kernels of that name are compiled for: pytorch, cmake/Codegen.cmake.
_ISA_FLAGS = {
    "default": set(),
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512dq", "avx512vl", "avx512bw", "fma"},
}

# What a GPU says, in any CUDA, after a kernel that was written or called wrongly.
_DOING_OF_CODE = ("device-side assert", "illegal memory access", "misaligned address", "illegal instruction")
# Whether torch can use a kind of accelerator in this process.
_USABLE: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}


def prepare(device: Device) -> torch.device:
    """Sets torch's switches in this process and verifies that the device is what its name says.

    Returns:
        The device as torch names it.

    Raises:
        Trouble: The machine does not have the device, or a setting did not take effect.
    """
    # First: the switches below do not fail on a machine that lacks the device.
    require(device)
    torch.set_num_threads(device.threads)
    if torch.get_num_threads() != device.threads:
        raise Trouble(f"Device {device.name}: torch runs {torch.get_num_threads()} threads, not {device.threads}.")
    if device.isa is not None:
        # ATen reads the variable only when torch is imported, so it may have come too late.
        capability = torch.backends.cpu.get_cpu_capability()
        if capability != device.isa.upper():
            raise Trouble(
                f"Device {device.name}: torch runs its {capability} kernels; the setting did not take effect. "
                "It must be set before torch is imported: leave out --inline, or set "
                f"ATEN_CPU_CAPABILITY={device.isa} before you start Python."
            )
    # benchmark picks the fastest algorithm by timing, and so may pick another one in the next process.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # Convolutions and matrix products have a switch each; a device means both.
    tf32.set_allowed(tf32.ALL if device.tf32 else ())
    # A worker sees only its own accelerator, so the index is always 0.
    return torch.device(device.kind) if device.kind == "cpu" else torch.device(device.kind, 0)


def available_accelerators() -> list[str]:
    """Kinds of accelerator that torch can use in this process."""
    return [kind for kind, usable in _USABLE.items() if usable()]


def unusable(device: Device) -> str | None:
    """Why an accelerator computes nothing more in this process, in the words of torch; None where it does.

    An assertion that fails on a GPU, such as an index out of range, ends its context: whatever is asked of it from then
    on raises the same error.
    """
    if device.kind == "cpu":
        return None
    try:
        torch.accelerator.synchronize()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def blame_for(device: Device, step: int | None, when: str) -> TrialFailed | Trouble | None:
    """The error to raise if a device has become unusable; None if it has not.

    Args:
        device: The device.
        step: The step that is taken, or None.
        when: What is going on, for the message.

    Returns:
        `TrialFailed` if code is to blame, as for an index out of range; `Trouble` if the device itself is broken.
    """
    if (reason := unusable(device)) is None:
        return None
    if any(each in reason for each in _DOING_OF_CODE):
        return TrialFailed(step, f"the device became unusable {when}: {reason}")
    return Trouble(
        f"Device {device.name} became unusable {when}: {reason}. The device or its driver is at fault, not the loss. "
        "What was recorded is kept; when the device works again, continue with --resume."
    )


class BlamedForDevice:
    """Turns an error caused by a device that has become unusable into the one that `blame_for` returns.

    A GPU reports a failure at the next call, whoever makes that call.

    Args:
        device: The device.
        step: The step that is taken, or None.
        when: What is going on, for the message.
    """

    # Not contextlib.contextmanager, see `step.Blamed`.
    def __init__(self, device: Device, step: int | None, when: str) -> None:
        self._device, self._step, self._when = device, step, when

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # The user's code is blamed for what it raises itself, and may have met a broken device.
        if isinstance(error, (RuntimeError, TrialFailed)):
            blame = blame_for(self._device, self._step, self._when)
            if isinstance(blame, Trouble) or (blame and not isinstance(error, TrialFailed)):
                raise blame from error


@contextlib.contextmanager
def switches_restored() -> Iterator[None]:
    """Gives the thread count and the switches of `prepare` back the values that they had before the block."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    try:
        with tf32.switches_restored():
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.set_num_threads(threads)


def require(device: Device) -> None:
    """Raises `Trouble` unless this machine has the device and, for a CPU, its instruction set."""
    if device.kind != "cpu" and device.kind not in available_accelerators():
        raise Trouble(
            f"Device {device.name}: torch {torch.__version__} sees no {device.kind} on this machine. Use --device cpu."
        )
    missing = _ISA_FLAGS.get(device.isa or "default", set()) - _cpu_flags() if device.isa else set()
    # Elsewhere there is no /proc/cpuinfo to look into, and the flags would all seem to be missing.
    if missing and platform.system() == "Linux":
        raise Trouble(
            f"Device {device.name}: this CPU lacks {', '.join(sorted(missing))}. Use another isa= or leave it out."
        )


def _cpu_flags() -> set[str]:
    """Instruction set flags of this machine's first CPU; empty where there is no /proc/cpuinfo to read them from."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
