"""Prints a run directory, or one file of it, as text, for `submit.py --fetch`; the same module reads that text back.

    python jobs/pack_run.py RUN [LATEST_S]

The Jobs API returns nothing of a Ray job but its log, so the run travels in the log: a gzipped tar archive in base64
between two marks, preceded by its SHA-256. Standard library only, since it runs in the job.
"""

import base64
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from datetime import datetime
from pathlib import Path

BEGIN = "-----BEGIN PARITY RUN-----"
END = "-----END PARITY RUN-----"
# Largest run that is fetched. Chosen: the text is a third longer and is held in memory on both sides several times.
LARGEST_BYTES = 256 * 2**20
# Bytes of the archive in each line, a multiple of 3 so that only the last line is padded: lines of 1,520 characters.
LINE_BYTES = 57 * 20


def encode(run: Path) -> str:
    """Packs a run directory, or one file of it, into text.

    Raises:
        ValueError: It does not exist, or is too large.
    """
    if not run.exists():
        raise ValueError(f"{run} does not exist")
    size_bytes = sum(path.stat().st_size for path in (run, *run.rglob("*")) if path.is_file())
    if size_bytes > LARGEST_BYTES:
        raise ValueError(
            f"{run} has {size_bytes:,} bytes, and at most {LARGEST_BYTES:,} can be fetched; copy it from there instead"
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        # Named from the run itself, which gets another name where it is fetched to.
        archive.add(run, arcname="." if run.is_dir() else run.name)
    content = buffer.getvalue()
    lines = [base64.b64encode(content[at : at + LINE_BYTES]).decode() for at in range(0, len(content), LINE_BYTES)]
    return "\n".join([BEGIN, hashlib.sha256(content).hexdigest(), *lines, END])


def check_begun(run: Path, latest_s: float) -> None:
    """Checks that a run is not one that has taken the place of another.

    Args:
        run: The run directory.
        latest_s: When the run was begun at the latest, in seconds since 1970.

    Raises:
        ValueError: It was begun later.
        OSError: It has no run.json.
    """
    begun = json.loads((run / "run.json").read_bytes()).get("created")
    if begun and datetime.fromisoformat(begun).timestamp() > latest_s:
        raise ValueError(f"the run at {run} was begun at {begun}, after the job had ended, so another job made it")


def decode(text: str) -> bytes:
    """Finds the archive in a job's log and verifies it.

    Raises:
        ValueError: The log does not contain a whole archive, or the archive is damaged.
    """
    # The log may also hold lines of Ray, before the run and after it.
    _, begun, rest = text.partition(f"{BEGIN}\n")
    body, ended, _ = rest.partition(f"\n{END}")
    if not (begun and ended):
        raise ValueError("the log does not contain a whole run")
    digest, *lines = body.split("\n")
    # `validate`, since characters that are not base64 would otherwise be skipped.
    content = b"".join(base64.b64decode(line, validate=True) for line in lines)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError("the run was damaged on the way: its SHA-256 is not the one that was sent")
    return content


def extract(content: bytes, out: Path) -> None:
    """Extracts an archive to a new folder, completely or not at all.

    Args:
        content: The archive, as `decode` returns it.
        out: The new folder; the folders around it are made if they do not exist.

    Raises:
        ValueError: The archive contains anything but files and folders inside itself.
        OSError: The folder exists already, or cannot be made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # It is made in the same folder, since a rename is atomic only within a file system.
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.fetching-", dir=out.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive.getmembers():
                parts = Path(member.name).parts
                if not (member.isfile() or member.isdir()) or member.name.startswith("/") or ".." in parts:
                    raise ValueError(f"{member.name!r} is not a file or folder of a run")
            # Python before 3.10.12 has no filters; what they would refuse has been refused above.
            if hasattr(tarfile, "data_filter"):
                archive.extractall(beside, filter="data")
            else:
                archive.extractall(beside)
        beside.chmod(0o755)  # `mkdtemp` makes it private, and a run is a folder like others
        # `rename` would replace a folder that is empty.
        if out.exists():
            raise FileExistsError(f"{out} already exists")
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def main() -> int:
    """Prints the run; returns the exit status."""
    try:
        run, *latest_s = sys.argv[1:]
        if latest_s:
            check_begun(Path(run), float(latest_s[0]))
        print(encode(Path(run)))
    except (ValueError, OSError) as error:
        # To stdout, like the run: `ray_jobs.Cluster.fetch` looks for this line in the log of the job.
        print(f"parity: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
