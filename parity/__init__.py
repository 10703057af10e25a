"""Are these training runs the same? If not: where do they first differ, by how much, and is it rounding or a bug?

    import parity

    result = parity.check("my_losses.py:mse", steps=20)
    assert result.passed, result.line

`parity.check` compares a loss or a device from Python, `parity.Recorder` records a training loop of your own, and
`parity.compare_logprobs` compares the log-probabilities of a trainer and a sampler.
`python -m parity` lists the commands.
"""

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
    from parity.api import CheckResult, check
    from parity.logprobs import compare_logprobs
    from parity.recorder import Recorder

__all__ = ["CheckResult", "Recorder", "check", "compare_logprobs"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, since torch comes with it and the commands do not need torch."""
    if name not in __all__:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    try:
        if name == "Recorder":
            from parity.recorder import Recorder

            return Recorder
        if name == "compare_logprobs":
            from parity.logprobs import compare_logprobs

            return compare_logprobs
        from parity import api

        return getattr(api, name)
    except ModuleNotFoundError as error:
        from parity.ground.packages import how_to_install

        if text := how_to_install(error):
            raise ModuleNotFoundError(f"parity.{name}: {text}", name=error.name) from error
        raise
