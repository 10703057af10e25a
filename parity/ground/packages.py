"""Packages that some of parity works without, and how to install one that is missing."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

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
    "lightning": ("lightning>=2.4", "Only parity.lightning needs it."),
    "accelerate": ("accelerate>=1", "Only parity.accelerate and parity.hf need it."),
    "transformers": ("transformers>=5", "Only parity.hf needs it."),
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


def why_not_imported(error: ImportError | OSError) -> str | None:
    """Names a package that is installed but cannot be imported, and says what to do; None if the error is another one.

    The reason may be a library or package that it needs, which is missing or of another version, or too little memory.

    Args:
        error: What was raised; a library that is missing is an OSError where the package loads it by itself.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and name in _INSTALLED_AS:
            requirement, without = _INSTALLED_AS[name]
            return (
                f"the package {name} is installed, but cannot be imported: {error}. {without} If this fails, too,\n"
                f"{sys.executable} -c 'import {name}'\n"
                f'then install it again with\n{sys.executable} -m pip install --force-reinstall "{requirement}"'
            )
    return None


@contextlib.contextmanager
def needs(module: str) -> Iterator[None]:
    """Says how to install a package that a module of parity imports in the block, if it is not there.

    Args:
        module: The module of parity, for the message.

    Raises:
        ModuleNotFoundError: The package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if text := how_to_install(error):
            raise ModuleNotFoundError(f"{module}: {text}", name=error.name) from error
        raise
