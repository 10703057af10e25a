"""JSON of headers and indexes, in which a name that stands twice is refused instead of lost."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from parity.ground.errors import Trouble


def parse(text: bytes, path: Path) -> Any:
    """Parses JSON.

    Args:
        text: The JSON.
        path: The file that it is from, for the error.

    Raises:
        Trouble: A name stands twice in one object.
        ValueError: It is no JSON, or nested too deep.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            name = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise Trouble(f"{path} is damaged: it has {name[:200]!r} twice. Write it again with each name once.")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
