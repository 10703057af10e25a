"""Lists of names in messages and reports."""

from collections.abc import Sequence


def listed(names: Sequence[str], *, most: int = 4) -> str:
    """A list of at most `most` entries; if there are more names, the last entry counts the rest.

    >>> listed(["a"]), listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], most=3)
    ('a', 'a, b and c', 'a, b and 2 more')
    """
    if len(names) > most:
        # The count replaces a name, so the list has at most `most` entries.
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1:,} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
