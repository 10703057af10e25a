"""The facts of a machine: those that are stored with each trial that ran on it, and those of a node of a cluster.

They decide which devices have to produce equal bits and which runs can be resumed where. So their values must not
depend on the process that asks, and must stay comparable with those in old runs: change how a fact is found only
if its value stays the same.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import torch

from parity.plan.device import Device
from parity.version import __version__, package_sha256

# Instruction set extensions that arithmetic libraries choose their code by: prefixes of the flags in /proc/cpuinfo on
# x86-64 and ARM. The other flags (of memory protection, virtualization, ...) differ between machines with equal bits.
_ISA_PREFIXES = ("sse4_2", "avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")


def facts(device: Device, *, ordinal: int = 0) -> dict[str, Any]:
    """The facts of this process and machine, as columns of trials.parquet; None for what the machine does not have.

    Args:
        device: The device that the trial runs on.
        ordinal: Number of the GPU among those that this process sees.
    """
    properties = torch.cuda.get_device_properties(ordinal) if device.kind == "cuda" else None
    return {
        "host": platform.node(),
        "os": platform.platform(),
        "cpu_model": _cpu_model(),
        "cpu_isa": _cpu_isa(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "blas": _blas(),
        "gpu_name": properties.name if properties else None,
        "gpu_index": device.index,
        "gpu_uuid": str(properties.uuid) if properties else None,
        "gpu_driver": _driver() if properties else None,
        **_versions(cuda=properties is not None),
    }


def node_facts() -> dict[str, Any]:
    """The facts of this machine as a node of a cluster: those of its CPU, and in "gpus" a list of those of its GPUs."""
    gpus = _gpus()
    return {
        "host": platform.node(),
        "os": platform.platform(),
        "cpu_model": _cpu_model(),
        "cpu_isa": _cpu_isa(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": _blas(),
        "gpus": gpus,
        **_versions(cuda=bool(gpus)),
    }


def _versions(*, cuda: bool) -> dict[str, Any]:
    """The versions of the software that the bits depend on; None for CUDA's where no GPU is used."""
    return {
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": str(torch.backends.cudnn.version()) if cuda else None,  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a TorchVersion would make the driver import torch
        "numpy": importlib.metadata.version("numpy"),
        "parity": __version__,
        "parity_sha256": package_sha256(),
    }


def _cpu_model() -> str:
    """The processor's name as the kernel reports it, else what Python's `platform` has."""
    # None is a system without /proc/cpuinfo; "" a kernel that has no such field in it.
    found = _from_cpuinfo("model name")
    if found is None:
        return platform.processor() or platform.machine()
    return found or platform.machine()


def _cpu_isa() -> str | None:
    """Names of the instruction set extensions, in alphabetical order; None where there is no /proc/cpuinfo."""
    # x86-64 calls the field "flags", ARM calls it "Features".
    found = _from_cpuinfo("flags|Features")
    if found is None:
        return None
    # Sorted, since the order in which a kernel lists them must not make two machines different.
    return " ".join(sorted({flag for flag in found.split() if flag.startswith(_ISA_PREFIXES)}))


def _from_cpuinfo(field: str) -> str | None:
    """The first value of a field in /proc/cpuinfo, empty if it has none; None where there is no such file.

    Args:
        field: Regular expression for the name of the field.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except FileNotFoundError:
        return None
    # The first processor stands for all: the file has a paragraph for each.
    found = re.search(rf"^(?:{field})\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def _blas() -> str:
    """Name and version of the library behind torch's matrix products on the CPU, such as "mkl 2024.2".

    From torch's build configuration: torch links MKL statically, where no list of loaded libraries shows it.
    """
    build = torch.__config__.show()
    library = re.search(r"Math Kernel Library Version (\S+)", build)
    kind = re.search(r"BLAS_INFO=(\w+)", build)
    # A torch that is built with MKL names it with its version; others name only the kind of library.
    return f"mkl {library[1]}" if library else kind[1] if kind else "unknown"


def _driver() -> str:
    """Version of the NVIDIA driver; "unknown" where its management library cannot say."""
    with contextlib.suppress(pynvml.NVMLError), _nvml():
        return str(pynvml.nvmlSystemGetDriverVersion())
    return "unknown"


def _gpus() -> list[dict[str, Any]]:
    """The GPUs that this process may use: "gpu_index", "gpu_name", "gpu_uuid" and "gpu_driver" of each."""
    gpus = []
    # A machine without a driver is an ordinary one, not a failure.
    with contextlib.suppress(pynvml.NVMLError), _nvml():
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):  # a GPU that is lost; CUDA cannot use it either
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                name, uuid = str(pynvml.nvmlDeviceGetName(handle)), str(pynvml.nvmlDeviceGetUUID(handle))
                gpus.append({"gpu_index": index, "gpu_name": name, "gpu_uuid": uuid, "gpu_driver": driver})
    # NVML lists all GPUs of the machine, whatever this process may use.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    # The variable may list indices or UUIDs.
    chosen = {part.strip() for part in visible.split(",")}
    return [gpu for gpu in gpus if str(gpu["gpu_index"]) in chosen or gpu["gpu_uuid"] in chosen]


@contextlib.contextmanager
def _nvml() -> Iterator[None]:
    """Keeps NVIDIA's management library open.

    Raises:
        NVMLError: The machine has no NVIDIA driver, or one that does not work.
    """
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()
