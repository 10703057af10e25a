"""A current folder that was removed: each command says so, with exit status 2 and without a traceback."""

import re
import sys

import pytest
import torch

import parity
from parity.__main__ import main
from parity.ground.errors import Trouble

WORDS = 'The current folder was removed. Change to a folder that exists (cd "$PWD" if it was created again), and'


@pytest.fixture
def removed(tmp_path, monkeypatch):
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    # As the script `parity` has it, which would put the folder there.
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])


@pytest.mark.parametrize(
    "given",
    [
        ["report", "runs/first"],
        ["check", "mine.py:mine"],
        ["run", "--inline", "--steps", "1"],
        ["submit", "--address", "http://127.0.0.1:1", "--out", "/shared/run", "--loss", "mine.py:mine"],
    ],
    ids=lambda given: given[0],
)
def test_a_command_says_that_its_folder_was_removed(removed, capsys, given):
    assert main(given) == 2
    assert capsys.readouterr().err.endswith(f"parity: {WORDS} run the command again.\n")


def test_so_does_a_recorder(removed, tmp_path):
    with pytest.raises(Trouble, match=re.escape(WORDS)):
        parity.Recorder(tmp_path / "run", torch.nn.Linear(2, 1))
