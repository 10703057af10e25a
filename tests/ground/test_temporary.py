"""What a killed driver leaves in the temporary folder is removed by the next driver, and nothing else is."""

import os
import subprocess
import sys
import tempfile
import time

import pytest

from parity.ground import temporary
from parity.ground.temporary import remove_left, temporary_folder

from conftest import ROOT

HOLD = """
from parity.ground.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "token").write_text("planted")
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def holder():
    """Another process that holds a folder, and that folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process, temporary.Path(process.stdout.readline().strip())
        process.kill()


def aged(folder):
    old = time.time() - temporary.YOUNG_S - 1
    os.utime(folder / temporary.LOCK, (old, old))


def test_a_folder_is_private_and_gone_with_its_block():
    with temporary_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_what_a_killed_driver_left_is_removed_by_the_next(holder):
    process, folder = holder
    aged(folder)
    with temporary_folder():
        assert (folder / "token").exists()  # it is in use
    process.kill()
    process.wait()
    assert (folder / "token").exists()
    with temporary_folder():
        assert not folder.exists()


def test_a_young_folder_may_be_about_to_be_held(holder):
    process, folder = holder
    process.kill()
    process.wait()
    remove_left()
    assert folder.exists()


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "parity-notes").mkdir()
    (tmp_path / "parity-notes" / "mine.txt").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / temporary.LOCK).write_text("")
    aged(tmp_path / "other")
    remove_left()
    assert (tmp_path / "parity-notes" / "mine.txt").exists()
    assert (tmp_path / "other").exists()
