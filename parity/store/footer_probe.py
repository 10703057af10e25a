"""Reads the footers of Parquet files in a process of its own, since some damaged ones end the process that reads them.

Arrow checks the description of a column chunk where its C++ cannot report an error to Python: it aborts.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from parity.ground.errors import Trouble
from parity.ground.quoting import cut
from parity.store.seal import digest_with_parts
from parity.store.storage import StoragePath, find

# Files up to this size are known to be sound by the digest that the seal has of them. Of larger ones the footer is read
# in the other process instead of all bytes twice.
MOST_DIGESTED = 2**26
# Most characters of the reason that Arrow gives.
_REASON = 200
# It says which file is next, so that the last one it named is the one that has ended it. Other errors are left to
# whoever reads the file. On Windows there is neither the module nor a file of a process that was ended.
_PROGRAM = """
import json, sys

asked = json.load(sys.stdin)
sys.path[:] = asked["path"]

import pyarrow as pa
import pyarrow.parquet as pq

if sys.platform != "win32":
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for number, path in enumerate(asked["files"]):
    print(number, flush=True)
    try:
        metadata = pq.read_metadata(path)
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in range(group.num_columns):
                group.column(column).to_dict()
    except (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException):
        pass
"""


def check_footers(directory: StoragePath, sealed: Mapping[str, str]) -> dict[StoragePath, str]:
    """Looks for footers that would end this process if it read them.

    Args:
        directory: The run directory. Objects of a store are not looked at: it checks their bytes itself.
        sealed: The digests of the files that are sealed, by name.

    Returns:
        The digests of the files that were read for it, by path.

    Raises:
        Trouble: There is one; the message names the file.
    """
    digests: dict[StoragePath, str] = {}
    if not isinstance(directory, Path):
        return digests
    unknown = []
    for name in find(directory, ".parquet"):
        path = directory / name
        if name == "differences.parquet" or not path.is_file():
            continue
        if name in sealed and path.stat().st_size <= MOST_DIGESTED:
            digests[path] = digest_with_parts(path, ())[0]
        if path not in digests or digests[path] != sealed[name]:
            unknown.append(path)
    if unknown:
        _probe(unknown)
    return digests


def _probe(paths: Sequence[Path]) -> None:
    """Raises `Trouble` with the name of the file whose footer has ended a process."""
    asked = json.dumps({"path": sys.path, "files": [str(path) for path in paths]})
    ended = subprocess.run(
        [sys.executable, "-I", "-c", _PROGRAM], input=asked, capture_output=True, text=True, errors="replace"
    )
    if ended.returncode == 0:
        return
    named = ended.stdout.split()
    if ended.returncode > 0 or not named:
        raise RuntimeError(f"the process that reads footers ended with {ended.returncode}: {ended.stderr}")
    # "terminate called after throwing …\n  what():  the reason"
    reason = ended.stderr.partition("what():")[2].strip().partition("\n")[0] or f"signal {-ended.returncode}"
    raise Trouble(f"{paths[int(named[-1])]} is damaged (Arrow cannot read its footer: {cut(reason, _REASON)}).")
