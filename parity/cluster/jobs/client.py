"""Ray's client of the Jobs API, which by itself waits forever for an answer, and asks once."""

import functools
import logging
from typing import Any

import tenacity

# How long the cluster may take to answer: without a limit, a connection that is gone without a sign is waited for.
# Chosen: enough for the log of the largest run that is fetched.
ANSWER_S = 60.0
# How often a question is asked whose connection is cut, and the pause between two. Chosen: outlasts a proxy or tunnel
# that drops a connection; a server that speaks another protocol is still reported within seconds.
ASKED = 3
PAUSE_S = 1.0


def make_client(address: str) -> Any:
    """Makes a client, which asks for the version of the cluster.

    Questions, which change nothing on the cluster, are asked again if the connection is cut. What is sent is not, since
    it may have arrived.

    Args:
        address: The URL of the dashboard.
    """
    import requests
    from ray.job_submission import JobSubmissionClient

    # After the import, which sets the levels: these loggers report each upload.
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            ask = functools.partial(super()._do_request, method, endpoint, **{"timeout": ANSWER_S, **options})
            if method != "GET":
                return ask()
            again = tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(requests.exceptions.ConnectionError),
                stop=tenacity.stop_after_attempt(ASKED),
                wait=tenacity.wait_fixed(PAUSE_S),
                reraise=True,
            )
            return again(ask)

    return Client(address)
