"""A device that this machine lacks is told before anything is written; a run that needs it is left as it was."""

import sys

import pytest
import torch

import parity
from parity import run
from parity.cluster import starting
from parity.ground.errors import Trouble
from parity.train import switches
from parity.train.inline import Inline

SAID = f"torch {torch.__version__} sees no {{}} on this machine. Use --device cpu."
# The kind of GPU that may be in a machine of this system, and the one that never is.
HERE, ELSEWHERE = ("mps", "cuda") if sys.platform == "darwin" else ("cuda", "mps")


@pytest.fixture(autouse=True)
def _no_accelerator(monkeypatch):
    monkeypatch.setattr(switches, "available_accelerators", list)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def refuses(*_, **__):
    raise AssertionError("it was started")


@pytest.mark.parametrize("devices", [[HERE], ["cpu", HERE]])
def test_an_inline_run_on_a_missing_device_leaves_nothing(devices, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Inline, "train", refuses)
    out = tmp_path / "run"
    assert run.main(["--inline", "--device", *devices, "--steps", "1", "--out", str(out), "-q"]) == 2
    assert capsys.readouterr().err == f"parity: Device {HERE}: {SAID.format(HERE)}\n"
    assert [*tmp_path.iterdir()] == []


def test_a_check_on_a_missing_device_leaves_nothing(tmp_path):
    with pytest.raises(Trouble, match=f"Device {HERE}: torch .* sees no {HERE} on this machine"):
        parity.check("numpy", steps=1, device=HERE, out=tmp_path / "run")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("where", [["--inline"], [], ["--address", "local"]])
def test_a_device_of_another_system_is_told_before_torch_and_ray_are_asked(where, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(starting, "LocalRay", refuses)
    monkeypatch.setattr(switches, "require", refuses)
    out = tmp_path / "run"
    assert run.main([*where, "--device", "cpu", ELSEWHERE, "--out", str(out), "-q"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"parity: Device {ELSEWHERE}: {ELSEWHERE} is on ") and "Use --device cpu, or the" in said
    assert [*tmp_path.iterdir()] == []


def test_a_run_that_is_continued_without_its_device_is_left_as_it_was(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise Trouble("planted")

    out = tmp_path / "run"
    with monkeypatch.context() as there:
        there.setattr(switches, "available_accelerators", lambda: [HERE])
        there.setattr(Inline, "train", interrupted)
        assert run.main(["--inline", "--device", HERE, "--steps", "1", "--out", str(out), "-q"]) == 2
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert "run.json" in before
    capsys.readouterr()
    assert run.main(["--resume", str(out), "-q"]) == 2
    assert f"parity: Device {HERE}: {SAID.format(HERE)}\n" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
