"""Submitting to a real cluster on this machine, over loopback and with its token; and what is refused before."""

import base64
import hashlib
import io
import json
import sys
import tarfile
from dataclasses import dataclass

import pytest

from jobs import pack_run, submit
from jobs.ray_jobs import Job, is_loopback, warn_of_plain_http
from parity import run
from parity.ground.errors import Trouble
from parity.plan.options import make_parser
from parity.version import __version__

from cluster_process import cluster_process
from conftest import command

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
    monkeypatch.setattr(run.Inline, "train", None)  # would be called
    monkeypatch.setattr(run, "connect", None)
    assert run.main(["--steps", "1", "--out", str(tmp_path / "file" / "run")]) == 2
    assert capsys.readouterr().err == (
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


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        prepare("--address", LOOPBACK, "--out", "/runs/x", "--stepz", "3")
    assert exit_.value.code == 2
    assert "unrecognized arguments: --stepz 3" in capsys.readouterr().err


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


def test_the_interpreter_is_this_one_on_this_machine_and_python_elsewhere():
    here = prepare("--address", LOOPBACK, "--out", "/runs/a b").entrypoint
    assert here == f"{sys.executable} -m parity.run --out '/runs/a b'"
    assert prepare("--address", "https://head", "--out", "/x").entrypoint == "python -m parity.run --out /x"
    assert prepare("--address", "https://head", "--out", "/x", "--python", "py").entrypoint.startswith("py -m ")


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


def test_a_runtime_environment_is_read_but_for_its_working_directory(tmp_path):
    path = tmp_path / "environment.yaml"
    path.write_text("env_vars: {A: 1}\npip: [x]\n")
    assert submit.read_runtime_env(path) == {"env_vars": {"A": "1", "RAY_JOB_STOP_WAIT_TIME_S": "60"}, "pip": ["x"]}
    path.write_text("working_dir: .\n")
    with pytest.raises(Trouble, match="sets working_dir, which parity sets itself"):
        submit.read_runtime_env(path)
    for text in ("[1]", "env_vars: 1"):
        path.write_text(text)
        with pytest.raises(Trouble, match="is not a runtime environment"):
            submit.read_runtime_env(path)
    path.write_text("{")
    with pytest.raises(Trouble, match="cannot be read"):
        submit.read_runtime_env(path)


def test_a_cluster_without_authentication_is_as_explicit_in_the_job(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "RAY_AUTH_MODE" not in submit.read_runtime_env(None)["env_vars"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert submit.read_runtime_env(None)["env_vars"]["RAY_AUTH_MODE"] == "disabled"


def test_the_exit_status_is_that_of_parity_and_1_only_of_a_stored_run():
    def ended(code, log="Stored in /x\n"):
        return submit.exit_status(Job("FAILED", "why", code, {}), log, out="/x")

    assert [ended(code) for code in (0, 1, 2, 3)] == [0, 1, 2, 3]
    for code, log in ((1, "No module named parity"), (127, ""), (None, "")):
        with pytest.raises(Trouble, match="The job is FAILED without a result from parity: why"):
            ended(code, log)
    with pytest.raises(Trouble, match="does not know the job any more"):
        submit.exit_status(None, "", out="/x")


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


class FakeCluster:
    """A cluster with one job, which can be stopped."""

    address = LOOPBACK
    running = Job("RUNNING", "", None, {"out": "/runs/x"})
    stopped = Job("STOPPED", "", None, {"out": "/runs/x"})

    def __init__(self):
        self.asked_to_stop = []

    def job(self, job_id):
        return self.running if job_id == "known" else None

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
    assert capsys.readouterr().err == "parity: job known is STOPPED\n"


def test_a_job_is_shown_and_stopped_by_its_id(capsys):
    cluster = FakeCluster()
    assert submit._show_or_stop(cluster, "known", stop=False) == 0
    assert submit._show_or_stop(cluster, "known", stop=True) == 0
    assert capsys.readouterr().out == ("known RUNNING; the run is at /runs/x\nknown STOPPED; the run is at /runs/x\n")
    assert cluster.asked_to_stop == ["known"]
    with pytest.raises(Trouble) as trouble:
        submit._show_or_stop(cluster, "other", stop=True)
    assert str(trouble.value) == f"The cluster at {LOOPBACK} has no job other. Check the id, or the arguments."


def submitted(*arguments, timeout_s=240, **environment):
    return command("jobs/submit.py", *arguments, timeout_s=timeout_s, **environment)


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
parameters.__init__ = functools.partialmethod(parameters.__init__, dashboard_agent_listen_port=0)
context = ray.init(
    address="local", include_dashboard=True, dashboard_port=0, num_cpus=2, _temp_dir=sys.argv[1], log_to_driver=False
)
ray._private.utils.write_ray_address(context.address_info["gcs_address"], sys.argv[1])
print(context.dashboard_url, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict


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
    assert "builtin@cpu-s0 mine@cpu-s0 diverged cause the gradient is scaled by 2; " in printed
    assert "onset beyond rounding from step 0 (epoch 0, batch 0) on, " in printed
    stored = f"Stored in {folder}/run; report: {folder}/run/report.html"
    assert printed.endswith(f"{stored} Fetched to {folder}/fetched")
    assert "/scaling.py\n" in ended.stderr, "what is sent is listed"
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
    assert command("-m", "parity.report", folder / "fetched").status == 1


def test_the_same_job_is_not_run_again(job, head):
    folder, arguments, _ = job
    before = (folder / "run" / "run.json").stat().st_mtime_ns
    again = submitted(*arguments, **head.environment)
    assert again.status == 1
    assert again.stderr.endswith(" exists already and is FAILED; it is not run again\n")
    assert again.stdout == f"The run is at {folder}/run on the cluster's storage\n"
    assert (folder / "run" / "run.json").stat().st_mtime_ns == before
    status = submitted(*arguments, "--status", **head.environment)
    assert status.status == 0
    assert status.stdout.endswith(f" FAILED with exit status 1; the run is at {folder}/run\n")


def test_a_fetch_leaves_no_job_behind(job, head):
    _, arguments, _ = job
    job_id = submitted(*arguments, "--status", **head.environment).stdout.split()[0]
    ended = submitted("--address", head.address, "--id", f"{job_id}-fetch", "--status", **head.environment)
    assert ended.status == 2
    assert f"has no job {job_id}-fetch" in ended.stderr


def test_a_wrong_or_missing_token_is_reported(head, tmp_path):
    wrong = head.environment | {"RAY_AUTH_TOKEN": "wrong"}
    ended = submitted("--address", head.address, "--out", "/x", timeout_s=30, **wrong)
    assert ended.status == 2
    assert f"The Ray cluster at {head.address} refused the token from RAY_AUTH_TOKEN. " in ended.stderr
    missing = head.environment | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")}
    ended = submitted("--address", head.address, "--out", "/x", timeout_s=30, **missing)
    assert ended.status == 2
    assert f"No token was found for the Ray cluster: {tmp_path}/gone does not exist." in ended.stderr
