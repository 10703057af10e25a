"""Where a recording goes: nothing that is stored is lost or written over, and what is said about it."""

import pytest
import torch
from torch import nn

import parity
from parity.ground.errors import Trouble
from parity.store.free_directory import free_directory
from parity.store.stored_run import read_info

pytestmark = pytest.mark.usefixtures("one_thread")


def record(out, *, error=None, **options):
    """Records one step, or none if an error is raised."""
    model = nn.Linear(2, 1)
    with parity.Recorder(out, model, **options) as recorder:
        if error:
            raise error
        output = model(torch.ones(3, 2))
        loss = output.sum()
        recorder.forward(torch.ones(3, 2), output=output, target=torch.ones(1), loss=loss)
        loss.backward()
        recorder.backward()
        recorder.step()


def content(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def steps(directory):
    return read_info(directory)["steps"]


def test_a_second_recording_gets_a_folder_of_its_own_and_both_say_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record("runs/mine", quiet=False)
    assert (
        capsys.readouterr().err == "parity: 1 step recorded in runs/mine. Compare:\n  parity report OTHER runs/mine\n"
    )
    before = content(tmp_path / "runs" / "mine")
    record("runs/mine", quiet=False)
    assert capsys.readouterr().err.splitlines() == [
        "parity: runs/mine holds a run already; recording in runs/mine-2",
        "parity: 1 step recorded in runs/mine-2. Compare:",
        "  parity report runs/mine runs/mine-2",
    ]
    record("runs/mine")
    assert content(tmp_path / "runs" / "mine") == before
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["mine", "mine-2", "mine-3"]
    # Under pytest nothing is said unless it is asked for.
    assert capsys.readouterr().err == ""


def test_the_recording_that_is_overwritten_is_kept_until_the_new_one_is_complete(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record("mine")
    before = content(tmp_path / "mine")
    with pytest.raises(ArithmeticError):
        record("mine", error=ArithmeticError("no"), overwrite=True, quiet=False)
    said = capsys.readouterr().err
    assert "the recording in mine is kept in mine-replaced until the new one is complete" in said
    assert "the loop raised ArithmeticError: no; 0 steps recorded in mine; the one before is in mine-replaced." in said
    assert content(tmp_path / "mine-replaced") == before and steps(tmp_path / "mine") == 0
    record("mine", overwrite=True)
    # The failed one is gone, the complete one is not.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine-replaced"]
    assert content(tmp_path / "mine-replaced") == before and steps(tmp_path / "mine") == 1


def test_a_recording_without_a_step_replaces_none(tmp_path, capsys):
    record(tmp_path / "mine")
    parity.Recorder(tmp_path / "mine", nn.Linear(1, 1), overwrite=True, quiet=False).close()
    assert f"0 steps recorded in {tmp_path / 'mine'}; the one before is in" in capsys.readouterr().err
    assert steps(tmp_path / "mine-replaced") == 1


def test_a_recording_without_a_step_has_nothing_to_compare(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recorder = parity.Recorder("mine", nn.Linear(1, 1), quiet=False)
    with pytest.warns(RuntimeWarning, match="without forward"):
        recorder.backward()
    recorder.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("call that between the loss and its backward; 0 steps recorded in mine.")


def test_a_recording_that_does_not_begin_says_where_the_one_before_is(tmp_path, monkeypatch, capsys):
    record(tmp_path / "mine")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("parity.recorder.write_json", full)
    with pytest.raises(OSError, match="no space left"):
        record(tmp_path / "mine", overwrite=True, quiet=False)
    assert f"is kept in {tmp_path / 'mine-replaced'} until" in capsys.readouterr().err


def test_the_working_directory_and_links_are_not_overwritten(tmp_path, monkeypatch):
    record(tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    before = content(tmp_path / "mine")
    with pytest.raises(Trouble, match="link is a symbolic link, which is not overwritten"):
        record(tmp_path / "link", overwrite=True)
    monkeypatch.chdir(tmp_path / "mine")
    for out in (".", tmp_path / "mine"):
        with pytest.raises(Trouble, match="holds the working directory, and is not overwritten"):
            record(out, overwrite=True)
    record(".")
    assert content(tmp_path / "mine") == before and steps(tmp_path / "mine-2") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "mine", "mine-2"]


def test_overwrite_needs_nothing_to_replace(tmp_path):
    record(tmp_path / "mine", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def ranks(folder):
    (folder / "rank-0").mkdir(parents=True)
    (folder / "rank-0" / "run.json").write_text("{}")


def other_run(folder):
    record(folder)
    path = folder / "run.json"
    path.write_text(path.read_text().replace('"recorded":', '"other":'))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (ranks, "holds the recordings of several ranks, which are not overwritten. Choose another out, or remove it."),
        (other_run, "holds a run that is not a recording, and is not overwritten. Choose another out."),
    ],
)
def test_what_is_no_recording_is_not_overwritten(tmp_path, made, message):
    made(tmp_path / "mine")
    before = content(tmp_path / "mine")
    with pytest.raises(Trouble) as trouble:
        record(tmp_path / "mine", overwrite=True)
    assert str(trouble.value) == f"{tmp_path / 'mine'} {message}"
    assert content(tmp_path / "mine") == before
    record(tmp_path / "mine")
    assert (tmp_path / "mine-2" / "run.json").exists()


def test_a_recording_that_is_still_written_is_not_taken_away(tmp_path):
    with parity.Recorder(tmp_path / "mine", nn.Linear(1, 1)), pytest.raises(Trouble, match="in use by another"):
        parity.Recorder(tmp_path / "mine", nn.Linear(1, 1), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "photo").touch()
    for overwrite in (False, True):
        with pytest.raises(Trouble) as trouble:
            record(tmp_path, overwrite=overwrite)
        assert str(trouble.value) == f"{tmp_path} already exists. Choose another out, a new directory."
    with pytest.raises(Trouble, match="out is empty"):
        record("")


def test_names_with_dots_are_numbered_at_their_end(tmp_path):
    ranks(tmp_path / "v1.2")
    assert free_directory(tmp_path / "v1.2") == tmp_path / "v1.2-2"
