"""torchtitan's text log: a line a step, such as `step: 10  loss:  7.34291  grad_norm:  1.2345  memory: ...`.

Source:
    pytorch/torchtitan, torchtitan/components/metrics.py, MetricsProcessor.log and log_validation.
"""

import re
from collections.abc import Iterator

from parity.scalars.log import Column, Log, named

FORMAT = "torchtitan's text log"
# The colours of a terminal, which are kept in a log that was copied from one.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Characters in which a line of a step has to come; what is printed before the first is long.
_HEAD = 2**22
_RANK = re.compile(r"\[rank(\d+)\]:")
# A number, with commas at thousands as in 7,034; and the unit of those that measure speed: 41.19%, 27.34GiB(28.78%).
_VALUE = re.compile(
    r"(-?(?:(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?|nan|inf))(%|GiB\([\d.]+%\))?", re.ASCII
)
_WITH_UNIT = re.compile(r"(?:.*/)?(?:memory|mfu)")


def is_torchtitan(text: str) -> bool:
    """Whether a line of a text has a step and a loss as torchtitan writes them."""
    return re.search(r"\bstep:\s*\d+\s+loss:\s*\S+", _COLOURS.sub("", text[:_HEAD])) is not None


def read(path: str, text: str) -> Log:
    """Reads the numbers of each step; of several ranks in one log those of the lowest, and the others' as text."""
    ranks: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for line in _COLOURS.sub("", text).splitlines():
        head, mark, tail = line.partition("step:")
        step, *words = tail.split() or [""]
        # Other lines say at which step training starts or a checkpoint is saved.
        if not (mark and step.isascii() and step.isdecimal() and len(step) <= 18 and words and words[0].endswith(":")):
            continue
        rank = _RANK.match(head)
        of_rank = ranks.setdefault(rank[1] if rank else "", {})
        before = "validate/" if head.rstrip().endswith("validate") else ""
        for name, value in _pairs(words):
            of_rank.setdefault(f"{before}{name}", []).append((int(step), value))
    lowest = min(ranks, key=lambda rank: int(rank or 0), default="")
    notes = [f"it has the lines of {len(ranks)} ranks; rank {lowest} is compared"] if len(ranks) > 1 else []
    of_lowest = ranks.pop(lowest, {})
    columns = {name: _column(name, values) for name, values in of_lowest.items()}
    # All that is written under a name where some of it is not a number, or one that float64 cannot hold.
    texts = {
        name: values
        for name, values in of_lowest.items()
        if columns[name].inexact or len(columns[name].steps) < len(values)
    }
    notes += [f"not numbers, and compared as text: {', '.join(texts)}"] if texts else []
    others = {f"rank {rank} {name}": values for rank, of_rank in ranks.items() for name, values in of_rank.items()}
    return Log(path, FORMAT, named(columns), tuple(notes), texts={**texts, **others})


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Names and values of `loss: 7.34 memory: 27.34GiB(28.78%)`."""
    name, value = words[0], list[str]()
    for word in [*words[1:], ":"]:
        if word.endswith(":"):
            yield name[:-1], " ".join(value)
            name, value = word, []
        else:
            value.append(word)


def _column(name: str, values: list[tuple[int, str]]) -> Column:
    column = Column.empty()
    for step, value in values:
        found = _VALUE.fullmatch(value)
        if found and (not found[2] or _WITH_UNIT.fullmatch(name)):
            column.add(step, found[1].replace(",", ""))
    return column
