"""What the cluster refuses is reported as its answer, a bug of ours is not, and a cluster that starts is waited for."""

import asyncio
import collections
import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import aiohttp
import pytest
import ray.exceptions
import requests
from ray.dashboard.modules.job.job_manager import JobManager

from parity import submit
from parity.cluster.jobs import client, following, pack_run, ray_jobs
from parity.cluster.jobs.head import Node
from parity.ground.errors import Trouble

from conftest import command

ADDRESS = "http://127.0.0.1:8265"
YOUNG = "Request failed with status code 500: No available agent to submit job, please try again later."


class Client:
    """In the place of Ray's client: answers each call with the next of these, which are raised if they are errors."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.submitted = []

    def submit_job(self, **arguments):
        self.submitted.append(arguments)
        # As Ray does, which puts the address of what it uploaded in the place of the folder.
        arguments["runtime_env"].pop("working_dir", None)
        self.answer()

    def get_job_info(self, job_id):
        return self.answer()

    def answer(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ray_jobs, "POLL_S", 0.001)


def cluster(*answers):
    made = ray_jobs.Cluster(ADDRESS)
    made.client = Client(*answers)
    return made


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("x\ny"),
        ConnectionError("x y"),
        requests.exceptions.ReadTimeout("x y"),
        aiohttp.ClientError("x y"),
        asyncio.TimeoutError("x y"),
        ray.exceptions.RpcError("x y"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_cluster_refuses_is_reported(error):
    with pytest.raises(Trouble) as trouble:
        cluster(error).job("known")
    name = type(error).__name__
    assert str(trouble.value) == f"The Ray cluster at {ADDRESS} answered with {name}: x y"


@pytest.mark.parametrize("kind", [TypeError, KeyError, AttributeError, ValueError])
def test_a_bug_of_ours_is_not_reported_as_the_clusters(kind):
    with pytest.raises(kind, match="planted"):
        cluster(kind("planted")).job("known")


def test_the_whole_of_what_the_cluster_refuses_is_reported():
    """The reason is at the end of a traceback."""
    text = "Traceback (most recent call last):\n" + '  File "x.py", line 1, in f\n' * 40 + "OSError: the reason"
    with pytest.raises(Trouble) as trouble:
        cluster(RuntimeError(text)).job("known")
    assert str(trouble.value) == f"The Ray cluster at {ADDRESS} answered with RuntimeError: {text}"


def info(status, **others):
    return SimpleNamespace(status=status, message="", driver_exit_code=None, metadata={}, end_time=None, **others)


class Fetched(Client):
    """A client whose jobs print a run that says how many there were, appended to the log of the same name, as Ray does.

    It never deletes a job.
    """

    def __init__(self, folder):
        super().__init__(info("SUCCEEDED"))
        self.answers[0].driver_exit_code = 0
        self.folder = folder
        self.logs = collections.defaultdict(str)

    def submit_job(self, **arguments):
        super().submit_job(**arguments)
        (self.folder / "count").write_text(str(len(self.submitted)))
        self.logs[arguments["submission_id"]] += f"{pack_run.encode(self.folder)}\n"

    def get_job_logs(self, job_id):
        return self.logs[job_id]

    def delete_job(self, job_id):
        raise RuntimeError(f"planted for {job_id}")


def test_each_fetch_brings_the_run_as_it_is_then_even_if_jobs_are_not_deleted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray_jobs, "SETTLE_S", 0.0)
    (tmp_path / "run").mkdir()
    made = ray_jobs.Cluster(ADDRESS)
    made.client = Fetched(tmp_path / "run")
    for count in ("1", "2"):
        out = tmp_path / f"fetched {count}"
        made.fetch("known", None, "/runs/x", out, runtime_env={}, python="python3")
        assert (out / "count").read_text() == count
        (line,) = capsys.readouterr().err.splitlines()
        job_id = made.client.submitted[-1]["submission_id"]
        assert line.startswith(f"parity: job {job_id} has done its work but was not deleted. The Ray cluster at ")
        assert line.endswith(f"RuntimeError: planted for {job_id}")


class FetchedOverBreaks(Fetched):
    """Its connection breaks once behind each request: the cluster has got it, and the answer is lost."""

    def __init__(self, folder, breaks=1):
        super().__init__(folder)
        self.breaks, self.asked = breaks, collections.Counter()

    def broken(self, name, answer):
        self.asked[name] += 1
        if self.asked[name] <= self.breaks:
            raise requests.exceptions.ConnectionError("cut")
        return answer

    def submit_job(self, **arguments):
        if arguments["submission_id"] in self.logs:
            raise RuntimeError("400: exists already")
        super().submit_job(**arguments)
        self.broken("submit", None)

    def get_job_info(self, job_id):
        if job_id not in self.logs:
            raise RuntimeError("404: does not exist")
        return self.broken("info", self.answers[0])

    def get_job_logs(self, job_id):
        return self.broken("logs", self.logs[job_id])

    def delete_job(self, job_id):
        pass


def fetch_over(breaking, out):
    made = ray_jobs.Cluster(ADDRESS)
    made.client = breaking
    made.fetch("known", None, "/runs/x", out, runtime_env={}, python="python3")


def test_a_run_is_fetched_over_a_connection_that_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_jobs, "SETTLE_S", 0.0)
    monkeypatch.setattr(ray_jobs, "PAUSE_S", 0.001)
    (tmp_path / "run").mkdir()
    breaking = FetchedOverBreaks(tmp_path / "run")
    fetch_over(breaking, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "count").read_text() == "1", "the job was sent once, though its answer was lost"


def test_a_run_that_cannot_be_fetched_is_named_with_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_jobs, "SETTLE_S", 0.0)
    monkeypatch.setattr(ray_jobs, "PAUSE_S", 0.001)
    monkeypatch.setattr(ray_jobs, "RECONNECT_S", 0.01)
    (tmp_path / "run").mkdir()
    with pytest.raises(Trouble) as trouble:
        fetch_over(FetchedOverBreaks(tmp_path / "run", breaks=10**9), tmp_path / "fetched")
    assert str(trouble.value) == (
        f"The run could not be fetched (The Ray cluster at {ADDRESS} answered with ConnectionError: cut). It is at "
        "/runs/x on the cluster's storage. The same command, or one with another --fetch, tries again; a job that "
        "has a result is not run twice."
    )


def test_a_job_that_fetches_is_deleted_once_rays_watch_has_seen_its_end(tmp_path, monkeypatch):
    """Of a job that is deleted before, the watch writes a new record; it needs two looks at most."""
    made = ray_jobs.Cluster(ADDRESS)
    made.client = Fetched(tmp_path)
    done = []
    made.client.delete_job = lambda _: done.append("deleted")
    monkeypatch.setattr(ray_jobs.time, "sleep", done.append)
    began = time.monotonic()
    made.fetch("known", None, "/runs/x", tmp_path / "fetched", runtime_env={}, python="python3")
    slept_s, deleted = done
    assert slept_s + time.monotonic() - began > 2 * JobManager.JOB_MONITOR_LOOP_PERIOD_S and deleted == "deleted"


class Tailed(Client):
    """A client whose job prints; each of the logs is one connection, which an error ends."""

    def __init__(self, *logs):
        super().__init__(info("RUNNING"))
        self.logs = list(logs)

    async def tail_job_logs(self, job_id):
        for text in self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]:
            if isinstance(text, Exception):
                raise text
            yield text
        self.answers = [info("SUCCEEDED")]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("WebSocket connection closed unexpectedly with close code 1006"),
        aiohttp.ClientConnectionError("reset"),
        ConnectionError("reset"),
        asyncio.TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_log_whose_connection_breaks_is_taken_up_again(error, monkeypatch, capsys):
    monkeypatch.setattr(following, "PAUSE_S", 0.001)
    followed = ray_jobs.Cluster(ADDRESS)
    followed.client = Tailed(["a\n", error], ["a\n", "b\n"])
    assert followed.follow("known").status == "SUCCEEDED"
    assert capsys.readouterr().out == "a\nb\n"


def test_the_end_of_a_job_is_waited_for_over_a_connection_that_breaks(monkeypatch):
    monkeypatch.setattr(ray_jobs, "PAUSE_S", 0.001)
    waiting = cluster(info("RUNNING"), ConnectionError("reset"), RuntimeError("502"), info("FAILED"))
    assert waiting.wait("known").status == "FAILED"


class Asked:
    """A client of a dashboard with these answers."""

    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    def _do_request(self, method, path):
        self.asked.append((method, path))
        return SimpleNamespace(text=self.texts.pop(0))


def test_the_head_is_asked_for_until_it_is_registered():
    node = {"nodeId": "1", "nodeManagerHostname": "h", "sessionDir": "/s", "isHeadNode": True, "state": "ALIVE"}
    young = ray_jobs.Cluster(ADDRESS)
    young.client = Asked(*(json.dumps({"data": {"summary": nodes}}) for nodes in ([], [{"raylet": node}])))
    assert young.head() == Node("1", "h", "/s")
    assert young.client.asked == [("GET", "/nodes?view=summary&nocache=1")] * 2


def test_a_dashboard_that_does_not_describe_its_nodes_is_asked_once():
    other = ray_jobs.Cluster(ADDRESS)
    other.client = Asked("404: Not Found")
    assert other.head() is None


def test_a_bug_does_not_end_the_command_as_a_divergence_would(monkeypatch, capsys):
    def planted(*_):
        raise KeyError("planted")

    monkeypatch.setattr(submit, "prepare", planted)
    assert submit.main(["--address", ADDRESS]) == 2
    printed = capsys.readouterr().err
    assert "KeyError: 'planted'" in printed
    assert printed.endswith("parity: the error above is a bug of parity; please report it.\n")


def test_a_job_is_submitted_once_the_agents_have_started():
    young = cluster(RuntimeError(YOUNG), RuntimeError(YOUNG), None)
    young.submit("new", "python x.py", runtime_env={"env_vars": {"A": "1"}}, metadata={"out": "/x"})
    expected = {
        "submission_id": "new",
        "entrypoint": "python x.py",
        "metadata": {"out": "/x"},
        "runtime_env": {"env_vars": {"A": "1"}},
    }
    assert young.client.submitted == [expected] * 3


def test_each_attempt_sends_the_working_directory(tmp_path):
    young = cluster(RuntimeError(YOUNG), None)
    environment = {"working_dir": str(tmp_path)}
    young.submit("new", "x", runtime_env=environment)
    assert environment == {"working_dir": str(tmp_path)}


def test_agents_that_do_not_start_are_given_up(monkeypatch):
    monkeypatch.setattr(ray_jobs, "AGENT_WAIT_S", 0.05)
    with pytest.raises(Trouble, match=r"answered with RuntimeError: .* No available agent"):
        cluster(RuntimeError(YOUNG)).submit("new", "x", runtime_env={})


@pytest.mark.parametrize("error", [RuntimeError("no"), ConnectionError("no")])
def test_nothing_else_is_tried_again(error):
    refusing = cluster(error)
    with pytest.raises(Trouble):
        refusing.submit("new", "x", runtime_env={})
    assert len(refusing.client.submitted) == 1


@pytest.mark.parametrize("environment", [{"pip": 3}, {"pip": ["x"], "conda": "y"}])
def test_a_runtime_environment_that_ray_does_not_accept_is_reported(environment):
    refusing = cluster(None)
    with pytest.raises(Trouble, match=r"^Ray does not accept the runtime environment: .*pip"):
        refusing.submit("new", "x", runtime_env=environment)
    assert refusing.client.submitted == []


@pytest.mark.parametrize("port", ["x", "99999"])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(Trouble) as trouble:
        ray_jobs.connect_jobs(f"http://head:{port}")
    assert str(trouble.value) == (
        f"--address http://head:{port} is not a URL of a Ray dashboard. Give http://HOST:8265, or https://HOST."
    )


@contextlib.contextmanager
def dashboard(*, cut=0, silent_s=0.0):
    """The address of a dashboard that cuts its first connections, and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.command)
            time.sleep(silent_s)
            if len(asked) <= cut:
                self.close_connection = True
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"ray_version": ray.__version__, "version": "4"}).encode())

        def do_POST(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_question_is_asked_again_if_its_connection_is_cut_from_the_first_one_on(monkeypatch):
    monkeypatch.setattr(client, "PAUSE_S", 0.001)
    with dashboard(cut=client.ASKED - 1) as (address, asked):
        assert client.make_client(address).get_version() == "4"
        assert len(asked) > client.ASKED and {*asked} == {"GET"}
    with dashboard(cut=client.ASKED) as (address, asked), pytest.raises(ConnectionError):
        client.make_client(address)
    assert len(asked) == client.ASKED


def test_what_is_sent_is_not_sent_again(monkeypatch):
    monkeypatch.setattr(client, "PAUSE_S", 0.001)
    with dashboard() as (address, asked):
        made = client.make_client(address)
        asked.clear()
        with dashboard(cut=9) as (made._address, asked), pytest.raises(requests.exceptions.ConnectionError):
            made._do_request("POST", "/api/jobs/")
        assert asked == ["POST"]


def test_no_request_is_waited_for_without_a_limit_not_even_the_first(monkeypatch):
    monkeypatch.setattr(client, "ANSWER_S", 0.05)
    with dashboard(silent_s=0.3) as (address, _), pytest.raises(requests.exceptions.ReadTimeout):
        client.make_client(address)


@pytest.fixture(params=[b"{}", b"<html>"])
def stranger(request):
    """The address of a web server that is not Ray's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(request.param)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_is_not_a_ray_dashboard_is_reported(stranger):
    ended = command("jobs/submit.py", "--address", stranger, "--out", "/x", "--yes", RAY_AUTH_TOKEN="planted")
    assert ended.status == 2
    assert ended.stderr == f"parity: What answers at {stranger} is not a Ray dashboard. Give http://HOST:8265.\n"
