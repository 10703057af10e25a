"""Are these training runs the same? If not: where do they first differ, by how much, and is it rounding or a bug?

    import parity

    result = parity.check("my_losses.py:mse", steps=20)
    assert result.passed, result.line

`parity.check` compares a loss or a device from Python, `parity.Recorder` records a training loop of your own, and
`parity.compare_logprobs` compares the log-probabilities of a trainer and a sampler. `parity --help` lists the commands.
"""

import importlib as _importlib
import random as _random
from typing import TYPE_CHECKING, Any

from parity.version import __version__ as __version__

# Rich draws from Python's generator when its styles are imported. Here, where every import of parity passes: a program
# must draw the same numbers with parity as without.
_state = _random.getstate()
import rich.style as _rich_style  # noqa: E402

_random.setstate(_state)
del _state, _rich_style

if TYPE_CHECKING:
    from parity.api import check as check
    from parity.check_result import CheckResult as CheckResult
    from parity.ground.errors import Trouble as Trouble
    from parity.logprobs import compare_logprobs as compare_logprobs
    from parity.recorder import Recorder as Recorder

# The module of each public name. It is imported when the name is first used, since torch comes with some, and the
# commands do not need torch.
_MODULES = {
    "CheckResult": "parity.check_result",
    "Recorder": "parity.recorder",
    "Trouble": "parity.ground.errors",
    "check": "parity.api",
    "compare_logprobs": "parity.logprobs",
}

# Modules for libraries that own a training loop, each of which imports its library. Type checkers do not see them here,
# since they would follow the imports of these libraries for whoever imports parity: `import parity.hf` shows them one.
_OF_LIBRARIES = ("accelerate", "hf", "lightning")

__all__ = ["CheckResult", "Recorder", "Trouble", "__version__", "check", "compare_logprobs"]


# For type checkers the names are those above, so that a misspelt one is found.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used."""
        if name in _OF_LIBRARIES:
            return _importlib.import_module(f"parity.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module 'parity' has no attribute {name!r}")
        try:
            return getattr(_importlib.import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            from parity.ground.packages import how_to_install

            if text := how_to_install(error):
                raise ModuleNotFoundError(f"parity.{name}: {text}", name=error.name) from error
            raise


def __dir__() -> list[str]:
    """The public names, for completion and `help`."""
    return sorted([*__all__, *_OF_LIBRARIES])
