"""Which files of a run directory are opened. Somebody else may have stored the run, and put anything into it."""

import re
import stat
from pathlib import Path, PurePosixPath

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# As `traces.trace_file` makes them; no file system has longer names.
_BARE = re.compile(r"[A-Za-z0-9@_][A-Za-z0-9@._-]{0,240}\.parquet")


def size_of_regular(path: Path) -> int:
    """Size of a local file in bytes, before it is opened.

    Links are followed, since stores of large files keep them behind links (git-annex, DVC): what they lead to counts.

    Raises:
        OSError: The file does not exist, or is not a regular file. Opening a named pipe would wait for a writer, and
            reading a device may never end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'a special file')}, not a regular file")
    return found.st_size


def read_regular(path: Path, *, most_bytes: int | None = None) -> bytes:
    """The content of a local file.

    Raises:
        OSError: As `size_of_regular` raises it; or the file has more bytes than that, or cannot be read.
    """
    size = size_of_regular(path)
    check_size(size, most_bytes)
    with path.open("rb") as file:
        # No more than that: some files of the system never end, and their size is given as 0.
        return file.read(size)


def check_size(size: int, most_bytes: int | None) -> None:
    """Raises OSError if a file of so many bytes is larger than allowed; None allows any."""
    if most_bytes is not None and size > most_bytes:
        raise OSError(f"it has {size:,} bytes, and at most {most_bytes:,} are read")


def is_bare(name: str) -> bool:
    r"""Whether this is the bare name of a Parquet file, as tables hold it: it leads to no other folder.

    >>> [is_bare(name) for name in ("0001-numpy@cpu-s0.parquet", "../a.parquet", "/etc/passwd", ".a.parquet")]
    [True, False, False, False]
    """
    return _BARE.fullmatch(name) is not None


def is_inside(name: str) -> bool:
    r"""Whether this is the path of a Parquet file in a run directory or its subfolders, as `seal` stores it.

    >>> [is_inside(name) for name in ("traces/a b.parquet", "../a.parquet", "/a.parquet", "a//b.parquet")]
    [True, False, False, False]
    """
    parts = name.split("/")
    plain = name.endswith(".parquet") and "\0" not in name and "\\" not in name
    return plain and not {"", ".", ".."} & {*parts} and not PurePosixPath(name).is_absolute()
