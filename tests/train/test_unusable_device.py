"""A loss that makes a GPU unusable fails for it, and no other loss is blamed. Without a GPU: torch's answer is set.

What torch says is that of an H200 on which a loss had asked for a class that there is not.
"""

import pytest

from parity.ground.errors import TrialFailed, Trouble
from parity.store.events import Began, Ended, Found
from parity.train import switches
from parity.train.inline import Inline
from parity.train.loop import train

SAID = "CUDA error: device-side assert triggered"
LOSS = f"""
import torch
calls = 0
def asserting(output, target):
    global calls
    calls += 1
    if calls > {{after}}:
        raise RuntimeError("{SAID}")
    return ((output - target) ** 2).mean()
"""


@pytest.fixture
def broken(monkeypatch):
    """From the call on, nothing more can be asked of the device."""
    found = []
    for module in ("loop.unusable", "switches.unusable"):
        monkeypatch.setattr(f"parity.train.{module}", lambda device: SAID if found else None)
    return found


def loss_that_breaks(tmp_path, after):
    path = tmp_path / "mine.py"
    path.write_text(LOSS.format(after=after))
    return f"{path}:asserting"


def test_the_rows_that_are_still_on_the_device_are_not_asked_for(data, make_trials, tmp_path, broken):
    trial = make_trials("builtin", loss_that_breaks(tmp_path, 2))[1]
    rows, chunks = 0, train(trial, data, chunk_s=60)
    with pytest.raises(TrialFailed, match=SAID) as failed:
        for chunk in chunks:
            rows += len(chunk.table)
            broken.append(True)
    # The first step is a chunk of its own, the second one was in the observer's buffers.
    assert (failed.value.step, rows) == (2, 1)


def test_a_loss_that_breaks_the_device_in_its_contract_is_blamed_and_not_the_model(data, make_trials, tmp_path, broken):
    trial = make_trials("builtin", loss_that_breaks(tmp_path, 0))[1]
    events = []
    for (event,) in Inline().train([trial], data):
        events.append(event)
        if isinstance(event, Began):
            broken.append(True)
    assert [type(event) for event in events] == [Began, Found, Ended]
    assert (events[-1].status, events[-1].failed_step) == ("failed", None)
    assert events[-1].error == f"the loss has made the device unusable while its contract was checked: {SAID}"


def test_the_trials_after_it_are_not_trained_in_that_process(data, make_trials, tmp_path, broken):
    first, second, third = make_trials("builtin", loss_that_breaks(tmp_path, 0), "numpy")
    ended = []
    with pytest.raises(Trouble) as trouble:
        for (event,) in Inline().train([first, second, third], data):
            if isinstance(event, Ended):
                ended.append((event.trial, event.status))
            if isinstance(event, Began) and event.trial == second.name:
                broken.append(True)
    assert ended == [(first.name, "complete"), (second.name, "failed")]
    assert str(trouble.value) == (
        f"{second.name} has made its device unusable for this process: {SAID}. {third.name} needs another one: "
        "leave out --inline, and each trial has a process of its own, or go on with --resume."
    )


def test_a_cpu_is_always_usable_and_torchs_first_line_is_what_is_said(make_trials, monkeypatch):
    from parity.plan.device import Device

    assert switches.unusable(Device("cpu")) is None

    def raises():
        raise RuntimeError(f"{SAID}\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.")

    monkeypatch.setattr(switches.torch.accelerator, "synchronize", raises)
    assert switches.unusable(Device("cuda")) == SAID
