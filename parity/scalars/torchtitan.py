"""torchtitan's text log: a line a step, such as `step: 10  loss:  7.34291  grad_norm:  1.2345  memory: ...`.

Source:
    pytorch/torchtitan, torchtitan/components/metrics.py, MetricsProcessor.log and log_validation.
"""

import re
from collections.abc import Iterator

from parity.scalars.log import Column, Log, inexact, named

FORMAT = "torchtitan's text log"
# The colours of a terminal, which are kept in a log that was copied from one.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Characters in which a line of a step has to come; what is printed before the first is long.
_HEAD = 2**22
_RANK = re.compile(r"\[rank(\d+)\]:")
_NUMBER = re.compile(r"-?(?:[\d,]*\.?\d+(?:[eE][-+]?\d+)?|nan|inf)")


def is_torchtitan(text: str) -> bool:
    """Whether a line of a text has a step and a loss as torchtitan writes them."""
    return re.search(r"\bstep:\s*\d+\s+loss:\s*\S+", _COLOURS.sub("", text[:_HEAD])) is not None


def read(path: str, text: str) -> Log:
    """Reads the numbers of each step; of several ranks in one log those of the lowest, and the others' as text."""
    columns: dict[str, dict[str, Column]] = {}
    for line in _COLOURS.sub("", text).splitlines():
        head, mark, tail = line.partition("step:")
        step, *words = tail.split() or [""]
        # Other lines say at which step training starts or a checkpoint is saved.
        if not (mark and step.isascii() and step.isdecimal() and len(step) <= 18 and words and words[0].endswith(":")):
            continue
        rank = _RANK.match(head)
        of_rank = columns.setdefault(rank[1] if rank else "", {})
        for name, number in _pairs(words):
            full = f"validate/{name}" if head.rstrip().endswith("validate") else name
            column = of_rank.get(full) or of_rank.setdefault(full, Column.empty())
            column.add(int(step), number)
    lowest = min(columns, key=lambda rank: int(rank or 0), default="")
    notes = (f"it has the lines of {len(columns)} ranks; rank {lowest} is compared",) if len(columns) > 1 else ()
    of_lowest = columns.pop(lowest, {})
    others = {
        f"rank {rank} {name}": [*zip(column.steps, column.texts, strict=True)]
        for rank, of_rank in columns.items()
        for name, column in of_rank.items()
    }
    return Log(path, FORMAT, named(of_lowest), notes, texts={**inexact(of_lowest), **others})


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Names and numbers of `loss: 7.34 memory: 27.34GiB(28.78%)`; only the number that a value begins with."""
    name = ""
    for word in words:
        if word.endswith(":"):
            name = word[:-1]
        elif name and (found := _NUMBER.match(word)):
            yield name, found[0].replace(",", "")
            name = ""
