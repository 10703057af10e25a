"""The leaves of dictionaries and lists in each other: tensors and plain values, by names that are joined by dots."""

from collections.abc import Iterator, Mapping
from typing import Any

from parity.ground.errors import Trouble

# Most levels of dictionaries in each other; more is a structure that contains itself.
_DEEPEST = 40


def leaves(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields the name of each leaf, and the leaf; a list of plain values is one leaf.

    Args:
        value: The structure.
        name: The name that it has itself.
        depth: Number of structures around it.

    Raises:
        Trouble: It is nested too deeply, or has a key that has no text.
    """
    if depth > _DEEPEST:
        raise Trouble(
            f"{name[:80]}... is nested more than {_DEEPEST} levels deep. Save the tensors in a flat dictionary."
        )
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
        if keys := [_key(key, name) for key in value if not isinstance(key, str)]:
            yield name or "value", f"keys that are not texts: {', '.join(sorted(keys))}"
        if not items and name:
            yield name, {}
    elif isinstance(value, list | tuple) and any(not _is_plain(each) for each in value):
        items = [(str(place), item) for place, item in enumerate(value)]
        # A dictionary with the keys 0, 1, ... is not the same.
        yield name or "value", f"{type(value).__name__} of {len(items)}"
    else:
        yield name or "value", value
        return
    for key, item in items:
        yield from leaves(item, f"{name}.{key}" if name else key, depth + 1)


def _key(key: Any, name: str) -> str:
    """A key in words that tell it from others, also from its text."""
    if not all(_is_plain(each) for each in (key if isinstance(key, tuple) else [key])):
        raise Trouble(
            f"{name or 'The file'} has a {type(key).__name__} as a key. Save the tensors under texts or numbers."
        )
    return repr(key)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)
