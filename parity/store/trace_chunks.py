"""The file of a trace as it is read: its row groups of each trial, and what they hold before they are decoded."""

from collections.abc import Collection, Sequence
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from parity.store.column_chunks import Chunk, Footer, addresses, only_texts, places, read_footer
from parity.store.footer import column_bytes
from parity.store.parquet import cast, open_parquet, reading
from parity.store.seal import digest_with_parts
from parity.store.storage import StoragePath
from parity.store.trace import SCHEMA


class TraceFile:
    """A file of traces, which one or several trials share.

    Args:
        path: The file.

    Raises:
        Trouble: It does not exist, or is damaged.
    """

    def __init__(self, path: StoragePath) -> None:
        self.path = path
        self._parquet = open_parquet(path)

    @property
    def metadata(self) -> pq.FileMetaData:
        """What Arrow makes of the footer."""
        return self._parquet.metadata

    @cached_property
    def footer(self) -> Footer:
        """What its footer says.

        Raises:
            Trouble: It is damaged.
        """
        with reading(self.path):
            return read_footer(self.metadata)

    @cached_property
    def trials(self) -> list[str | None]:
        """The trial of each row group; None where the statistics do not say that all its rows are of one.

        Raises:
            Trouble: It is damaged.
        """
        with reading(self.path):
            return only_texts(self.metadata, "trial")

    @cached_property
    def _digests(self) -> tuple[str, dict[str, tuple[bytes | None, ...]]]:
        with reading(self.path):
            digest, parts = digest_with_parts(self.path, places(self.footer))
            return digest, addresses(self.footer, parts)

    @property
    def digest(self) -> str:
        """The digest of all of its bytes, which are read for it once.

        Raises:
            Trouble: It cannot be read.
        """
        return self._digests[0]

    @property
    def is_digested(self) -> bool:
        """Whether its bytes were read for its digest."""
        return "_digests" in self.__dict__

    def chunks(self, groups: Sequence[int]) -> dict[str, tuple[Chunk, ...]]:
        """The chunks of each column of the schema in some row groups; none of a column that the file lacks.

        Raises:
            Trouble: It is damaged.
        """
        found = ((name, self.footer.chunks.get(name)) for name in SCHEMA.names)
        return {name: tuple(each[group] for group in groups) for name, each in found if each}

    def nulls(self, name: str, groups: Sequence[int]) -> int | None:
        """Number of rows without a value in a column of some row groups, or None if that is not known.

        Raises:
            Trouble: It is damaged.
        """
        nulls = [self.footer.chunks[name][group].nulls for group in groups] if name in self.footer.chunks else [None]
        known = [each for each in nulls if each is not None]
        # Of a list the statistics count the values that it lacks, not the lists.
        if len(known) < len(nulls) or (any(known) and pa.types.is_list(SCHEMA.field(name).type)):
            return None
        return sum(known)

    def addresses(self, name: str, groups: Sequence[int]) -> tuple[bytes | None, ...]:
        """What the chunks of a column in some row groups are known by; all None if the file has none.

        Raises:
            Trouble: It cannot be read.
        """
        found = self._digests[1].get(name)
        return tuple(found[group] if found else None for group in groups)

    def groups_of(self, trial: str) -> Sequence[int]:
        """The row groups that may hold rows of a trial, by their statistics."""
        # Another program may have written the file again, without statistics; then each group is read.
        return [number for number, of in enumerate(self.trials) if of in (None, trial)]

    def size(self, names: Collection[str], groups: Sequence[int]) -> int:
        """Bytes of memory of some columns of some row groups, by the footer.

        Raises:
            Trouble: It is damaged.
        """
        return sum(self._sizes[group].get(name, 0) for group in groups for name in names)

    @cached_property
    def _sizes(self) -> list[dict[str, int]]:
        with reading(self.path):
            return column_bytes(self.metadata)

    def read(self, groups: Sequence[int], names: Collection[str]) -> pa.Table:
        """Some columns of some row groups, in the types and the order of the schema.

        Raises:
            Trouble: The file is damaged.
        """
        ordered = sorted({*names}, key=SCHEMA.get_field_index)
        with reading(self.path):
            found = self._parquet.read_row_groups(groups, columns=ordered)
            _check_texts(found)
        return cast(self.path, found, pa.schema([SCHEMA.field(name) for name in ordered], SCHEMA.metadata))


def _check_texts(table: pa.Table) -> None:
    """Raises `pyarrow.ArrowInvalid` if a text is not UTF-8, which Arrow finds only where it is made a string."""
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            for chunk in column.chunks:
                chunk.dictionary.validate(full=True)
