"""Packages that a part of parity does without, and how the one that is missing is installed."""

from __future__ import annotations

import sys

# By the name that is imported: what pip installs, and what is done without it.
_INSTALLED_AS = {
    "torch": ("torch>=2.6", "Reading and judging stored runs (parity.report) does without it."),
    "torchvision": ("torchvision", "Only --data needs it."),
    "ray": ("ray[default]>=2.59", "--inline, parity.check and parity.Recorder do without it."),
    "pandas": ("pandas", "Only the tables of parity.check's result need it."),
    "pynvml": ("nvidia-ml-py>=12", "Only training and parity.devices need it."),
}


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """What is missing and the command that installs it; None if it is no package of parity's.

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
