"""Reads JSON that somebody else may have written, with limits on its size and depth."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

# Most bytes of a JSON text. The run.json of 10,000 trials has 1 MB, and the settings of an optimizer with a group for
# each of 1,000 parameters 0.4 MB. As Python objects a text may take 20 times as much.
MOST_BYTES = 16 * 2**20
# Most levels of arrays and objects in each other. A run.json has 4, settings some 6; whatever walks through them calls
# itself for each.
MOST_LEVELS = 32


def parse_json(text: bytes | str, *, most_bytes: int = MOST_BYTES) -> Any:
    """The value of a JSON text.

    Args:
        text: The text.
        most_bytes: Most bytes that it may have.

    Raises:
        ValueError: It is not valid JSON, or it is too long or nested too deeply.
    """
    if len(text) > most_bytes:
        raise ValueError(f"it has {len(text):,} bytes of JSON, and at most {most_bytes:,} are read")
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        inner = [each for each in level if isinstance(each, (dict, list))]
        if not inner:
            return value
        level = [item for each in inner for item in (each.values() if isinstance(each, dict) else each)]
    raise ValueError(_TOO_DEEP)


def each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these names and values; for `object_pairs_hook` of `json.loads`, which would keep the last one.

    Raises:
        ValueError: A name is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has {name[:200]!r} twice")
    return found


def _whole_number(text: str) -> int:
    """A whole number of at most 64 bits: a larger one may not fit into a float, and takes long to print."""
    value = int(text)
    if abs(value) > _LARGEST:
        raise ValueError(f"it has the number {text[:20]}..., and the largest is {_LARGEST}")
    return value


# A digest has 64 bits; nothing else that is stored is as large.
_LARGEST = 2**64 - 1
_TOO_DEEP = f"its JSON has more than {MOST_LEVELS} levels"
