"""A job is followed to its end over a connection that breaks, for a minute without one, and its log is printed once."""

import asyncio
from types import SimpleNamespace

import pytest

from parity.cluster.jobs import following
from parity.cluster.jobs.following import ConnectionLost, Follower
from parity.cluster.jobs.job import Job, Unanswered
from parity.ground.errors import Trouble

RUNNING = Job("RUNNING", "", None, {})
FAILED = Job("FAILED", "", 1, {})
BROKEN = Unanswered("broken")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(following, "PAUSE_S", 0.001)
    monkeypatch.setattr(following, "LAG_S", 0.05)


@pytest.fixture
def clock(monkeypatch):
    """A clock that is put forward by hand."""
    made = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    return made


class Script:
    """A cluster that answers from a script.

    Args:
        logs: For each connection to the log, the texts that it brings; an exception is raised, and None is silence.
        jobs: The answers to questions for the status; the last one is repeated.
    """

    def __init__(self, logs, jobs):
        self.logs, self.jobs, self.connections = list(logs), list(jobs), 0

    def ask(self):
        job = self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]
        if isinstance(job, Exception):
            raise job
        return job

    async def tail(self):
        self.connections += 1
        for text in self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]:
            if isinstance(text, Exception):
                raise text
            if isinstance(text, Job):
                self.jobs = [text]
            elif text is None:
                await asyncio.sleep(60)
            else:
                yield text

    def follow(self):
        self.follower = Follower("known", ask=self.ask, tail=self.tail, poll_s=0.001)
        return asyncio.run(self.follower.follow())


def test_a_log_is_printed_as_it_comes_and_each_status_once(capsys):
    script = Script([["a\n", "b\n", FAILED]], [RUNNING])
    assert script.follow() == FAILED
    printed = capsys.readouterr()
    assert printed.out == "a\nb\n"
    assert printed.err == "parity: job known is RUNNING\nparity: job known is FAILED\n"


def test_a_log_that_breaks_is_taken_up_where_it_broke(capsys):
    script = Script(
        [["a\n", "b", BROKEN], [BROKEN], ["a\nb\n", "c\n", BROKEN], ["a\n", "b\nc\nd\n", FAILED]], [RUNNING]
    )
    assert script.follow() == FAILED
    printed = capsys.readouterr()
    assert printed.out == "a\nb\nc\nd\n"
    assert printed.err.count("the connection to the log of known broke, and is taken up again (broken)\n") == 2
    assert printed.err.count("is RUNNING") == 1


def test_a_log_that_ends_without_an_error_before_its_job_is_taken_up_again(capsys):
    script = Script([["a\n"], ["a\n", "b\n", FAILED]], [RUNNING])
    assert script.follow() == FAILED
    assert capsys.readouterr().out == "a\nb\n"


def test_a_log_that_falls_silent_does_not_outlast_its_job(capsys):
    """As on a connection that a router has forgotten."""
    script = Script([["a\n", FAILED, None], ["a\n", "b\n"]], [RUNNING])
    assert script.follow() == FAILED
    assert capsys.readouterr().out == "a\nb\n"


def test_a_status_that_does_not_come_breaks_a_silent_log(capsys):
    script = Script([["a\n", None], ["a\n", "b\n", FAILED]], [RUNNING, RUNNING, BROKEN, RUNNING])
    assert script.follow() == FAILED
    assert capsys.readouterr().out == "a\nb\n"


@pytest.mark.parametrize(
    ("jobs", "logs"),
    [
        ([RUNNING], [["a\n", BROKEN], [BROKEN]]),
        ([RUNNING], [["a\n", BROKEN]]),  # each connection brings what had come before
        ([RUNNING, BROKEN], [[BROKEN]]),
    ],
    ids=["log", "log after its beginning", "cluster"],
)
def test_a_connection_that_stays_broken_is_given_up_after_a_minute(jobs, logs, clock, monkeypatch, capsys):
    class Slow(Script):
        def ask(self):
            clock.now_s += 1
            return super().ask()

    monkeypatch.setattr(following, "LAG_S", 5.0)  # longer than any of these connections holds
    with pytest.raises(ConnectionLost) as lost:
        Slow(logs, jobs).follow()
    assert 60 < clock.now_s < 70
    assert str(lost.value) == (
        "The connection to the log of known broke, and could not be taken up again for 60 s: broken"
    )
    assert capsys.readouterr().err.count("is taken up again") == 1


def test_a_connection_that_held_for_a_while_is_taken_up_for_another_minute(clock):
    """As behind a proxy that cuts what is silent, while the job waits for its turn."""

    class Cut(Script):
        async def tail(self):
            self.connections += 1
            clock.now_s += 50
            while self.follower._answered_s < clock.now_s:  # the status still comes
                await asyncio.sleep(0.001)
            if self.connections < 5:
                raise BROKEN
            self.jobs = [FAILED]
            yield "a\n"

    script = Cut([], [Job("PENDING", "", None, {})])
    assert script.follow() == FAILED
    assert script.connections == 5


def test_a_job_that_is_gone_is_not_waited_for():
    assert Script([[BROKEN]], [RUNNING, RUNNING, None]).follow() is None
    assert Script([[BROKEN]], [None]).follow() is None


@pytest.mark.parametrize("error", [Trouble("the token is refused"), KeyError("planted")])
def test_nothing_else_is_taken_up_again(error):
    script = Script([[error]], [RUNNING])
    with pytest.raises(type(error)):
        script.follow()
    assert script.connections == 1
