"""The facts of the machine that a trial ran on, stored with it."""

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from parity import __version__
from parity.devices import Device


def facts(device: Device) -> dict[str, Any]:
    """Describes this process and machine, as the columns of trials.parquet; None for what a machine does not have."""
    properties = torch.cuda.get_device_properties(0) if device.kind == "cuda" else None
    return {
        "host": platform.node(),
        "os": platform.platform(),
        "cpu_model": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "blas": _blas(),
        "gpu_name": properties.name if properties else None,
        "gpu_uuid": str(properties.uuid) if properties else None,
        "gpu_driver": _driver() if properties else None,
        "cuda": torch.version.cuda if properties else None,
        "cudnn": str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        if properties
        else None,
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


def _blas() -> str:
    """Name and version of the library behind torch's matrix products on the CPU."""
    build = torch.__config__.show()
    library = re.search(r"Math Kernel Library Version (\S+)", build)
    kind = re.search(r"BLAS_INFO=(\w+)", build)
    return f"mkl {library[1]}" if library else kind[1] if kind else "unknown"


def _driver() -> str:
    """Version of the NVIDIA driver, "unknown" where `nvidia-smi` is not there to ask."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return lines[0] if lines else "unknown"
