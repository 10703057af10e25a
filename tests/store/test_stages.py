"""What the trials are at: told by their events, whichever trial is first."""

import time

import pytest

from parity.ground import phases
from parity.store.events import Advanced, Began, Ended
from parity.store.stages import Stages


def test_workers_contract_and_training_follow_from_the_events(monkeypatch, make_trials):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first, second = make_trials("builtin", "numpy")
    assert second.contract and not first.contract
    phases.begin(process=False, quiet=True)
    phases.enter("workers")
    stages = Stages([first, second])
    told = [
        (2.0, Began(first.name, {})),
        (3.0, Advanced(first.name, b"", 0, 1, {})),
        (4.0, Began(second.name, {})),
        (6.0, Advanced(second.name, b"", 0, 1, {})),
        (8.0, Ended(first.name, status="complete")),
    ]
    for second_s, event in told:
        now[0] = 1000.0 + second_s
        stages.take([event])
    found = {line.split()[0]: line.split()[1:6:2] for line in phases.table()[1:]}
    assert {name: [float(each) for each in times] for name, times in found.items()} == {
        "imports": [0.0, 0.0, 0.0],
        "workers": [0.0, 2.0, 2.0],
        # The second trial's goes on beside the training of the first.
        "contract": [2.0, 6.0, 1.0],
        "training": [3.0, 8.0, 5.0],
    }


@pytest.mark.parametrize("events", [[Began("builtin@cpu-s0", {})], [Advanced("builtin@cpu-s0", b"", 0, 1, {})]])
def test_a_later_stage_is_never_left_for_an_earlier_one(events, make_trials):
    phases.begin(process=False, quiet=True)
    stages = Stages(make_trials())
    stages.take([Advanced("builtin@cpu-s0", b"", 0, 1, {})])
    stages.take(events)
    assert phases._clock.now == "training"
