"""Files in local folders and on object stores (by URI): each exists whole, or not at all.

On an object store nothing is renamed or appended to: an object exists once all of it has arrived. The errors that a
store's library raises become OSErrors here, as on a local disk.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar

import pyarrow as pa
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential
from upath import UPath

from parity.ground.errors import Trouble
from parity.ground.storable import check_storable
from parity.ground.temporary import temporary_folder
from parity.store.regular import check_size, read_regular, size_of_regular

# The path of a run directory, or of a file in it.
StoragePath: TypeAlias = Path | UPath
Result = TypeVar("Result")

# How long an object store may not answer before the run is stopped, on top of the tries of its library. Chosen to
# outlast a restart of a server or a network that is briefly down.
PATIENCE_S = 60.0
# The same before a run has begun, where a mistyped address is likelier than an outage.
FIRST_PATIENCE_S = 3.0
# Pauses between two tries double from the first to the longest.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
# Asking again would bring the same answer.
FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
# Errors of a store that does not answer, or not in full, which are not OSErrors: the base classes that the libraries
# behind fsspec raise. By name, since a library that is not installed cannot be imported, and raises nothing.
STORE_ERRORS = frozenset(
    {
        "asyncio.exceptions.TimeoutError",  # of fsspec itself; an OSError only since Python 3.11
        "http.client.HTTPException",
        "aiohttp.client_exceptions.ClientError",
        "botocore.exceptions.BotoCoreError",  # s3fs passes on what has no response: no connection, no answer in time
        "botocore.exceptions.ClientError",
        "botocore.parsers.ResponseParserError",
        "gcsfs.retry.ChecksumError",
        "gcsfs.retry.HttpError",
        "google.auth.exceptions.GoogleAuthError",
        "azure.core.exceptions.AzureError",
    }
)


def parse_path(text: str) -> StoragePath:
    """A local path, or the URI of any filesystem that fsspec knows.

    Raises:
        Trouble: It is empty or not UTF-8; or fsspec knows no such filesystem, or needs a package that is not installed.
    """
    check_storable(text)
    if not text.strip():
        raise Trouble(f"{text!r} is not a path: it is empty. Give a folder, or a URI such as s3://BUCKET/DIR.")
    if "://" not in text:
        return Path(text)
    protocol = text.partition("://")[0]
    try:
        # A cached listing would hide what another driver writes.
        path = UPath(text.rstrip("/"), use_listings_cache=False)
        filesystem = path.fs
    except ImportError as error:
        raise Trouble(f"{text}: {protocol} needs a package that is not installed. {error}.") from error
    except (ValueError, OSError) as error:
        raise Trouble(f"{text} cannot be used ({error}). Give a path, or a URI such as s3://BUCKET/DIR.") from error
    # A file:// URI is a local path, where files can be renamed, appended to and locked.
    return Path(filesystem._strip_protocol(text)) if protocol in ("file", "local") else path


def write_whole(path: StoragePath, content: bytes | pa.Buffer) -> None:
    """Writes a file, whole or not at all, and durably; replaces an existing one.

    Args:
        path: The file.
        content: All of its bytes.

    Raises:
        OSError: It cannot be written.
    """
    if isinstance(path, Path):
        with written_beside(path) as beside:
            beside.write_bytes(content)
    else:
        patiently(path, lambda: path.fs.pipe_file(path.path, bytes(content)))


def write_new(path: UPath, content: bytes, *, patience_s: float | None = None) -> None:
    """Writes an object that does not exist yet, whole or not at all; of several writers one succeeds.

    Args:
        path: The object.
        content: Its content.
        patience_s: As for `patiently`.

    Raises:
        FileExistsError: It exists already, with other content.
        OSError: It cannot be written.
    """
    try:
        # The store itself decides which of several writers was first: a test for the object beforehand could not.
        patiently(path, lambda: path.fs.pipe_file(path.path, content, mode="create"), patience_s=patience_s)
    except FileExistsError:
        if read(path) != content:  # else an earlier try succeeded, and only its answer was lost
            raise


@contextlib.contextmanager
def written_beside(path: StoragePath) -> Iterator[Path]:
    """Yields a local file to write, which becomes the file at the path, durably, if the block raises nothing.

    Raises:
        OSError: It cannot be written.
    """
    if isinstance(path, Path):
        # If the block raises, the file stays under its hidden name, and the next attempt replaces it.
        beside = name_beside(path)
        # Removed and not written over: somebody may have put a link there, to a file that is not of the run.
        beside.unlink(missing_ok=True)
        yield beside
        # The content has to be on the disk before the name is, or a power failure leaves an empty file of that name.
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        return
    with temporary_folder() as folder:
        beside = folder / "written"
        yield beside
        patiently(path, lambda: path.fs.put_file(str(beside), path.path))


def name_beside(path: Path) -> Path:
    """The path where a local file is written before it gets its name."""
    # In the same folder, since a rename is atomic only within a file system, and hidden, so that no reader uses it.
    return path.with_name(f".{path.name}.writing")


def read(path: StoragePath, *, most_bytes: int | None = None) -> bytes:
    """The content of a file.

    Raises:
        OSError: It cannot be read, is not a regular file, or has more bytes than that.
    """
    if isinstance(path, Path):
        return read_regular(path, most_bytes=most_bytes)
    if most_bytes is not None:
        check_size(patiently(path, lambda: path.stat().st_size), most_bytes)
    return bytes(patiently(path, path.read_bytes))


def find(folder: StoragePath, suffix: str) -> list[str]:
    """The files in a folder and its subfolders whose names end with the suffix: sorted paths relative to the folder.

    Raises:
        OSError: They cannot be listed.
    """
    if isinstance(folder, Path):
        files = (path for path in folder.rglob(f"*{suffix}") if path.is_file())
        return sorted(path.relative_to(folder).as_posix() for path in files)
    found = patiently(folder, lambda: folder.fs.find(folder.path))
    root = folder.fs._strip_protocol(folder.path).rstrip("/") + "/"
    return sorted(path.removeprefix(root) for path in found if path.endswith(suffix))


def read_several(paths: Sequence[UPath]) -> list[bytes]:
    """The contents of objects of one store, requested at once.

    Raises:
        OSError: An object cannot be read.
    """
    filesystem, wanted = paths[0].fs, [path.path for path in paths]
    # The store's library answers by its own form of the paths.
    contents = patiently(paths[0], lambda: filesystem.cat(wanted))
    return [contents[filesystem._strip_protocol(path)] for path in wanted]


@contextlib.contextmanager
def on_disk(path: StoragePath) -> Iterator[Path]:
    """Yields the file on the local disk; for an object a copy, removed after the block but readable while it is open.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    if isinstance(path, Path):
        size_of_regular(path)
        yield path
        return
    with temporary_folder() as folder:
        copy = folder / "copy"
        patiently(path, lambda: path.fs.get_file(path.path, str(copy)))
        yield copy


def exists(path: StoragePath, *, patience_s: float | None = None) -> bool:
    """Whether a file exists, or a folder that is not empty.

    Args:
        path: The file or folder.
        patience_s: As for `patiently`; without effect on a local disk.

    Raises:
        OSError: The store does not answer, or refuses.
    """
    return path.exists() if isinstance(path, Path) else bool(patiently(path, path.exists, patience_s=patience_s))


def names(folder: UPath, *, patience_s: float | None = None) -> list[str]:
    """The sorted names in a folder of an object store; none if the folder does not exist.

    Raises:
        OSError: They cannot be listed.
    """
    try:
        found = patiently(folder, lambda: folder.fs.ls(folder.path, detail=False), patience_s=patience_s)
    except FileNotFoundError:
        return []
    return sorted(path.rstrip("/").rpartition("/")[2] for path in found)


def remove(path: StoragePath, *, patience_s: float | None = None) -> None:
    """Removes a file, if it exists.

    Raises:
        OSError: It cannot be removed.
    """
    if isinstance(path, Path):
        path.unlink(missing_ok=True)
    else:
        patiently(path, lambda: path.unlink(missing_ok=True), patience_s=patience_s)


def remove_folder(path: StoragePath) -> None:
    """Removes a folder and all that is in it, if it exists.

    Raises:
        OSError: It cannot be removed.
    """
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
    elif exists(path):
        with contextlib.suppress(FileNotFoundError):  # removed by a call whose answer was lost
            patiently(path, lambda: path.fs.rm(path.path, recursive=True))


def patiently(path: UPath, call: Callable[[], Result], *, patience_s: float | None = None) -> Result:
    """Calls an object store, repeatedly while it does not answer; returns its answer.

    Errors that neither the operating system nor the store's library raises are bugs of ours, and pass through at once.

    Args:
        path: The object, for messages.
        call: The call; may be made several times.
        patience_s: How long to try, in seconds; None means `PATIENCE_S`.

    Raises:
        OSError: The store did not answer, or refused.
    """

    def report(state: RetryCallState) -> None:
        print(f"{path}: {_first_line(_error(state))}; trying again in {state.upcoming_sleep:g} s", file=sys.stderr)

    def give_up(state: RetryCallState) -> NoReturn:
        error = _error(state)
        raise OSError(_first_line(error)) from error

    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
        # Gives up before a pause that would exceed the patience, and not after it.
        stop=stop_before_delay(PATIENCE_S if patience_s is None else patience_s),
        before_sleep=report,
        retry_error_callback=give_up,
    )
    return retrying(call)


def _may_pass(error: BaseException) -> bool:
    """Whether the error is one of a store that may answer when it is asked again."""
    # Asked first, since these are OSErrors as well.
    if isinstance(error, FINAL):
        return False
    return isinstance(error, OSError) or any(
        f"{kind.__module__}.{kind.__qualname__}" in STORE_ERRORS for kind in type(error).__mro__
    )


def _error(state: RetryCallState) -> BaseException:
    # tenacity's types also allow for a call that has not ended.
    error = state.outcome.exception() if state.outcome else None
    assert error is not None, "only a call that failed is repeated"
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
