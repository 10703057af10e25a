"""Packages that some of parity works without, and how to install one that is missing."""

from __future__ import annotations

import sys

# By the name that is imported: what pip installs, and what works without it.
_INSTALLED_AS = {
    "torch": ("torch>=2.6", "Reading and judging stored runs (parity.report) works without it."),
    "torchvision": ("torchvision", "Only --data needs it."),
    "ray": ("ray>=2.59", "--inline, parity.check and parity.Recorder work without it."),
    # Stands for all that ray[default] brings.
    "aiohttp": ("ray[default]>=2.59", "Only parity submit and Ray's dashboard need it."),
    "shtab": ("shtab>=1.13", "Only parity --completion needs it."),
    "pandas": ("pandas", "Only the tables of parity.check's result need it."),
    "pynvml": ("nvidia-ml-py>=12", "Only training and parity.devices need it."),
}


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """Names the missing package and the command that installs it; None if parity does not use that package.

    Args:
        error: What the import raised.
    """
    name = (error.name or "").partition(".")[0]
    if name not in _INSTALLED_AS:
        return None
    requirement, without = _INSTALLED_AS[name]
    return (
        f"the package {name} is not installed in this environment. {without} Install it with\n"
        f'{sys.executable} -m pip install "{requirement}"'
    )
