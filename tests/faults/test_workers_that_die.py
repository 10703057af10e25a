"""A worker that dies or hangs changes no bit of its trial; if it does so each time, only its own loss is blamed."""

import json

import pandas as pd
import pytest

from parity.cluster.last_words import NOTHING_NOTED

from conftest import parity_command

pytestmark = [pytest.mark.ray, pytest.mark.kills]
LOSSES = "tests/faults/dying_losses.py"
EARLIER = "an earlier worker of this trial was lost as well"


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run with all of these losses: its directory, and how it ended."""
    folder = tmp_path_factory.mktemp("dying")
    out = folder / "run"
    losses = ["builtin", *(f"{LOSSES}:{name}" for name in ("KilledOnce", "Crashing", "Hanging"))]
    losses.append("tests/wrong_losses.py:killing")
    finished = parity_command(
        *("parity.run", "--device", "cpu", "--steps", 30, "--audit-every", 10, "--loss", *losses),
        *("--save-every", 0.1, "--step-timeout", 15, "--out", out),
        PLANTED_FOLDER=str(folder),
    )
    return out, finished


@pytest.fixture(scope="module")
def trials(ended):
    return pd.read_parquet(ended[0] / "trials.parquet").set_index("loss_name")


def verdicts(out):
    return {pair["candidate_loss"]: pair["verdict"] for pair in json.loads((out / "summary.json").read_text())["pairs"]}


def test_a_loss_whose_worker_was_lost_once_is_not_blamed(ended, trials):
    assert ended[1].status == 1, ended[1].stderr
    assert verdicts(ended[0]) == {
        "KilledOnce": "identical",
        "Crashing": "failed",
        "Hanging": "failed",
        "killing": "failed",
    }
    assert list(trials.attempts) == [1, 2, 2, 2, 2]
    assert "its worker process ended without a message, as after SIGKILL" in trials.restarts["KilledOnce"][0]


def test_a_trial_continues_from_its_state_and_not_from_step_0(trials):
    for name in ("KilledOnce", "Crashing", "Hanging"):
        step = int(trials.restarts[name][0].split(" step ")[1].split(":")[0])
        assert 0 < step < 20


def test_why_a_trial_failed_is_reported(ended, trials):
    assert (trials.failure["Crashing"], trials.failure["Hanging"]) == ("died", "hung")
    assert trials.error["Crashing"] == f"its worker process died of SIGSEGV; {EARLIER}"
    assert trials.error["killing"] == f"its worker process ended {NOTHING_NOTED}; {EARLIER}"
    assert trials.error["Hanging"] == f"it finished no step for 15 s; {EARLIER}"
    for name in ("Crashing", "Hanging"):
        assert trials.error[name] in " ".join(ended[1].stdout.split())
        trace = pd.read_parquet(ended[0] / "traces" / trials.trace[name])
        assert list(trace["step"]) == list(range(len(trace)))
        assert 0 < len(trace) < 20
