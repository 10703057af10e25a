"""--resume: refused if it is not the same run, judged again if it is complete, continued if it is not."""

import hashlib
import json
import os
import shutil

import pandas as pd
import pytest

from parity import measuring, run
from parity.plan.options import make_parser
from parity.store import resume
from parity.store.directory import hold
from parity.store.gather import Gatherer
from parity.version import __version__

from conftest import bits

LOSS = """
from torch.nn import functional


def mine(output, target):
    return functional.mse_loss(output, target)
"""
# Files of a project whose loss imports a file beside it.
HELPED = {
    "mine.py": f"from helper import FACTOR\n{LOSS}".replace("(output, target)\n", "(output, target) * FACTOR\n"),
    "helper.py": "FACTOR = 1.0\n",
}


def inline_run(out, *arguments):
    return run.main(["--inline", "--device", "cpu", "--steps", "12", "--out", str(out), *map(str, arguments)])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Makes a project with these files, whose run of two losses Ctrl-C stopped once the first had ended.

    Each is trained once; it has the same place every time, since a run knows where its losses are.
    """
    made = {}
    genuine = Gatherer.take

    def stop(gatherer, events):
        genuine(gatherer, events)
        if len(gatherer.unfinished) == 1:
            raise KeyboardInterrupt

    def make(files):
        if tuple(files) not in made:
            folder = tmp_path_factory.mktemp("project")
            for name, text in files.items():
                (folder / name).write_text(text)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(Gatherer, "take", stop)
                assert inline_run(folder / "run", "--loss", "builtin", f"{folder / 'mine.py'}:mine") == 2
            kept = tmp_path_factory.mktemp("kept") / "project"
            made[tuple(files)] = folder, shutil.copytree(folder, kept)
        folder, kept = made[tuple(files)]
        shutil.rmtree(folder)
        return shutil.copytree(kept, folder)

    return make


@pytest.fixture
def project(request, stopped):
    """The folder of a loss and an interrupted run, and of a helper of the loss where a test asks for one."""
    return stopped(HELPED if "helped" in request.fixturenames else {"mine.py": LOSS})


@pytest.fixture
def loss(project):
    return project / "mine.py"


@pytest.fixture
def interrupted(project):
    return project / "run"


def resumed(out, *arguments):
    return run.main(["--resume", str(out), *map(str, arguments)])


def test_only_what_is_missing_is_trained(interrupted, tmp_path, loss):
    before = pd.read_parquet(interrupted / "trials.parquet")
    assert list(before.status) == ["complete", "planned"]
    assert resumed(interrupted) == 0
    after = pd.read_parquet(interrupted / "trials.parquet")
    assert list(after.status) == ["complete", "complete"]
    assert after.ended[0] == before.ended[0]
    assert inline_run(tmp_path / "undisturbed", "--loss", "builtin", f"{loss}:mine") == 0
    pd.testing.assert_frame_equal(bits(interrupted), bits(tmp_path / "undisturbed"), check_exact=True)
    assert json.loads((interrupted / "run.json").read_text())["state"] == "complete"
    names = {path.name for path in interrupted.iterdir()}
    assert names == {path.name for path in (tmp_path / "undisturbed").iterdir()}
    assert not {"journal", "states", "lock"} & names


def test_a_complete_run_is_judged_again_and_not_trained(interrupted, monkeypatch, capsys):
    assert resumed(interrupted) == 0
    first = (interrupted / "summary.json").read_bytes()
    (interrupted / "summary.json").unlink()
    monkeypatch.setattr("parity.train.inline.Inline.train", None)
    capsys.readouterr()
    assert resumed(interrupted) == 0
    assert (interrupted / "summary.json").read_bytes() == first
    assert "identical" in capsys.readouterr().out


def test_another_code_of_a_loss_is_refused(interrupted, loss, capsys):
    loss.write_text(LOSS.replace("mse_loss", "l1_loss"))
    whole = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    assert resumed(interrupted) == 2
    assert "not what the run was started with: the code of the loss mine (" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()} == whole


@pytest.fixture
def helped(project):
    """The file beside the loss, which imports it."""
    return project / "helper.py"


def test_another_file_beside_a_loss_is_refused_by_its_name(helped, interrupted, capsys):
    helped.write_text("FACTOR = 2.0\n")
    assert resumed(interrupted) == 2
    refused = "not what the run was started with: the code of the loss mine (helper.py, SHA-256 "
    assert refused in " ".join(capsys.readouterr().err.split())
    helped.unlink()
    assert resumed(interrupted) == 2
    assert "mine.py imports 'helper' in line 1, and there is no such module here." in capsys.readouterr().err
    helped.write_text("FACTOR = 1.0\n")
    assert resumed(interrupted) == 0


def test_a_run_of_an_earlier_version_says_nothing_of_files_beside_a_loss(helped, interrupted):
    info = json.loads((interrupted / "run.json").read_text())
    assert info.pop("parity_sha256")
    assert info["losses"]["mine"].pop("files") == {"helper.py": hashlib.sha256(helped.read_bytes()).hexdigest()}
    info["task_code"].pop("files")
    (interrupted / "run.json").write_text(json.dumps(info))
    assert resumed(interrupted) == 0


@pytest.mark.parametrize("name", ["folder", "trials", "versions", "task_code", "losses", "data_xxh3"])
def test_a_run_json_that_lacks_what_is_compared_is_damaged(interrupted, capsys, name):
    info = json.loads((interrupted / "run.json").read_text())
    assert info.pop(name)
    (interrupted / "run.json").write_text(json.dumps(info))
    assert resumed(interrupted) == 2
    said = f"parity: {interrupted}/run.json is damaged: it has no {name!r}. Restore it, or train again."
    assert said in " ".join(capsys.readouterr().err.split())


def test_another_commit_of_parity_is_refused(interrupted, monkeypatch, capsys):
    monkeypatch.setattr("parity.store.resume.package_sha256", lambda: "0" * 64)
    assert resumed(interrupted) == 2
    assert "the code of parity (the package, SHA-256 " in " ".join(capsys.readouterr().err.split())


def test_a_project_that_was_moved_is_continued(interrupted, tmp_path, loss, monkeypatch, capsys):
    """Each Ray job has its files in another folder."""
    path, info = interrupted / "run.json", json.loads((interrupted / "run.json").read_text())
    info["folder"] = str(tmp_path / "before")
    info["losses"]["mine"]["origin"] = str(tmp_path / "before" / "losses" / "mine.py")
    info["arguments"] = [text.replace(f"{loss}:", "losses/mine.py:") for text in info["arguments"]]
    path.write_text(json.dumps(info))
    moved = tmp_path / "now" / "losses" / "mine.py"
    moved.parent.mkdir(parents=True)
    moved.write_text(LOSS.replace("mse_loss", "l1_loss"))
    monkeypatch.chdir(tmp_path / "now")
    assert resumed(interrupted) == 2
    assert "not what the run was started with: the code of the loss mine (" in capsys.readouterr().err
    moved.write_text(LOSS)
    assert resumed(interrupted) == 0


def test_the_same_code_in_another_place_of_the_project_is_refused(interrupted, tmp_path, loss, capsys):
    """What it imports from beside itself may be another thing there."""
    genuine = json.loads((interrupted / "run.json").read_text())
    genuine["losses"]["mine"]["origin"] = str(tmp_path / "other" / "mine.py")
    (interrupted / "run.json").write_text(json.dumps(genuine))
    assert resumed(interrupted) == 2
    assert "not what the run was started with: the code of the loss mine (" in capsys.readouterr().err


def test_other_data_are_refused(interrupted, monkeypatch, capsys):
    genuine = measuring.load_task_data

    def other(task, root):
        data = dict(genuine(task, root))
        name = next(iter(data))
        data[name] = data[name].copy()
        data[name].reshape(-1)[-1] += 1
        return data

    monkeypatch.setattr(measuring, "load_task_data", other)
    assert resumed(interrupted) == 2
    assert "not what the run was started with: the data (" in capsys.readouterr().err


def test_another_version_is_refused(interrupted, monkeypatch, capsys):
    monkeypatch.setattr("parity.store.run_info.__version__", "99")
    assert resumed(interrupted) == 2
    assert f"the version of training-parity ({__version__} then, 99 now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", 13], "was started with --steps 12, not 13. Leave --steps out"),
        (["--loss", "numpy"], "not numpy. Leave --loss out"),
        (["--out", "elsewhere"], "continues in that directory, not in --out elsewhere. Leave --out out."),
    ],
)
def test_other_options_are_refused(interrupted, capsys, arguments, message):
    assert resumed(interrupted, *arguments) == 2
    assert message in capsys.readouterr().err


def test_an_option_with_its_default_is_another_one_too(interrupted, capsys):
    path = interrupted / "run.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"arguments": [*info["arguments"], "--lr", "0.01"]}))
    assert resumed(interrupted, "--lr", 0.001) == 2
    assert "was started with --lr 0.01, not 0.001. Leave --lr out, or start another run." in capsys.readouterr().err


def test_options_that_are_repeated_are_taken(interrupted):
    assert resumed(interrupted, "--steps", 12, "--inline", "--save-every", 3) == 0


def test_a_run_that_another_driver_uses_is_refused(interrupted, capsys):
    with hold(interrupted):
        assert resumed(interrupted) == 2
    assert f"{interrupted} is in use by another driver." in capsys.readouterr().err
    assert resumed(interrupted) == 0


def test_what_is_not_a_run_is_reported(tmp_path, capsys):
    assert resumed(tmp_path / "nowhere") == 2
    assert f"{tmp_path / 'nowhere'} does not exist. Give the --out of a run." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_journal_is_reported_and_nothing_is_lost(interrupted, capsys):
    path = interrupted / "journal"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    assert resumed(interrupted) == 2
    assert f"{path} is damaged at byte " in capsys.readouterr().err
    assert path.read_bytes() == damaged
    path.write_bytes(whole)
    assert resumed(interrupted) == 0


def test_a_missing_journal_is_reported(interrupted, capsys):
    """The tables of an interrupted run exist, but not what they were made from: nothing is written over them."""
    (interrupted / "journal").unlink()
    before = (interrupted / "trials.parquet").read_bytes()
    assert resumed(interrupted) == 2
    assert f"{interrupted / 'journal'} is missing" in capsys.readouterr().err
    assert (interrupted / "trials.parquet").read_bytes() == before


def test_a_fingerprint_sees_dtype_shape_and_each_byte(make_trials, data):
    trials = make_trials()
    first = resume.fingerprint(trials, data)["data_xxh3"]
    name, array = next(iter(data.items()))
    others = [array.reshape(-1), array.view("int8"), array.copy()]
    others[2].reshape(-1)[-1] ^= 1
    assert len({first, *(resume.fingerprint(trials, data | {name: other})["data_xxh3"] for other in others)}) == 4


def test_a_run_that_was_moved_is_resumed(interrupted, tmp_path, monkeypatch):
    """Losses that were given by absolute path are found from anywhere."""
    os.chdir(tmp_path)
    moved = shutil.move(interrupted, tmp_path / "moved")
    assert resumed(moved) == 0


@pytest.mark.parametrize(
    ("stored", "given", "environment", "found"),
    [
        ({"address": "10.0.0.1:6379"}, [], None, "10.0.0.1:6379"),
        ({"address": "10.0.0.1:6379"}, ["--address", "other:1"], None, "other:1"),
        ({"address": "10.0.0.1:6379"}, ["--address", "local"], None, "local"),
        # That of the cluster that a Ray job runs on.
        ({"address": "10.0.0.1:6379"}, [], "here:2", None),
        (None, [], None, None),
    ],
)
def test_the_cluster_is_the_one_that_the_run_was_on(interrupted, monkeypatch, stored, given, environment, found):
    path = interrupted / "run.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | ({"cluster": stored} if stored else {})))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    arguments = ["--resume", str(interrupted), *given]
    with resume.reopen(make_parser().parse_args(arguments), arguments, make_parser()) as started:
        assert started.options.address == found


def test_an_address_that_an_earlier_version_was_given_is_found(interrupted):
    path = interrupted / "run.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"arguments": [*info["arguments"], "--address", "10.0.0.1:6379"]}))
    arguments = ["--resume", str(interrupted)]
    with resume.reopen(make_parser().parse_args(arguments), arguments, make_parser()) as started:
        assert started.options.address == "10.0.0.1:6379"
