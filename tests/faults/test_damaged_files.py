"""A few of the damages of benchmarks/fuzz.py: each is told, or makes no difference."""

import pytest

from benchmarks import fuzz


@pytest.mark.parametrize("seed", [1, 788])
def test_no_damage_gives_a_traceback_or_another_verdict(tmp_path, capsys, seed):
    counts = fuzz.campaign(tmp_path, seed=seed, rounds=120)
    assert not any(kind == "WRONG" for _, kind in counts), capsys.readouterr().out
    assert {kind for _, kind in counts} == {"refused", "as before", "named"}


def test_a_trace_that_is_gone_is_told_of_an_interrupted_trial_too(tmp_path):
    directory = fuzz.make_runs(tmp_path)["interrupted"]
    (path,) = (directory / "traces").glob("*numpy*")
    path.unlink()
    with pytest.raises(fuzz.Trouble) as caught:
        fuzz.told(directory)
    assert str(caught.value) == f"{path} is missing: the run directory is damaged."


def test_a_wrong_verdict_would_be_seen(tmp_path, monkeypatch):
    """As if a damage were read over: every kind of run is told to be identical."""
    monkeypatch.setattr(fuzz, "told", lambda directory: "identical, diverged" if want else "other")
    want = [True]
    runs = dict.fromkeys(fuzz.LOSSES, tmp_path)
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr(fuzz, "make_runs", lambda folder: runs)
    genuine = fuzz.attempt

    def attempt(*arguments):
        want.clear()
        return genuine(*arguments)

    monkeypatch.setattr(fuzz, "attempt", attempt)
    monkeypatch.setattr(fuzz, "DAMAGES", (fuzz.cut,))
    counts = fuzz.campaign(tmp_path, seed=0, rounds=3)
    assert sum(count for (_, kind), count in counts.items() if kind == "WRONG") == 3
