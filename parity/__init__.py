"""Are these training runs the same? If not: where do they part, how far, and is it rounding or a bug?"""

from typing import TYPE_CHECKING, Any

from parity.version import __version__ as __version__

if TYPE_CHECKING:
    from parity.api import CheckResult, check
    from parity.recorder import Recorder

__all__ = ["CheckResult", "Recorder", "check"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for, and torch with it: the commands do without."""
    if name == "Recorder":
        from parity.recorder import Recorder

        return Recorder
    if name in __all__:
        from parity import api

        return getattr(api, name)
    raise AttributeError(f"module 'parity' has no attribute {name!r}")
