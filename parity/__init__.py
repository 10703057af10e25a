"""Are these training runs the same? If not: where do they first differ, by how much, and is it rounding or a bug?

    import parity

    result = parity.check("my_losses.py:mse", steps=20)
    assert result.passed, result.line

`parity.check` compares a loss or a device from Python, and `parity.Recorder` records a training loop of your own.
`python -m parity` lists the commands.
"""

import random as _random
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from parity.version import __version__ as __version__

# Rich draws from Python's generator when its styles are imported. Here, where every import of parity passes: a program
# must draw the same numbers with parity as without.
_state = _random.getstate()
import rich.style as _rich_style  # noqa: E402

_random.setstate(_state)
del _state, _rich_style

if TYPE_CHECKING:
    from parity.api import CheckResult, check
    from parity.recorder import Recorder

# Modules for libraries that own a training loop, each of which imports its library.
_OF_LIBRARIES = ("accelerate", "hf", "lightning")
__all__ = ["CheckResult", "Recorder", "check"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, since torch comes with it and the commands do not need torch."""
    if name in _OF_LIBRARIES:
        return _import_module(f"parity.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    try:
        if name == "Recorder":
            from parity.recorder import Recorder

            return Recorder
        from parity import api

        return getattr(api, name)
    except ModuleNotFoundError as error:
        from parity.ground.packages import how_to_install

        if text := how_to_install(error):
            raise ModuleNotFoundError(f"parity.{name}: {text}", name=error.name) from error
        raise
