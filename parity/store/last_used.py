"""A cache of columns that drops the least recently used."""

from collections import OrderedDict

import pyarrow as pa


class LastUsed:
    """Columns by what they are known by."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], pa.ChunkedArray] = OrderedDict()
        self._sizes: dict[tuple[object, ...], int] = {}
        self._bytes = 0

    def __contains__(self, key: tuple[object, ...]) -> bool:
        return key in self._kept

    def __getitem__(self, key: tuple[object, ...]) -> pa.ChunkedArray:
        self._kept.move_to_end(key)
        return self._kept[key]

    def keep(self, key: tuple[object, ...], column: pa.ChunkedArray) -> None:
        """Keeps a column that is not there yet."""
        assert key not in self._kept, "its bytes would be counted twice"
        self._kept[key] = column
        # Counted once, since Arrow goes through all chunks and buffers for it.
        self._sizes[key] = column.nbytes
        self._bytes += self._sizes[key]

    def drop(self, most_bytes: int) -> None:
        """Drops what was used longest ago while all of it takes more bytes than that; the last one stays."""
        while len(self._kept) > 1 and self._bytes > most_bytes:
            key, _ = self._kept.popitem(last=False)
            self._bytes -= self._sizes.pop(key)
