"""Runs straight to an S3-compatible server on loopback: the guarantees are those of a local folder."""

import json
import os
import random
import signal
import time

import fsspec
import pandas as pd
import pytest
import s3fs
from upath import UPath

from benchmarks.s3_server import BUCKET, CLIENT, serve
from parity import run
from parity.report import main as report
from parity.store import lease, storage
from parity.store.storage import find
from parity.train import inline

from conftest import QUICK, bits

pytestmark = [pytest.mark.kills, pytest.mark.slow]
RUN = [*QUICK, "--steps", "120", "--audit-every", "40", "--save-every", "0.05"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run, in a local folder."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run.main([*RUN, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def server():
    with serve() as server:
        yield server


@pytest.fixture
def bucket(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    # Was read when fsspec was imported; and a filesystem is made once, with what the environment was then.
    monkeypatch.setitem(fsspec.config.conf, "s3", CLIENT)
    s3fs.S3FileSystem.clear_instance_cache()
    yield UPath(f"s3://{BUCKET}", use_listings_cache=False)
    server.faults.share, server.faults.gone = 0.0, False
    s3fs.S3FileSystem.clear_instance_cache()


def assert_same(out, undisturbed):
    pd.testing.assert_frame_equal(bits(out), bits(undisturbed), check_exact=True)
    assert find(out, "") == find(undisturbed, "")
    verdicts = [json.loads(storage.read(each / "summary.json")) for each in (out, undisturbed)]
    assert verdicts[0] == verdicts[1]


def test_a_driver_that_is_killed_is_followed_by_another(
    bucket, server, undisturbed, driver_process, capsys, monkeypatch
):
    out = bucket / "killed"
    written, genuine = [], server.faults.application

    def watching(environ, start_response):
        if environ["REQUEST_METHOD"] == "PUT":
            written.append(environ["PATH_INFO"])
            # What is written behind a state makes it count. From then on the driver gets no answer, and waits.
            if "/journal/" in written[-1] and any(path.endswith(".state") for path in written):
                server.faults.gone = True
        return genuine(environ, start_response)

    monkeypatch.setattr(server.faults, "application", watching)
    with driver_process(*RUN, "--out", out) as (waiting, process):
        end = time.monotonic() + 60
        while not server.faults.gone:
            assert waiting.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    server.faults.application, server.faults.gone = genuine, False
    kept = set(find(out, ""))
    assert {"run.json", "lock/0"} < kept and "trials.parquet" not in kept
    assert report([str(out)]) == 2
    assert f"{out} has no tables yet" in capsys.readouterr().err
    assert run.main(["--resume", str(out)]) == 0
    assert_same(out, undisturbed)
    (restart,) = pd.read_parquet(str(out / "trials.parquet"))["restarts"].explode().dropna()
    assert " step 0:" not in restart and "the driver was ended" in restart
    printed = capsys.readouterr().out
    assert report([str(out)]) == 0
    shown = f"{capsys.readouterr().out} Stored in {out}; report: {out}/report.html"
    assert printed.split() == shown.split()


def test_a_run_that_another_driver_has_is_refused(bucket, driver_process, capsys):
    out = bucket / "held"
    # The first takes 10 steps a second, and is interrupted in training.
    slow = ("--loss", "tests/hosts/slow_loss.py:slow", "--steps", 900)
    with driver_process(*RUN, *slow, "--out", out) as (first, process):
        end = time.monotonic() + 60
        while not find(out, "run.json"):
            assert first.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        assert run.main(["--resume", str(out)]) == 2
        assert first.poll() is None
        process.send_signal(signal.SIGINT)
        first.communicate(timeout=60)
    assert f"parity: {out} is in use by another driver, on " in capsys.readouterr().err
    assert first.returncode == 2 and not [name for name in find(out, "") if name.startswith("lock")]


def test_a_store_that_errs_loses_answers_and_is_silent_changes_no_bit(bucket, server, undisturbed, capsys):
    server.faults.share, server.faults.chosen = 0.1, random.Random(5)
    failed = server.faults.failed.copy()
    assert run.main([*RUN, "--out", str(bucket / "erring")]) == 0
    server.faults.share = 0.0
    assert set(server.faults.failed - failed) == {"refused", "answer lost", "silent"}
    assert "trying again in 0.5 s" in capsys.readouterr().err
    assert_same(bucket / "erring", undisturbed)


def test_the_lease_of_a_run_that_has_ended_is_released_though_the_store_errs(bucket, server, monkeypatch):
    folder = bucket / "released" / "lock"
    refused, genuine = [], server.faults.application

    def refusing_once(environ, start_response):
        if environ["REQUEST_METHOD"] not in ("DELETE", "POST") or refused:
            return genuine(environ, start_response)
        refused.append(environ["PATH_INFO"])
        start_response("503 Slow Down", [("Content-Length", "0")])
        return [b""]

    with lease.lease(folder):
        assert storage.names(folder) == ["0"]
        monkeypatch.setattr(server.faults, "application", refusing_once)
    assert len(refused) == 1 and storage.names(folder) == []


def test_what_was_told_before_the_store_was_gone_is_kept(bucket, server, undisturbed, capsys, monkeypatch):
    out = bucket / "gone"
    monkeypatch.setattr(storage, "PATIENCE_S", 0.1)
    monkeypatch.setattr(storage, "FIRST_PATIENCE_S", 0.1)
    genuine = inline.Inline.train

    def train(*arguments, **options):
        for number, events in enumerate(genuine(*arguments, **options)):
            server.faults.gone = number == 6
            yield events

    with monkeypatch.context() as patched:
        patched.setattr(inline.Inline, "train", train)
        assert run.main([*RUN, "--out", str(out)]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith(f"parity: {out}/") and "cannot be written" in shown
    assert shown.endswith(f"What was trained is kept: continue it with --resume {out}.")
    server.faults.gone = False
    monkeypatch.setattr(lease, "GONE_S", 1.0)  # it could not be let go of, and this process goes on
    assert run.main(["--resume", str(out)]) == 0
    assert_same(out, undisturbed)


def test_a_damaged_segment_is_named_and_nothing_is_changed(bucket, capsys, monkeypatch):
    out = bucket / "damaged"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("parity.store.gather.Gatherer.write_tables", stop)
        assert run.main([*RUN, "--steps", "30", "--out", str(out)]) == 2
    segment = out / find(out, "")[3]
    assert segment.parent.name == "journal"
    whole = segment.read_bytes()
    for damaged in (whole[:-9], bytes([*whole[:-1], whole[-1] ^ 1]), None):
        segment.unlink()
        if damaged is not None:
            segment.write_bytes(damaged)
        before = {name: (out / name).read_bytes() for name in find(out, "")}
        capsys.readouterr()
        assert run.main(["--resume", str(out)]) == 2
        assert f"parity: {out / 'journal'} is damaged" in capsys.readouterr().err
        assert {name: (out / name).read_bytes() for name in find(out, "")} == before
    segment.write_bytes(whole)
    assert run.main(["--resume", str(out)]) == 0


@pytest.mark.parametrize(
    ("out", "shown"),
    [
        ("s3://nowhere/run", "s3://nowhere/run/lock cannot be written (The specified bucket does not exist)."),
        ("s3://runs/there", "s3://runs/there already exists. Choose another --out, a new directory."),
    ],
)
def test_what_cannot_be_a_run_is_reported(bucket, capsys, out, shown):
    (bucket / "there" / "file").write_bytes(b"")
    assert run.main([*RUN, "--out", out]) == 2
    assert shown in capsys.readouterr().err
    assert find(bucket / "there", "") == ["file"]


def test_a_damaged_table_is_named(bucket, capsys):
    out = bucket / "altered"
    assert run.main([*RUN, "--steps", "4", "--out", str(out)]) == 0
    path = out / "trials.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    capsys.readouterr()
    assert report([str(out)]) == 2
    assert f"parity: {path} is damaged (" in capsys.readouterr().err
    assert not os.path.exists(str(out))  # noqa: PTH110 - no folder of that name was made here
