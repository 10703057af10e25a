"""Submitting to a real cluster on this machine, over loopback and with its token; and what is refused before."""

import base64
import hashlib
import io
import json
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from parity import run, submit
from parity.cluster import starting
from parity.cluster.jobs import pack_run, preparing
from parity.cluster.jobs.dashboard_url import is_loopback, warn_of_plain_http
from parity.cluster.jobs.following import ConnectionLost
from parity.cluster.jobs.head import Interpreter, Node
from parity.cluster.jobs.job import Job
from parity.cluster.jobs.preparing import read_runtime_env
from parity.cluster.jobs.ray_jobs import SETTLE_S
from parity.ground import interrupt
from parity.ground.errors import Trouble
from parity.plan.options import make_parser
from parity.store.gather import Gatherer
from parity.store.schema import SCHEMA_NUMBER
from parity.version import __version__

from cluster_process import cluster_process
from conftest import ROOT, command, parity_command

LOOPBACK = "http://127.0.0.1:8265"


def prepare(*arguments):
    options, given = submit.make_submit_parser().parse_known_args([*map(str, arguments)])
    return submit.prepare(options, given)


def refused(*arguments):
    with pytest.raises(Trouble) as trouble:
        prepare(*arguments)
    return str(trouble.value)


VANISHES = (
    ", and the working directory of a Ray job is a temporary copy on one node, which is removed. "
    "Give --out an absolute path on storage that outlives the cluster, or a URI."
)


def test_a_relative_or_missing_out_is_refused_before_anything_is_sent():
    assert refused("--address", LOOPBACK, "--out", "runs/x") == f"--out runs/x is relative{VANISHES}"
    assert refused("--address", LOOPBACK) == f"--out is missing{VANISHES}"
    assert prepare("--address", LOOPBACK, "--out", "s3://bucket/run").out == "s3://bucket/run"


def test_a_relative_or_missing_out_is_refused_inside_a_job(monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert run.main(["--inline", "--steps", "1", "--out", "runs/x"]) == 2
    assert capsys.readouterr().err == f"parity: --out runs/x is relative{VANISHES}\n"
    assert run.main(["--inline", "--steps", "1"]) == 2
    assert capsys.readouterr().err == f"parity: --out is missing{VANISHES}\n"


def test_storage_that_cannot_be_written_is_reported_before_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(starting, "LocalRay", None)  # would be made
    assert run.main(["--steps", "1", "--out", str(tmp_path / "file" / "run")]) == 2
    assert capsys.readouterr().err.split("\n", 1)[1] == (
        f"parity: --out {tmp_path}/file/run cannot be made (Not a directory). Choose a folder that you can write to.\n"
    )


@pytest.mark.parametrize("option", [["--inline"], ["--address", "HOST:6379"]])
def test_options_that_cannot_be_used_in_a_job_are_refused(option):
    options = submit.make_submit_parser().parse_args(["--address", LOOPBACK])
    with pytest.raises(Trouble) as trouble:
        submit.prepare(options, [*option, "--out", "/runs/x"])
    assert str(trouble.value) == (
        f"{option[0]} of parity.run cannot be used in a job, which trains on the cluster that it runs on. Leave it out."
    )


def test_an_unknown_option_is_refused():
    assert refused("--address", LOOPBACK, "--out", "/runs/x", "--stepz", "3") == (
        "Unknown option --stepz. Did you mean --steps? parity submit --help and parity run --help list the options."
    )
    assert refused("--address", LOOPBACK, "--out", "/runs/x", "--fetc", "x") == (
        "Unknown option --fetc. Did you mean --fetch? parity submit --help and parity run --help list the options."
    )


def test_every_option_has_help_that_fits_a_terminal_of_80_columns(monkeypatch):
    parser = submit.make_submit_parser()
    monkeypatch.setenv("COLUMNS", "80")
    assert all(action.help for action in parser._actions)
    assert [line for line in parser.format_help().splitlines() if len(line) > 80] == []


def test_no_option_is_of_both_commands():
    ours, theirs = (
        {option for action in parser._actions for option in action.option_strings}
        for parser in (submit.make_submit_parser(), make_parser())
    )
    assert ours & theirs == {"-h", "--help", "--address"}


def test_a_fetch_that_cannot_be_is_refused(tmp_path):
    assert "already exists" in refused("--address", LOOPBACK, "--out", "/runs/x", "--fetch", tmp_path)
    assert "--fetch can copy a directory only" in refused(
        "--address", LOOPBACK, "--out", "s3://bucket/x", "--fetch", tmp_path / "x"
    )


@pytest.mark.parametrize("found", ["is not a folder", "may not be written"])
def test_a_fetch_that_cannot_be_made_is_refused_before_anything_is_sent(tmp_path, monkeypatch, found):
    if found == "is not a folder":
        (tmp_path / "file").touch()
        around = tmp_path / "file"
    else:  # root may write everywhere
        around = tmp_path
        monkeypatch.setattr(preparing.os, "access", lambda path, _: path != tmp_path)
    assert refused("--address", LOOPBACK, "--out", "/runs/x", "--fetch", around / "new" / "x") == (
        f"--fetch {around}/new/x cannot be made: {around} {found}. Choose a directory that you can make."
    )


def test_the_interpreter_is_python_as_long_as_nothing_is_known_of_the_cluster():
    """A tunnel to any cluster ends on this machine."""
    for address in (LOOPBACK, "https://head"):
        assert (
            prepare("--address", address, "--out", "/runs/a b").entrypoint == "python -m parity.run --out '/runs/a b'"
        )


@pytest.mark.parametrize(
    ("address", "expected"),
    [("http://localhost:1", True), ("http://127.1.2.3:1", True), ("http://[::1]:1", True), ("http://head:1", False)],
)
def test_loopback_is_known(address, expected):
    assert is_loopback(address) is expected


def test_the_id_is_of_what_is_sent(tmp_path):
    loss = tmp_path / "mine.py"
    loss.write_text("mine = 1\n")
    arguments = ("--address", LOOPBACK, "--out", "/x", "--loss", f"{loss}:mine")
    first = prepare(*arguments).job_id
    assert first == prepare(*arguments).job_id and first.startswith("parity-") and len(first) == 23
    assert prepare(*arguments, "--steps", 3).job_id != first
    environment = tmp_path / "environment.yaml"
    environment.write_text("env_vars: {A: 1}\n")
    assert prepare(*arguments, "--runtime-env", environment).job_id != first
    loss.write_text("mine = 2\n")
    assert prepare(*arguments).job_id != first
    assert prepare(*arguments, "--id", "mine").job_id == "mine"
    others = [replace(prepare(*arguments), interpreter=Interpreter(command, "")) for command in ("py", "py3")]
    assert len({prepare(*arguments).job_id, *(other.job_id for other in others)}) == 3


@pytest.mark.parametrize("form", ["{kind}: {path}", "{kind}: {{packages: {path}}}"])
@pytest.mark.parametrize("kind", ["pip", "uv", "conda"])
def test_the_id_is_of_the_requirements_that_the_runtime_environment_names(tmp_path, kind, form):
    named = tmp_path / "named.yaml"
    (tmp_path / "environment.yaml").write_text(form.format(kind=kind, path=named))
    arguments = ("--address", LOOPBACK, "--out", "/x", "--runtime-env", tmp_path / "environment.yaml")
    ids = []
    for text in ("numpy==1", "numpy==2", "numpy==2"):
        named.write_text(text)
        ids.append(prepare(*arguments).job_id)
    assert ids[0] != ids[1] == ids[2]


def test_the_id_is_of_the_very_run_that_is_continued(begun):
    arguments = ("--address", LOOPBACK, "--resume", begun)
    first = prepare(*arguments).job_id
    assert first == prepare(*arguments).job_id
    content = json.loads((begun / "run.json").read_text())
    (begun / "run.json").write_text(json.dumps(content | {"created": "2026-01-01T00:00:00+00:00"}))
    assert first != prepare(*arguments).job_id


def test_a_folder_that_would_be_sent_unlisted_is_refused(tmp_path):
    path = tmp_path / "environment.yaml"
    path.write_text("py_modules: ['s3://bucket/a.zip', ./mine]\n")
    with pytest.raises(Trouble) as trouble:
        read_runtime_env(path)
    assert str(trouble.value) == (
        f"--runtime-env {path} sends ./mine as one of its py_modules, unlisted and unchecked. Send it with --include, "
        "or give the URI of a package."
    )


def test_a_runtime_environment_is_read_but_for_its_working_directory(tmp_path):
    path = tmp_path / "environment.yaml"
    path.write_text("env_vars: {A: 1}\npip: [x]\n")
    assert read_runtime_env(path) == {"env_vars": {"A": "1", "RAY_JOB_STOP_WAIT_TIME_S": "60"}, "pip": ["x"]}
    path.write_text("working_dir: .\n")
    with pytest.raises(Trouble, match="sets working_dir, which parity sets itself"):
        read_runtime_env(path)
    for text in ("[1]", "env_vars: 1"):
        path.write_text(text)
        with pytest.raises(Trouble, match="is not a runtime environment"):
            read_runtime_env(path)
    path.write_text("{")
    with pytest.raises(Trouble, match="cannot be read"):
        read_runtime_env(path)


def test_a_cluster_without_authentication_is_as_explicit_in_the_job(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "RAY_AUTH_MODE" not in read_runtime_env(None)["env_vars"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert read_runtime_env(None)["env_vars"]["RAY_AUTH_MODE"] == "disabled"


def test_the_exit_status_is_that_of_parity_and_1_only_of_a_stored_run():
    def ended(code, log="Stored in /x\n"):
        return submit.exit_status(Job("FAILED", "why", code, {}), log, out="/x")

    assert [ended(code) for code in (0, 1, 2, 3)] == [0, 1, 2, 3]
    # parity prints the folder without what is superfluous in --out.
    assert submit.exit_status(Job("FAILED", "why", 1, {}), "Stored in /x; report: y\n", out="/x/") == 1
    for code, log in ((1, "No module named parity"), (127, ""), (-9, ""), (None, "")):
        with pytest.raises(Trouble, match="The job is FAILED without a result from parity: why"):
            ended(code, log)
    with pytest.raises(Trouble, match="does not know the job any more"):
        submit.exit_status(None, "", out="/x")


def test_the_whole_reason_of_a_failed_job_is_shown():
    """Ray's messages begin with the beginning of a traceback, or of a log, and end with the reason."""
    message = "runtime_env setup failed:\n" + "  a line of a traceback\n" * 100 + "No module named 'six'"
    with pytest.raises(Trouble) as trouble:
        submit.exit_status(Job("FAILED", message, None, {}), "", out="/x", advice="Continue it.")
    assert str(trouble.value) == f"The job is FAILED without a result from parity: {message}\nContinue it."


def test_an_interpreter_that_the_cluster_lacks_is_named_as_the_cause():
    with pytest.raises(Trouble) as trouble:
        submit.exit_status(Job("FAILED", "exit code 127", 127, {}), "", out="/x", advice="Continue it.")
    assert str(trouble.value) == (
        "The job is FAILED without a result from parity: exit code 127\n"
        "The cluster has no such interpreter. Choose one that it has with --python."
    )


@pytest.mark.parametrize(
    ("code", "log", "expected"),
    [
        (0, "", True),
        (3, "", True),
        (1, "first\nStored in /runs/x; report: y", True),
        (2, "Stored in /x", True),  # of a baseline that failed
        (1, "No module named parity", False),
        (2, "parity: no node has a GPU", False),
        (2, "mine: Not Stored in /x", False),
        (127, "", False),
        (-9, "", False),
        (None, "", False),
    ],
)
def test_a_result_is_distinguished_from_trouble(code, log, expected):
    assert Job("FAILED", "", code, {}).has_result(log) is expected


def test_a_run_comes_back_as_it_was(tmp_path):
    (tmp_path / "run" / "traces").mkdir(parents=True)
    (tmp_path / "run" / "traces" / "a.parquet").write_bytes(bytes(range(256)) * 40)
    text = f"Running entrypoint\n{pack_run.encode(tmp_path / 'run')}\nafter\n"
    pack_run.extract(pack_run.decode(text), tmp_path / "back")
    assert (tmp_path / "back" / "traces" / "a.parquet").read_bytes() == bytes(range(256)) * 40
    with pytest.raises(FileExistsError):
        pack_run.extract(pack_run.decode(text), tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "run"]


def test_a_damaged_log_is_reported(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    text = pack_run.encode(tmp_path)
    with pytest.raises(ValueError, match="the log does not contain a whole run"):
        pack_run.decode(text[:-10])
    lines = text.split("\n")
    other = base64.b64encode(b"other").decode()
    with pytest.raises(ValueError, match="SHA-256"):
        pack_run.decode("\n".join([*lines[:2], other, lines[-1]]))


@pytest.mark.parametrize("kind", ["../outside", "/outside", "link"])
def test_an_archive_that_leads_outside_is_refused(tmp_path, kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(kind)
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(ValueError, match="is not a file or folder of a run"):
        pack_run.extract(buffer.getvalue(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_too_large_is_left_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"12345")
    monkeypatch.setattr(pack_run, "LARGEST_BYTES", 4)
    with pytest.raises(ValueError, match="has 5 bytes, and at most 4 can be fetched; copy it from there instead"):
        pack_run.encode(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        pack_run.encode(tmp_path / "gone")


def test_a_token_that_travels_in_clear_is_reported(capsys):
    for address in (LOOPBACK, "https://head", "http://[::1]:8265"):
        warn_of_plain_http(address)
    assert capsys.readouterr().err == ""
    warn_of_plain_http("http://head:8265")
    assert capsys.readouterr().err == (
        "parity: the token and the files travel to head unencrypted. On a network that others use, open a tunnel "
        "(ssh -L 8265:localhost:8265 head) and give --address http://127.0.0.1:8265.\n"
    )


RESUMED = "What it trained is kept; continue it with\n  parity submit --address {} --resume /runs/x\n"


class FakeCluster:
    """A cluster with one job, which can be stopped."""

    address = LOOPBACK
    running = Job("RUNNING", "", None, {"out": "/runs/x"})
    stopped = Job("STOPPED", "", None, {"out": "/runs/x"})

    def __init__(self):
        self.asked_to_stop = []

    def job(self, job_id):
        return self.running if job_id == "known" else None

    def has_log(self, job_id):
        return False

    def stop(self, job_id):
        self.asked_to_stop.append(job_id)
        return self.stopped


def test_an_interrupted_follower_leaves_the_job_unless_it_is_asked_to_stop_it(monkeypatch, capsys):
    cluster = FakeCluster()
    assert submit._interrupted(cluster, LOOPBACK, "known") == 2
    assert cluster.asked_to_stop == []
    assert f"--address {LOOPBACK} --id known --stop" in capsys.readouterr().err
    monkeypatch.setattr(submit, "_agreed", lambda question, default: question == "Stop the job?" and not default)
    assert submit._interrupted(cluster, LOOPBACK, "known") == 2
    assert cluster.asked_to_stop == ["known"]
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (RESUMED.format(LOOPBACK), "parity: job known is STOPPED\n")


def test_a_job_is_shown_and_stopped_by_its_id(capsys):
    cluster = FakeCluster()
    assert submit._show_or_stop(cluster, "known", stop=False) == 0
    assert submit._show_or_stop(cluster, "known", stop=True) == 0
    printed = capsys.readouterr()
    assert printed.out == "known RUNNING; the run is at /runs/x\nknown STOPPED; the run is at /runs/x\n"
    assert printed.err == f"parity: {RESUMED.format(LOOPBACK)}"
    assert cluster.asked_to_stop == ["known"]
    with pytest.raises(Trouble) as trouble:
        submit._show_or_stop(cluster, "other", stop=True)
    assert str(trouble.value) == f"The cluster at {LOOPBACK} has no job other. Check the id, or the arguments."


class Sent(FakeCluster):
    """A cluster that runs what it is sent, each with the next of these ends."""

    def __init__(self, *ends, log="Stored in /runs/x\n", head=None):
        super().__init__()
        self.ends, self.printed, self.node = list(ends), log, head
        self.jobs, self.entrypoints = {}, {}

    def head(self):
        return self.node

    def job(self, job_id):
        return self.jobs.get(job_id)

    def submit(self, job_id, entrypoint, *, runtime_env, metadata):
        assert job_id not in self.jobs
        self.entrypoints[job_id] = entrypoint
        self.jobs[job_id] = Job("RUNNING", "", None, metadata)

    def follow(self, job_id):
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        self.jobs[job_id] = replace(self.jobs[job_id], status="SUCCEEDED" if end == 0 else "FAILED", exit_status=end)
        return self.jobs[job_id]

    def log(self, job_id):
        return self.printed


def sends(monkeypatch, cluster, *arguments):
    monkeypatch.setattr(submit, "connect_jobs", lambda address: cluster)
    return submit.main(["--address", LOOPBACK, *map(str, arguments)])


def test_a_job_that_ended_without_a_result_is_sent_again(monkeypatch, capsys):
    cluster = Sent(127, None, 0)
    arguments = ("--out", "/runs/x")
    assert [sends(monkeypatch, cluster, *arguments) for _ in range(4)] == [2, 2, 0, 0]
    first, *others = cluster.jobs
    assert others == [f"{first}-2", f"{first}-3"]
    printed = capsys.readouterr().err
    again = f"parity: job {first} is FAILED without a result from parity; it is sent again as {first}-2\n"
    assert again in printed
    assert printed.index(again) < printed.index(RESUMED.format(LOOPBACK)), (
        "nothing was trained by a job that did not run"
    )
    assert printed.endswith(f"parity: job {first}-3 exists already and is SUCCEEDED; it is not run again\n")
    assert sends(monkeypatch, cluster, *arguments, "--status") == 0
    assert capsys.readouterr().out == f"{first}-3 SUCCEEDED with exit status 0; the run is at /runs/x\n"
    assert submit._show_or_stop(cluster, f"{first}-2", stop=False) == 0
    assert capsys.readouterr().out == f"{first}-2 FAILED; the run is at /runs/x\n"


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_a_job_with_a_result_is_not_sent_again(monkeypatch, code):
    cluster = Sent(code)
    assert [sends(monkeypatch, cluster, "--out", "/runs/x") for _ in range(2)] == [code, code]
    assert len(cluster.jobs) == 1


def test_a_job_without_a_result_brings_no_run_of_another_job(monkeypatch, capsys, tmp_path):
    """Its --out held a run already, which was made with another loss."""
    refused = Sent(2, log="parity: /runs/x already holds a run.\n")
    refused.fetch = None  # would be called
    assert sends(monkeypatch, refused, "--out", "/runs/x", "--fetch", tmp_path / "x") == 2
    (job_id,) = refused.jobs
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith(f"parity: job {job_id} has no result; the run at /runs/x may be another job's\n")


def test_a_run_that_took_the_place_of_the_jobs_is_not_fetched(tmp_path):
    (tmp_path / "run.json").write_text('{"created": "2026-01-01T00:00:10+00:00"}')
    began_s = 1767225610.0
    packed = [command("parity/cluster/jobs/pack_run.py", tmp_path, began_s + later_s) for later_s in (5, -5)]
    assert [each.status for each in packed] == [0, 2]
    assert packed[1].stdout == (
        f"parity: the run at {tmp_path} was begun at 2026-01-01T00:00:10+00:00, after the job had ended, "
        "so another job made it\n"
    )


def test_an_id_that_another_command_has_used_is_refused(monkeypatch, capsys):
    cluster = Sent(0, 1)
    arguments = ("--out", "/runs/x", "--id", "nightly")
    assert [sends(monkeypatch, cluster, *arguments) for _ in range(2)] == [0, 0]
    assert sends(monkeypatch, cluster, *arguments, "--steps", 3) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "parity: Job nightly exists already, is SUCCEEDED, and was sent other options or files than this command would "
        "send. Choose another --id, or leave it out."
    )
    assert list(cluster.jobs) == ["nightly"]
    cluster.jobs["raysubmit_1"] = Job("SUCCEEDED", "", 0, {})  # not of parity
    assert sends(monkeypatch, cluster, "--out", "/runs/x", "--id", "raysubmit_1") == 2


def test_a_job_with_an_id_that_looks_like_a_later_attempt_is_not_taken_for_one(monkeypatch, capsys):
    cluster = Sent(None, 1, 0)
    first, second = (("--out", f"/runs/{name}", "--id", name) for name in ("mine", "mine-2"))
    assert [sends(monkeypatch, cluster, *each) for each in (first, second)] == [2, 1]
    capsys.readouterr()
    assert sends(monkeypatch, cluster, "--id", "mine", "--status") == 0
    assert capsys.readouterr().out == "mine FAILED; the run is at /runs/mine\n"
    assert [sends(monkeypatch, cluster, *first) for _ in range(2)] == [0, 0]
    assert list(cluster.jobs) == ["mine", "mine-2", "mine-3"]


def test_a_deleted_job_whose_log_is_left_is_sent_under_another_id(monkeypatch):
    cluster = Sent(0, 0)
    cluster.has_log = lambda job_id: job_id in ("mine", *cluster.jobs)
    arguments = ("--out", "/runs/x", "--id", "mine")
    assert [sends(monkeypatch, cluster, *arguments) for _ in range(2)] == [0, 0]
    assert list(cluster.jobs) == ["mine-2"]


@pytest.mark.parametrize("given", ["", "known?x=1", "known#", "../jobs/known", "a b", "-x", "é"])
@pytest.mark.parametrize("option", ["--status", "--yes"])
def test_an_id_that_would_ask_for_another_job_is_refused(monkeypatch, capsys, given, option):
    assert sends(monkeypatch, None, "--out", "/runs/x", f"--id={given}", option) == 2
    assert capsys.readouterr().err == (
        f"parity: --id {given!r} cannot be the id of a job. Give letters, digits and . _ -, with a letter or digit "
        "first.\n"
    )


def test_another_interpreter_is_another_job(monkeypatch):
    cluster = Sent(0, 0)
    assert sends(monkeypatch, cluster, "--out", "/runs/x") == 0
    assert sends(monkeypatch, cluster, "--out", "/runs/x", "--python", "py") == 0
    assert sorted(cluster.entrypoints.values()) == [f"{each} -m parity.run --out /runs/x" for each in ("py", "python")]


def test_the_interpreter_is_this_one_if_the_head_is_this_machine(monkeypatch, tmp_path, capsys):
    (tmp_path / "metrics_agent_port_1").touch()
    here = Sent(0, 0, head=Node("1", socket.gethostname(), str(tmp_path)))
    assert sends(monkeypatch, here, "--out", "/runs/x") == 0
    assert list(here.entrypoints.values()) == [f"{sys.executable} -m parity.run --out /runs/x"]
    said = "parity: the interpreter of the job is "
    reason = "which runs now, as the head of the cluster is this machine\n"
    assert f"{said}{sys.executable}, {reason}" in capsys.readouterr().err
    tunnelled = Sent(0, head=Node("1", "elsewhere", str(tmp_path)))
    assert sends(monkeypatch, tunnelled, "--out", "/runs/x") == 0
    assert list(tunnelled.entrypoints.values()) == ["python -m parity.run --out /runs/x"]
    assert f"{said}python, as the head of the cluster is another machine, elsewhere; choose" in capsys.readouterr().err


def test_a_dry_run_shows_the_id_and_the_interpreter_that_the_job_would_have(monkeypatch, tmp_path, capsys):
    (tmp_path / "metrics_agent_port_1").touch()
    here = Sent(0, head=Node("1", socket.gethostname(), str(tmp_path)))
    assert sends(monkeypatch, here, "--out", "/runs/x", "--dry-run") == 0
    assert not here.jobs
    shown = capsys.readouterr().out.splitlines()[-1]
    assert sends(monkeypatch, here, "--out", "/runs/x") == 0
    assert shown == f"Would submit {next(iter(here.jobs))}: {sys.executable} -m parity.run --out /runs/x"


def test_a_connection_that_is_lost_leaves_the_job_as_ctrl_c_does(monkeypatch, capsys):
    cluster = Sent(ConnectionLost("The connection broke."), 0)
    assert sends(monkeypatch, cluster, "--out", "/runs/x") == 2
    (job_id,) = cluster.jobs
    lost = capsys.readouterr().err
    assert submit._interrupted(cluster, LOOPBACK, job_id) == 2
    assert lost.endswith(f"parity: The connection broke.\n{capsys.readouterr().err}")
    assert cluster.asked_to_stop == []
    assert sends(monkeypatch, cluster, "--out", "/runs/x") == 0
    assert len(cluster.jobs) == 1, "it is followed again"


@pytest.fixture
def begun(tmp_path):
    """A run that was begun by a job in the folder of this project, with a loss of its own."""
    (tmp_path / "run").mkdir()
    arguments = ["--out", str(tmp_path / "run"), "--steps", "4", "--loss", "builtin", "tests/right_losses.py:row_means"]
    info = {"schema": SCHEMA_NUMBER, "state": "running", "arguments": arguments}
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    return tmp_path / "run"


def test_a_run_is_continued_with_the_files_that_its_run_json_names(begun):
    submission = prepare("--address", LOOPBACK, "--resume", begun)
    assert submission.entrypoint == f"python -m parity.run --resume {begun}"
    assert submission.out == str(begun)
    assert "tests/right_losses.py" in map(str, submission.packing.files)
    assert "tests/right_losses.py" not in map(str, prepare("--address", LOOPBACK, "--out", "/x").packing.files)


def test_a_run_that_only_the_cluster_sees_is_read_there(begun, monkeypatch, tmp_path):
    """The cluster's folder /runs is one of this machine's here."""

    class Elsewhere(Sent):
        def fetch(self, job_id, made, run, out, *, runtime_env, python):
            assert (python, made, run) == ("python", None, "/runs/first/run.json")
            assert [path.name for path in Path(runtime_env["working_dir"]).rglob("*.py")] == ["pack_run.py"]
            ended = command(Path(runtime_env["working_dir"], "jobs", "pack_run.py"), begun / "run.json")
            pack_run.extract(pack_run.decode(ended.stdout), out)

    cluster = Elsewhere(0)
    assert sends(monkeypatch, cluster, "--resume", "/runs/first") == 0
    assert list(cluster.entrypoints.values()) == ["python -m parity.run --resume /runs/first"]
    (begun / "run.json").write_text('{"schema": 1234}')
    assert sends(monkeypatch, cluster, "--resume", "/runs/first") == 2


def test_a_dry_run_asks_the_cluster_for_nothing(monkeypatch, capsys):
    assert sends(monkeypatch, None, "--resume", "/runs/first", "--dry-run") == 2
    assert capsys.readouterr().err.startswith(
        "parity: /runs/first/run.json, which says what would be sent, is not on this machine"
    )


def test_what_cannot_be_continued_by_a_job_is_refused(begun, tmp_path):
    assert refused("--address", LOOPBACK, "--resume", "runs/x") == (
        f"--resume runs/x is relative{VANISHES.replace('--out', '--resume')}"
    )
    assert f"{tmp_path} is not a run itself, and holds a run: " in refused("--address", LOOPBACK, "--resume", tmp_path)
    assert "--fetch can copy a directory only, and --resume is s3://" in refused(
        "--address", LOOPBACK, "--resume", "s3://bucket/run", "--fetch", tmp_path / "x"
    )
    (begun / "run.json").write_text(json.dumps({"schema": SCHEMA_NUMBER, "recorded": {}}))
    assert refused("--address", LOOPBACK, "--resume", begun) == (
        f"{begun} was not made by parity run, so a job cannot continue it."
    )


def test_the_command_that_continues_a_run_has_what_run_json_does_not_know(monkeypatch, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("mine = print\n")
    (tmp_path / "table.csv").write_text("1\n")
    options = ["--include", tmp_path / "table.csv", "--python", "py -3"]
    cluster = Sent(KeyboardInterrupt())
    arguments = ["--out", "/runs/x", "--steps", 3, "--loss", "builtin", f"{tmp_path}/mine.py:mine", *options]
    assert sends(monkeypatch, cluster, *arguments) == 2
    ((job_id, job),) = cluster.jobs.items()
    cluster.stopped = replace(job, status="STOPPED")
    capsys.readouterr()
    assert sends(monkeypatch, cluster, "--id", job_id, "--stop") == 0
    again = f"--loss builtin {tmp_path}/mine.py:mine --task mnist-autoencoder --include {tmp_path}/table.csv"
    expected = f"parity: {RESUMED.format(LOOPBACK)}".rstrip()
    assert capsys.readouterr().err == f"{expected} {again} --python 'py -3'\n"


# Follows a job that does not end, with a terminal that nobody types into.
FOLLOWS = """
import io, os, sys, time
from parity import submit
from parity.cluster.jobs.job import Job

class Cluster:
    jobs = {}

    def job(self, job_id):
        return self.jobs.get(job_id)

    def has_log(self, job_id):
        return False

    def submit(self, job_id, entrypoint, *, runtime_env, metadata):
        self.jobs[job_id] = Job("RUNNING", "", None, metadata)

    def follow(self, job_id):
        print("follows", flush=True)
        time.sleep(60)

terminal, typed = os.openpty()
sys.stdin = os.fdopen(typed)
sys.stderr = io.TextIOWrapper(sys.stderr.buffer, write_through=True)
sys.stderr.isatty = lambda: True
submit.connect_jobs = lambda address: Cluster()
sys.exit(submit.main(sys.argv[1:]))
"""


def test_a_second_ctrl_c_says_no_to_stopping_the_job():
    arguments = ["--address", LOOPBACK, "--out", "/x", "--id", "mine", "--python", "py", "--yes"]
    arguments = [sys.executable, "-c", FOLLOWS, *arguments]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "follows\n"
        process.send_signal(signal.SIGINT)
        found, question = "", "Stop the job? [y/N] "
        while not found.endswith(question):
            read = process.stderr.read(1)
            assert read, found
            found += read
        time.sleep(2 * interrupt.ONCE_S)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 2
    assert said.startswith("parity: job mine keeps running. Run the same command again to follow it.")


def test_what_a_message_quotes_cannot_steer_the_terminal(monkeypatch, capsys):
    def planted(*_):
        raise Trouble("\x1b[2Jgone")

    monkeypatch.setattr(submit, "prepare", planted)
    assert submit.main(["--address", LOOPBACK]) == 2
    assert "\x1b" not in capsys.readouterr().err


def submitted(*arguments, timeout_s=240, **environment):
    return command("jobs/submit.py", *arguments, timeout_s=timeout_s, PARITY_WARM_COMMAND="1", **environment)


def test_a_dry_run_lists_and_sends_nothing():
    ended = submitted(
        "--address", "http://127.0.0.1:9", "--out", "/x", "--dry-run", "--loss", "tests/right_losses.py:row_means"
    )
    assert ended.status == 0, ended.stderr
    assert "  tests/right_losses.py\n" in ended.stdout and "Would submit parity-" in ended.stdout


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "http://127.0.0.1:9",
            "parity: No Ray cluster answers at http://127.0.0.1:9 ([Errno 111] Connection refused).",
        ),
        ("127.0.0.1:8265", "parity: --address 127.0.0.1:8265 is not a URL of a Ray dashboard."),
    ],
)
def test_an_address_where_no_cluster_is_is_reported(address, message):
    ended = submitted("--address", address, "--out", "/x", timeout_s=30)
    assert ended.status == 2 and ended.stderr.startswith(message)


# Beside other clusters on one machine: ray.init has no option for the port of the node's agent, and a cluster that
# finds the default one taken runs no jobs; and a job gets any cluster's address unless this one's is written down,
# as `ray start` does.
HEAD = """
import functools, ray, ray._private.parameter, sys
parameters = ray._private.parameter.RayParams
parameters.__init__ = functools.partialmethod(
    parameters.__init__, dashboard_agent_listen_port=0, no_monitor=True, include_log_monitor=False
)
# One CPU, so that the trials share a seat, which imports parity from what the job has sent.
context = ray.init(
    address="local", include_dashboard=True, dashboard_port=0, num_cpus=1, _temp_dir=sys.argv[1], log_to_driver=False
)
ray._private.utils.write_ray_address(context.address_info["gcs_address"], sys.argv[1])
print(context.dashboard_url, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict

    @property
    def authorized(self):
        """The header that carries its token."""
        return {"Authorization": f"Bearer {Path(self.environment['RAY_AUTH_TOKEN_PATH']).read_text()}"}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head on this machine that asks for a token."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.touch(0o600)
    token.write_text("planted-token-of-a-cluster-0123456789")
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with cluster_process(HEAD, "head-", **environment) as process:
        yield Head(f"http://{process.stdout.readline().strip()}", environment)


@pytest.fixture(scope="module")
def job(head, tmp_path_factory):
    """A job of a user's loss that imports a neighbour, run and fetched: its folder, its arguments, how it ended."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "mine.py").write_text(
        "from scaling import scale\n\n\ndef mine(output, target):\n    return scale * ((output - target) ** 2).mean()\n"
    )
    (folder / "scaling.py").write_text("scale = 2.0\n")
    arguments = ["--loss", "builtin", folder / "mine.py:mine", "--device", "cpu", "--steps", 4, "--out", folder / "run"]
    arguments = ["--address", head.address, *arguments]
    return folder, arguments, submitted(*arguments, "--yes", "--fetch", folder / "fetched", **head.environment)


def test_a_job_trains_prints_and_ends_as_parity_does(job):
    folder, _, ended = job
    assert ended.status == 1, ended.stderr
    printed = " ".join(ended.stdout.split())
    assert "mine's gradient is 2× too large, from step 0 on." in printed
    assert "where step 0 (epoch 0, batch 0), " in printed
    stored = f"Stored in {folder}/run; report: {folder}/run/report.html"
    assert printed.endswith(f"{stored} Fetched to {folder}/fetched")
    assert "/scaling.py\n" in ended.stderr, "what is sent is listed"
    assert f"parity: the interpreter of the job is {sys.executable}, which runs now, as the head " in ended.stderr
    statuses = [line.rpartition(" ")[2] for line in ended.stderr.splitlines() if line.startswith("parity: job ")]
    assert statuses[-2:] == ["RUNNING", "FAILED"]


def test_a_fetched_run_is_the_run(job):
    folder, _, _ = job
    paths = sorted(path.relative_to(folder / "run") for path in (folder / "run").rglob("*") if path.is_file())
    assert len(paths) > 6
    for path in paths:
        found, expected = (
            hashlib.sha256((folder / where / path).read_bytes()).hexdigest() for where in ("fetched", "run")
        )
        assert found == expected, path
    assert json.loads((folder / "fetched" / "run.json").read_text())["versions"]["training-parity"] == __version__
    assert parity_command("parity.report", folder / "fetched").status == 1


def test_the_same_job_is_not_run_again(job, head):
    folder, arguments, _ = job
    before = (folder / "run" / "run.json").stat().st_mtime_ns
    (folder / "run" / "note.txt").write_text("written after the first fetch")
    again = submitted(*arguments, "--fetch", folder / "fetched again", **head.environment)
    assert again.status == 1
    assert re.search(r" exists already and is FAILED since 20..-..-.. ..:.. UTC; it is not run again\n$", again.stderr)
    assert again.stdout == f"Fetched to {folder}/fetched again\n"
    assert (folder / "fetched again" / "note.txt").exists(), "it is fetched as it is now"
    assert (folder / "run" / "run.json").stat().st_mtime_ns == before
    content = json.loads((folder / "run" / "run.json").read_text())
    (folder / "run" / "run.json").write_text(json.dumps(content | {"created": "2999-01-01T00:00:00+00:00"}))
    other = submitted(*arguments, "--fetch", folder / "other", **head.environment)
    (folder / "run" / "run.json").write_text(json.dumps(content))
    assert other.status == 2 and " after the job had ended, so another job made it." in other.stderr
    assert not (folder / "other").exists()
    status = submitted(*arguments, "--status", **head.environment)
    assert status.status == 0
    assert status.stdout.endswith(f" FAILED with exit status 1; the run is at {folder}/run\n")


def test_a_fetch_leaves_no_job_behind(job, head):
    _, arguments, _ = job
    job_id = submitted(*arguments, "--status", **head.environment).stdout.split()[0]
    asked = urllib.request.Request(f"{head.address}/api/jobs/", headers=head.authorized)
    with urllib.request.urlopen(asked) as answer:
        assert [each["submission_id"] for each in json.load(answer) if each["submission_id"]] == [job_id]


def test_what_a_deleted_job_printed_is_not_its_successors(head, tmp_path):
    """The second has an interpreter that ends with 1, as one that does not find parity."""
    (tmp_path / "py").write_text("#!/bin/sh\nsleep 1\ncat $0.txt\nexit 1\n")
    (tmp_path / "py").chmod(0o755)
    (tmp_path / "py.txt").write_text("Stored in /x\n")
    arguments = ("--address", head.address, "--out", "/x", "--id", "again", "--python", tmp_path / "py", "--yes")
    first = submitted(*arguments, **head.environment)
    assert first.status == 1 and "Stored in /x\n" in first.stdout, first.stderr
    time.sleep(SETTLE_S)
    deleted = urllib.request.Request(f"{head.address}/api/jobs/again", method="DELETE", headers=head.authorized)
    urllib.request.urlopen(deleted).close()
    (tmp_path / "py.txt").write_text("No module named parity\n")
    second = submitted(*arguments, **head.environment)
    assert second.status == 2 and "Stored in" not in second.stdout, second.stderr
    assert "No module named parity\n" in second.stdout
    assert "parity: submitted again-2: " in second.stderr


def test_a_run_that_was_interrupted_is_continued_by_a_job(head, tmp_path, monkeypatch):
    """The run trains in the driver, with a loss that the job has in another folder."""
    genuine = Gatherer.take

    def stop(gatherer, events):
        genuine(gatherer, events)
        if len(gatherer.unfinished) == 1:
            raise KeyboardInterrupt

    arguments = ["--inline", "--quick", "--device", "cpu", "--steps", "3", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr(Gatherer, "take", stop)
        assert run.main([*arguments, "--loss", "builtin", "tests/right_losses.py:row_means"]) == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "running"
    ended = submitted("--address", head.address, "--resume", tmp_path / "run", "--yes", **head.environment)
    assert ended.status == 0, ended.stderr
    assert "  tests/right_losses.py\n" in ended.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "complete"


def test_a_wrong_or_missing_token_is_reported(head, tmp_path):
    wrong = head.environment | {"RAY_AUTH_TOKEN": "wrong"}
    ended = submitted("--address", head.address, "--out", "/x", timeout_s=30, **wrong)
    assert ended.status == 2
    assert f"The Ray cluster at {head.address} refused the token from RAY_AUTH_TOKEN. " in ended.stderr
    missing = head.environment | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")}
    ended = submitted("--address", head.address, "--out", "/x", timeout_s=30, **missing)
    assert ended.status == 2
    assert f"No token was found for the Ray cluster: {tmp_path}/gone does not exist." in ended.stderr
