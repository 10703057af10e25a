"""Prints a run directory as text, for `submit.py --fetch`; the same module reads that text back.

    python jobs/pack_run.py RUN

A Ray job's log is all that the Jobs API brings back, so the run travels in it: a gzipped tar archive in base64 between
two marks, with its SHA-256. Standard library only.
"""

import base64
import hashlib
import io
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

BEGIN = "-----BEGIN PARITY RUN-----"
END = "-----END PARITY RUN-----"
LARGEST_BYTES = 256 * 2**20
LINE_BYTES = 57 * 20


def encode(run: Path) -> str:
    """The text of a run directory.

    Raises:
        ValueError: It is not there, or too large.
    """
    if not run.is_dir():
        raise ValueError(f"{run} is not there")
    size_bytes = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    if size_bytes > LARGEST_BYTES:
        raise ValueError(
            f"{run} has {size_bytes:,} bytes, and at most {LARGEST_BYTES:,} are fetched; copy it from there"
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(run, arcname=".")
    content = buffer.getvalue()
    lines = [base64.b64encode(content[at : at + LINE_BYTES]).decode() for at in range(0, len(content), LINE_BYTES)]
    return "\n".join([BEGIN, hashlib.sha256(content).hexdigest(), *lines, END])


def decode(text: str) -> bytes:
    """The archive in a job's log, verified.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    _, begun, rest = text.partition(f"{BEGIN}\n")
    body, ended, _ = rest.partition(f"\n{END}")
    if not (begun and ended):
        raise ValueError("the log holds no whole run")
    digest, *lines = body.split("\n")
    content = b"".join(base64.b64decode(line, validate=True) for line in lines)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError("the SHA-256 of what came is not that of what was sent")
    return content


def extract(content: bytes, out: Path) -> None:
    """Extracts an archive to a new folder, whole or not at all.

    Raises:
        ValueError: It holds anything but plain files and folders of its own.
        OSError: The folder is there already, or cannot be made.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.fetching-", dir=out.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive.getmembers():
                parts = Path(member.name).parts
                if not (member.isfile() or member.isdir()) or member.name.startswith("/") or ".." in parts:
                    raise ValueError(f"{member.name!r} is no file or folder of a run")
            # Python before 3.10.12 has no filters; what they would refuse was refused above.
            if hasattr(tarfile, "data_filter"):
                archive.extractall(beside, filter="data")
            else:
                archive.extractall(beside)
        beside.chmod(0o755)
        if out.exists():
            raise FileExistsError(f"{out} already exists")
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def main() -> int:
    """Prints the run; returns the exit status."""
    try:
        print(encode(Path(sys.argv[1])))
    except (ValueError, OSError) as error:
        print(f"parity: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
