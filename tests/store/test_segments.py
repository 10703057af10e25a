"""Segments: one file in pieces; a piece that is missing, or that another driver has written, is reported."""

import io

import pytest
from upath import UPath

from parity.ground.errors import Trouble
from parity.store import segments


@pytest.fixture
def folder(tmp_path):
    return UPath(f"memory://{tmp_path.name}/journal")


@pytest.fixture
def written(folder):
    """Writes segments of 1 to 300 bytes; returns all of them in one."""
    whole = b""
    for length in range(1, 301):
        segments.append(folder, len(whole), bytes([length % 251]) * length)
        whole += bytes([length % 251]) * length
    return whole


def fetched(folder):
    into = io.BytesIO()
    segments.fetch(folder, into)
    return into.getvalue()


def test_what_was_appended_is_fetched(folder, written):
    assert fetched(folder) == written


def test_an_empty_folder_gives_nothing(folder):
    assert fetched(folder) == b""


@pytest.mark.parametrize("which", [0, 63, 64, 150, 298])
def test_one_that_is_missing_is_reported(folder, written, which):
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[which]).unlink()
    with pytest.raises(Trouble) as caught:
        fetched(folder)
    message = f"{folder} is damaged: its segment {names[which]} is missing. Restore it, or train again."
    assert str(caught.value) == message


def test_of_two_drivers_one_continues(folder, written):
    segments.append(folder, len(written), b"first")
    with pytest.raises(Trouble) as caught:
        segments.append(folder, len(written), b"second")
    assert str(caught.value) == f"{folder} was written by another driver, which continues the run. This one stops."
    assert fetched(folder) == written + b"first"
