"""A Ray cluster of its own for tests, in another process."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cluster_process(code: str, prefix: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Runs Python code that starts a cluster, and ends it by closing its standard input.

    Args:
        code: Prints the cluster's address, and goes on until its standard input ends. `sys.argv[1]` is a folder for the
            cluster's files, which is removed afterwards.
        prefix: How the name of that folder begins.
        environment: Variables that the process gets beside those of this one.
    """
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [sys.executable, "-c", code, folder],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        yield process
        process.stdin.close()
        process.wait(timeout=30)
