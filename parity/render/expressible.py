"""What XML and JSON cannot express, in what they can."""

import math
import re
from typing import Any

from parity.ground.quoting import MOST_STORED, cut

# All that XML 1.0 does not allow: control characters, surrogates, U+FFFE and U+FFFF.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def in_xml(text: str) -> str:
    """The text, cut if it is long, with an escape for each character that XML does not allow.

    Source:
        W3C, Extensible Markup Language (XML) 1.0, section 2.2.
    """
    return _FORBIDDEN.sub(lambda found: ascii(found[0])[1:-1], cut(text, MOST_STORED))


def in_json(value: Any) -> Any:
    """The value, with "nan", "inf" and "-inf" in the place of numbers that JSON cannot express, and long texts cut."""
    if isinstance(value, dict):
        return {key: in_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_json(item) for item in value]
    if isinstance(value, str):
        return cut(value, MOST_STORED)
    # `str` gives "nan", "inf" and "-inf" for these.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
