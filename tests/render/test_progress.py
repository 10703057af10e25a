"""The lines that say how far the trials are, where there is no terminal."""

import pytest

from parity.render import progress
from parity.render.progress import MOST_BARS, TrialProgress


@pytest.fixture(autouse=True)
def _a_line_each_time(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1.0)


def printed(capsys):
    return [line.split(" s: ", 1)[1] for line in capsys.readouterr().err.splitlines()]


def test_few_trials_are_shown_one_by_one(capsys):
    with TrialProgress(["left", "right"], steps=10) as bars:
        bars.show("left", 0)
        bars.show("left", 4)
        bars.show("right", 2)
        bars.show("left", 10, state="complete")
    assert printed(capsys) == [
        "0 of 2 trials ended",
        "0 of 2 trials ended; left 4/10",
        "0 of 2 trials ended; left 4/10; right 2/10",
        "1 of 2 trials ended; right 2/10",
    ]


def test_many_trials_are_counted_together(capsys):
    names = [f"trial {number}" for number in range(MOST_BARS + 2)]
    with TrialProgress(names, steps=10) as bars:
        for name in names:
            bars.show(name, 3)
        bars.show(names[0], 10, state="failed")
    lines = printed(capsys)
    assert lines[-2:] == ["0 of 14 trials ended; 14 training", "1 of 14 trials ended; 13 training"]
    assert max(map(len, lines)) < 250


def test_a_trial_that_begins_again_is_no_progress(capsys):
    with TrialProgress(["left"], steps=10) as bars:
        bars.show("left", 4)
        bars.show("left", 0)
    assert printed(capsys)[-1] == "0 of 1 trials ended"


def test_names_are_no_markup(capsys):
    with TrialProgress(["[red]loss[/red]"], steps=10) as bars:
        bars.show("[red]loss[/red]", 4)
    assert printed(capsys) == ["0 of 1 trials ended; [red]loss[/red] 4/10"]


def test_the_time_that_is_left_is_that_of_all_trials(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with TrialProgress(["left", "right"], steps=100) as bars:
        bars.show("left", 1)
        now[0] = 104.0
        bars.show("left", 41)  # 40 steps in 4 s, and 159 to go
        bars.show("left", 41, state="failed")  # it takes no more steps
        bars.show("right", 100, state="complete")
    assert printed(capsys) == [
        "0 of 2 trials ended; left 1/100",
        "0 of 2 trials ended; left 41/100; about 16 s left",
        "1 of 2 trials ended; about 10 s left",
        "2 of 2 trials ended",
    ]
