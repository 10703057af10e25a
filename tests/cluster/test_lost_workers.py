"""The retry policy: each way to lose a worker, and what becomes of its trial; without Ray and without a cluster."""

import pytest

from parity.cluster.last_words import NOTHING_NOTED
from parity.cluster.lost_workers import ATTEMPTS, MOVES, Attempts, LostWorker, classify, nowhere_to_run
from parity.store.events import Ended, Restarted

# As Ray words it.
DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: Worker
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: {}
"""
END_OF_FILE = DIED.format("Worker unexpectedly exits with a connection error code 2. End of file. Some common causes")
EXIT_CODE = DIED.format("Worker exits unexpectedly. Worker exits with an exit code 4.")
LACKING = "The actor died because of an error raised in its creation task\nTraceback\nImportError: cannot import x\n"
UNAVAILABLE = "The actor 1 is unavailable: The actor is temporarily unavailable: RpcError: Socket closed rpc_code: 14."


def blamed(failure, reason):
    """Restarted once; the second such worker fails the trial, and its loss is blamed."""
    error = f"{reason}; an earlier worker of this trial was lost as well"
    return [
        Restarted("x", reason),
        Ended("x", status="failed", failure=failure, error=error),
    ]


def moved(reason):
    """Restarted until it was moved too often; then the node has failed."""
    ended = Ended("x", status="failed", failure="node", error=f"{reason}, {MOVES} times in a row")
    return [Restarted("x", reason)] * (MOVES - 1) + [ended]


def at_once(error):
    """Not tried again."""
    return [Ended("x", status="failed", failure="node", error=error)]


def died(how):
    return blamed("died", f"its worker process {how}")


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        # The trial's own code may have ended its process.
        (LostWorker("died", END_OF_FILE, "a", noted="SIGSEGV"), died("died of SIGSEGV")),
        (LostWorker("died", END_OF_FILE, "a", noted="exit code 3"), died("ended with exit code 3")),
        (LostWorker("died", END_OF_FILE, "a", noted=NOTHING_NOTED), died(f"ended {NOTHING_NOTED}")),
        (LostWorker("died", EXIT_CODE, "a"), died("ended with exit code 4")),
        (
            LostWorker("died", END_OF_FILE, "a"),
            died(
                "died, for a reason that could not be looked up "
                "(Worker unexpectedly exits with a connection error code 2)"
            ),
        ),
        (LostWorker("died", "gone\n", "a"), died("died, for a reason that could not be looked up (gone)")),
        (LostWorker("hung", "it finished no step for 3 s", "a"), blamed("hung", "it finished no step for 3 s")),
        (
            LostWorker("memory", "OOM", "a", node_left=True, replaceable=False),
            blamed("memory", "node a ran out of memory, and Ray ended the worker to free some"),
        ),
        # No code of the trial had run, or its node had left.
        (
            LostWorker("memory", "OOM", "a", began=False),
            moved("node a ran out of memory, and Ray ended the worker to free some"),
        ),
        (
            LostWorker("died", END_OF_FILE, "a", began=False, noted="SIGILL"),
            moved("node a could not run the worker (the process died of SIGILL)"),
        ),
        (LostWorker("died", END_OF_FILE, "a", noted="SIGTERM", node_left=True), moved("node a left the cluster")),
        # The platform.
        (LostWorker("ended", "its node has died", "a", node_left=True), moved("node a left the cluster")),
        (LostWorker("import", LACKING, "a", node_left=True), moved("node a left the cluster")),
        (
            LostWorker("ended", "its node has died", "a", node_left=True, replaceable=False),
            at_once("node a left the cluster during the trial, and no other node of its class is left"),
        ),
        (
            LostWorker("unavailable", UNAVAILABLE, "a"),
            moved("the worker on node a did not answer (RpcError: Socket closed rpc_code: 14.)"),
        ),
        (
            LostWorker("ended", "The actor is dead because it was killed by `ray.kill`.", "a"),
            moved("node a could not run the worker (The actor is dead because it was killed by `ray.kill`.)"),
        ),
        (
            LostWorker("ended", "Traceback\nray.exceptions.RuntimeEnvSetupError: no pip\nmore", "a", began=False),
            moved("node a could not run the worker (ray.exceptions.RuntimeEnvSetupError: no pip)"),
        ),
        (
            LostWorker("import", LACKING, "a", began=False),
            at_once("node a could not run the worker (ImportError: cannot import x)"),
        ),
    ],
)
def test_what_becomes_of_a_trial_each_time_its_worker_is_lost(lost, expected):
    attempts = Attempts()
    assert [attempts.after("x", lost) for _ in expected] == expected
    blame = expected[-1].failure != "node"
    assert (attempts.deaths, attempts.moves) == ((len(expected), 0) if blame else (0, len(expected)))


def test_deaths_and_moves_are_counted_apart():
    attempts = Attempts()
    death, move = LostWorker("died", END_OF_FILE, "a", noted="SIGSEGV"), LostWorker("ended", "lost", "a")
    for lost in [*[move] * (MOVES - 1), *[death] * (ATTEMPTS - 1)]:
        assert isinstance(attempts.after("x", lost), Restarted)
    assert attempts.after("x", move).failure == "node"


def test_a_saved_state_forgives_the_moves_and_not_the_deaths():
    attempts = Attempts(deaths=ATTEMPTS - 1, moves=MOVES - 1)
    attempts.saved()
    assert isinstance(attempts.after("x", LostWorker("ended", "lost", "a")), Restarted)
    assert attempts.after("x", LostWorker("hung", "it finished no step", "a")).failure == "hung"


def test_a_trial_that_waits_for_a_class_without_nodes_fails():
    assert nowhere_to_run("x") == Ended(
        "x",
        status="failed",
        failure="node",
        error="its node left the cluster before the trial began, and no other node of its class is left",
    )


class Exceptions:
    """In the place of `ray.exceptions`: as much of it as `classify` looks at."""

    class ActorDiedError(Exception):
        pass

    class ActorUnavailableError(Exception):
        pass

    class ObjectLostError(Exception):
        pass

    class OutOfMemoryError(Exception):
        pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Exceptions.OutOfMemoryError("Task was killed due to the node running low on memory"), "memory"),
        (Exceptions.ActorDiedError(END_OF_FILE), "died"),
        (Exceptions.ActorDiedError(END_OF_FILE.replace("SYSTEM_ERROR", "INTENDED_SYSTEM_EXIT")), "ended"),
        (Exceptions.ActorDiedError("The actor is dead because its node has died. Node Id: 814b"), "ended"),
        (Exceptions.ActorDiedError("The actor is dead because it was killed by `ray.kill`."), "ended"),
        (Exceptions.ActorDiedError(LACKING), "import"),
        (Exceptions.ActorDiedError("Traceback\nModuleNotFoundError: No module named 'parity'\n"), "import"),
        (Exceptions.ActorUnavailableError(UNAVAILABLE), "unavailable"),
        (Exceptions.ObjectLostError("Failed to retrieve object 16310a."), "ended"),
    ],
)
def test_rays_errors_are_classified(error, kind):
    assert classify(error, Exceptions) == kind
