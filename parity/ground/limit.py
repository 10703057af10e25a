"""A time limit for calls that have no timeout of their own."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def limited(call: Callable[[], Result], limit_s: float) -> Result:
    """Makes a call in a thread of its own; returns what it returns, and raises what it raises.

    Args:
        call: What to call.
        limit_s: How long it may take, in seconds. After that it is left to its thread, which ends with the process.

    Raises:
        TimeoutError: It took longer.
    """
    answers: queue.SimpleQueue[tuple[Result, None] | tuple[None, BaseException]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            answers.put((None, error))

    threading.Thread(target=answer, name="parity-limited", daemon=True).start()
    try:
        result, error = answers.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
