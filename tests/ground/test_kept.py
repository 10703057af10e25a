"""Where checks that did not pass keep their runs."""

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from parity.ground.kept import DAYS, keep_folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"parity-checks-{os.getuid()}"


def test_each_is_new_and_of_this_user_alone(place):
    folders = [keep_folder("a/loss <of> mine ü" * 20) for _ in range(3)]
    assert len(set(folders)) == 3 and {folder.parent for folder in folders} == {place}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (place, *folders)} == {0o700}
    assert all("a-loss-of-mine" in folder.name and len(folder.name) < 80 for folder in folders)


def test_a_name_without_letters_is_one_too(place):
    assert "-check-" in keep_folder("<>").name


def test_those_of_last_week_are_removed_and_no_others(place):
    old, young = keep_folder("old"), keep_folder("young")
    (old / "report.html").touch()
    for folder, days in ((old, DAYS + 1), (young, DAYS - 1)):
        os.utime(folder, (time.time() - days * 86_400,) * 2)
    keep_folder("new")
    assert (old.exists(), young.exists()) == (False, True)


def test_a_link_of_somebody_else_is_not_followed(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    folder = keep_folder("mine")
    # Nothing is left in the temporary folder once the caller has removed it.
    assert folder.parent == tmp_path and "-mine-" in folder.name and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [*Path(tmp_path / "elsewhere").iterdir()] == []
