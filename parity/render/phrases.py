"""Parts of sentences that several documents share."""

from collections.abc import Iterable, Sequence


def named(quantity: str, tensor: str | None) -> str:
    """A quantity, followed by the name of its tensor if it has several.

    >>> named("param_grad", "1.0.weight"), named("loss", None)
    ('param_grad 1.0.weight', 'loss')
    """
    return f"{quantity} {tensor}" if tensor else quantity


def listed(names: Sequence[str], *, most: int = 4) -> str:
    """A list of at most `most` names; if there are more, its last place says how many are left.

    >>> listed(["a"]), listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], most=3)
    ('a', 'a, b and c', 'a, b and 2 more')
    """
    if len(names) > most:
        # The count takes the place of a name, so that the list is no longer than `most`.
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1:,} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def counted(words: Sequence[str], order: Iterable[str]) -> str:
    """How often each word occurs, in the given order, without those that do not occur.

    >>> counted(["rounding", "failed", "rounding"], ("failed", "diverged", "rounding"))
    '1 failed, 2 rounding'
    """
    return ", ".join(f"{words.count(word)} {word}" for word in order if word in words)


def not_shown(count: int) -> str:
    """A sentence about the items that a list or table leaves out.

    >>> not_shown(1200)
    '1,200 more are not shown.'
    """
    return f"{count:,} more {'is' if count == 1 else 'are'} not shown."
