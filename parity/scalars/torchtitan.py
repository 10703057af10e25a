"""torchtitan's text log: a line a step, such as `step: 10  loss:  7.34291  grad_norm:  1.2345  memory: ...`.

Source:
    pytorch/torchtitan, torchtitan/components/metrics.py, MetricsProcessor.log and log_validation.
"""

import re

from parity.scalars.log import Column, Log, named

FORMAT = "torchtitan's text log"
# The colours of a terminal, which are kept in a log that was copied from one.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LINE = re.compile(r"(?:\[rank(\d+)\]:)?.*?\b(validate\s+)?step:\s*(\d+)\s+(\w+:.*)")
_PAIR = re.compile(r"([\w/.]+):\s*(-?(?:[\d,]+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))(?=\s|$|%|[A-Za-z]+\b)")


def is_torchtitan(text: str) -> bool:
    """Whether a line of a text has a step and a loss as torchtitan writes them."""
    return re.search(r"\bstep:\s*\d+\s+loss:\s*\S+", _COLOURS.sub("", text)) is not None


def read(path: str, text: str) -> Log:
    """Reads the numbers of each step; of several ranks in one log those of the lowest."""
    columns: dict[str, dict[str, Column]] = {}
    for line in _COLOURS.sub("", text).splitlines():
        found = _LINE.search(line)
        if not found:
            continue
        rank, validation, step, rest = found.groups()
        of_rank = columns.setdefault(rank or "", {})
        for name, number in _PAIR.findall(rest):
            full = f"validate/{name}" if validation else name
            of_rank.setdefault(full, Column.empty()).add(int(step), number.replace(",", ""))
    lowest = min(columns, key=lambda rank: int(rank or 0), default="")
    notes = (f"it has the lines of {len(columns)} ranks; rank {lowest} is compared",) if len(columns) > 1 else ()
    return Log(path, FORMAT, named(columns.get(lowest, {})), notes)
