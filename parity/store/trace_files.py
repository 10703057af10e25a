"""The files of traces: their names, and writing them row group by row group."""

import contextlib
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from parity.store import storage
from parity.store.files import writing
from parity.store.parquet import GROUP_BYTES, open_writer
from parity.store.storage import StoragePath
from parity.store.trace import SCHEMA

# Most trace files that a run has, however many trials there are.
MOST_TRACE_FILES = 16
# Most characters of a trial's name used in a file name, since file systems limit its length (often to 255 bytes).
MOST_LETTERS = 150
# Traces of fewer bytes in memory than that are compressed by Snappy: zstd takes 30 us to begin, once for each column of
# each row group, and 20 us when it is read. 20 steps of 10 tensors, of 29 kB, are written in 0.8 ms instead of 2.3 ms,
# and the file is 3 % larger; of 240 steps it would be 9 %.
SMALL_BYTES = 2**17


def trace_file(index: int, trials: Sequence[str]) -> str:
    """Name of a trial's file in traces/: the number and the name of the first trial in it.

    Args:
        index: Position of the trial in the plan.
        trials: Names of all trials; if there are many, several share a file.
    """
    # Rounded up; consecutive trials share a file, so that each is written in the order of the plan.
    share = -(-len(trials) // MOST_TRACE_FILES)
    first = index // share * share
    readable = re.sub(r"[^A-Za-z0-9@.-]", "_", trials[first])[:MOST_LETTERS]
    return f"{first:04d}-{readable}.parquet"


class TraceWriter:
    """Writes a file of traces row group by row group; the file gets its name once it is complete.

    Args:
        path: The file; nothing is written before the first chunk.
    """

    def __init__(self, path: StoragePath) -> None:
        self._path = path
        self._placing = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def append(self, chunk: pa.Table) -> None:
        """Appends rows of one trial.

        Raises:
            Trouble: They cannot be written.
        """
        size_bytes = chunk.get_total_buffer_size()
        with writing(self._path):
            if self._writer is None:
                beside = self._placing.enter_context(storage.written_beside(self._path))
                self._writer = open_writer(beside, SCHEMA, codec="snappy" if size_bytes < SMALL_BYTES else "zstd")
            # Each call makes row groups of its own, so each of them has rows of one trial; `trace_chunks` relies on
            # that.
            # And none that would not be read again, however many tensors a row has.
            rows = max(1, GROUP_BYTES * len(chunk) // max(1, size_bytes))
            self._writer.write_table(chunk, row_group_size=rows)

    def close(self) -> None:
        """Completes the file, and gives it its name.

        Raises:
            Trouble: It cannot be written.
        """
        with writing(self._path), self._placing:
            assert self._writer is not None, "a trace without a chunk has no file"
            # Writes the footer, and has to come before `_placing` ends and gives the file its name.
            self._writer.close()
