"""Are these training runs the same? If not: where do they first differ, by how much, and is it rounding or a bug?

    import parity

    result = parity.check("my_losses.py:mse", steps=20)
    assert result.passed, result.line

`parity.check` compares a loss or a device from Python, and `parity.Recorder` records a training loop of your own.
`python -m parity` lists the commands.
"""

from typing import TYPE_CHECKING, Any

from parity.version import __version__ as __version__

if TYPE_CHECKING:
    from parity.api import CheckResult, check
    from parity.recorder import Recorder

__all__ = ["CheckResult", "Recorder", "check"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, since torch comes with it and the commands do not need torch."""
    if name == "Recorder":
        from parity.recorder import Recorder

        return Recorder
    if name in __all__:
        from parity import api

        return getattr(api, name)
    raise AttributeError(f"module 'parity' has no attribute {name!r}")
