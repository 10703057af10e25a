"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable

# Similarity from which on a name is taken for a misspelt one, from 0 to 1. Chosen: `numppy` and `MSELos` are found, and
# `mse2` is not taken for `mse_loss`.
ALIKE = 0.7


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a word, in whatever case; None if none is like it.

    >>> nearest("numppy", ["builtin", "numpy"]), nearest("thread", ["threads", "isa"]), nearest("x", ["builtin"])
    ('numpy', 'threads', None)
    """
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=ALIKE)
    return names[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], *, written: str = "{}") -> str:
    """A question to append to a message, with a space before it; empty if no known name is like the word.

    Args:
        word: What was found.
        known: The names that are allowed.
        written: How the name is written in full.

    >>> did_you_mean("numppy", ["builtin", "numpy"])
    ' Did you mean numpy?'
    """
    name = nearest(word, known)
    return f" Did you mean {written.format(name)}?" if name else ""
