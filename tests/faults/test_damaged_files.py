"""A few of the damages of benchmarks/fuzz.py: each is reported, or makes no difference."""

import pytest

from benchmarks import fuzz

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return fuzz.make_runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("seed", [1, 788])
def test_no_damage_gives_a_traceback_or_another_verdict(runs, capsys, seed):
    counts = fuzz.campaign(runs, seed=seed, rounds=50)
    assert not any(kind == "WRONG" for _, kind in counts), capsys.readouterr().out
    assert {kind for _, kind in counts} == {"refused", "as before", "named"}


def test_no_number_of_rows_gives_a_traceback_or_another_verdict(runs, capsys):
    counts = fuzz.sweep(runs["diverged"], ["rows"])
    assert not counts["diverged", "WRONG"], capsys.readouterr().out
    assert {kind for _, kind in counts} == {"refused", "named"}


def test_a_trace_that_is_gone_is_told_of_an_interrupted_trial_too(runs, copy_of):
    directory = copy_of(runs["interrupted"])
    (path,) = (directory / "traces").glob("*numpy*")
    path.unlink()
    with pytest.raises(fuzz.Trouble) as caught:
        fuzz.reported(directory)
    assert str(caught.value) == f"{path} is missing: the run directory is damaged."


def test_a_wrong_verdict_would_be_seen(runs, monkeypatch, capsys):
    """As if a damage were read over, and another report came of it."""
    genuine, reported = fuzz.attempt, fuzz.reported

    def attempt(*arguments):
        monkeypatch.setattr(fuzz, "reported", lambda directory: "other")
        return genuine(*arguments)

    monkeypatch.setattr(fuzz, "attempt", attempt)
    # What a sound file of a run without a seal says is what is known.
    sealed = {name: directory for name, directory in runs.items() if name != "interrupted"}
    counts = fuzz.campaign(sealed, seed=0, rounds=5)
    monkeypatch.setattr(fuzz, "reported", reported)
    assert sum(count for (_, kind), count in counts.items() if kind == "WRONG") == 5
    assert "round 4, " in capsys.readouterr().out
