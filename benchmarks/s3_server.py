"""An S3-compatible server on loopback (moto's) that fails on request, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from upath import UPath
from werkzeug.serving import make_server

BUCKET = "runs"
# Longer than `CLIENT` waits, which does not try again by itself either.
SILENCE_S = 2.0
CLIENT = {"config_kwargs": {"connect_timeout": 2, "read_timeout": 1, "retries": {"max_attempts": 0}}}

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Unsteady:
    """Passes requests on, but for some.

    Attributes:
        application: That answers.
        chosen: Chooses which fail.
        share: Of the requests, how many fail, each in one of three ways: refused with 503 before anything is done; done
            and answered with 500; done, and never answered in time.
        gone: Whether every request is refused.
        failed: How many did, by kind.
    """

    application: Application
    chosen: random.Random = field(default_factory=random.Random)
    share: float = 0.0
    gone: bool = False
    failed: Counter[str] = field(default_factory=Counter)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answers a request, or fails to."""
        if self.gone:
            return self._fail(start_response, "gone", "503 Slow Down")
        if self.chosen.random() >= self.share:
            return self.application(environ, start_response)
        kind = self.chosen.choice(["refused", "answer lost", "silent"])
        if kind != "refused":
            for _ in self.application(environ, lambda *_: None):
                pass
        if kind == "silent":
            time.sleep(SILENCE_S)
        return self._fail(start_response, kind, "503 Slow Down" if kind == "refused" else "500 Internal Server Error")

    def _fail(self, start_response: Callable[..., Any], kind: str, status: str) -> Iterable[bytes]:
        self.failed[kind] += 1
        start_response(status, [("Content-Length", "0")])
        return [b""]


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        environment: What a client needs.
        faults: What it fails at.
    """

    environment: dict[str, str]
    faults: Unsteady


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """A server with an empty bucket, until the block ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    faults = Unsteady(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3": json.dumps(CLIENT),
    }
    try:
        UPath(f"s3://{BUCKET}", key="key", secret="secret", endpoint_url=endpoint).fs.mkdir(BUCKET)
        yield Server(environment, faults)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
