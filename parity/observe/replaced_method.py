"""Replaces a method of one object for a while: how a library that owns the loop is seen at work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replaces a method of one object within the block by what is made of it."""
    made: Any = make(getattr(owner, name))
    made.parity_before, made.parity_ended = vars(owner).get(name), False
    setattr(owner, name, made)
    try:
        yield
    finally:
        made.parity_ended = True
        # Another recording may have replaced the method after this one: the last that ends puts back what was there.
        before = vars(owner).get(name)
        while getattr(before, "parity_ended", False):
            before = before.parity_before
        if before is None:
            delattr(owner, name)  # the method of its class again
        else:
            setattr(owner, name, before)
