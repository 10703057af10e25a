"""The facts of the machine that a trial ran on, stored with it; and of a node of a cluster with all its GPUs."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from parity.plan.device import Device
from parity.version import __version__

# Extensions that a library of arithmetic chooses its code by: the prefixes of their flags in /proc/cpuinfo.
_ISA_PREFIXES = ("sse4_2", "avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")


def facts(device: Device, *, ordinal: int = 0) -> dict[str, Any]:
    """Describes this process and machine, as the columns of trials.parquet; None for what a machine does not have.

    Args:
        device: That the trial runs on.
        ordinal: Of the GPU among those that this process sees.
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
    """Describes this machine as a node of a cluster: the facts of its CPU, and "gpus", a list of its GPUs' facts."""
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
    return {
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": str(torch.backends.cudnn.version()) if cuda else None,  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a TorchVersion would make the driver import torch
        "numpy": importlib.metadata.version("numpy"),
        "parity": __version__,
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _cpu_isa() -> str | None:
    """Names of the extensions, in their order of the alphabet; None where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except FileNotFoundError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = found[1].split() if found else []
    return " ".join(sorted({flag for flag in flags if flag.startswith(_ISA_PREFIXES)}))


def _blas() -> str:
    """Name and version of the library behind torch's matrix products on the CPU."""
    build = torch.__config__.show()
    library = re.search(r"Math Kernel Library Version (\S+)", build)
    kind = re.search(r"BLAS_INFO=(\w+)", build)
    return f"mkl {library[1]}" if library else kind[1] if kind else "unknown"


def _driver() -> str:
    """Version of the NVIDIA driver, "unknown" where `nvidia-smi` is not there to ask."""
    rows = _ask_nvidia("driver_version")
    return rows[0][0] if rows else "unknown"


def _gpus() -> list[dict[str, Any]]:
    """The GPUs that this process may use: "gpu_index", "gpu_name", "gpu_uuid" and "gpu_driver" of each."""
    rows = _ask_nvidia("index", "name", "uuid", "driver_version")
    gpus = [
        {"gpu_index": int(index), "gpu_name": name, "gpu_uuid": uuid, "gpu_driver": driver}
        for index, name, uuid, driver in rows
    ]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    chosen = {part.strip() for part in visible.split(",")}
    return [gpu for gpu in gpus if str(gpu["gpu_index"]) in chosen or gpu["gpu_uuid"] in chosen]


def _ask_nvidia(*names: str) -> list[list[str]]:
    """What `nvidia-smi` tells of each GPU; empty where it is not there to ask."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[part.strip() for part in line.split(",")] for line in text.splitlines() if line.strip()]
