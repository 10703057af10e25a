"""`python -m parity` lists the commands that there are."""

import importlib.util
import re

import pytest

from parity.__main__ import COMMANDS, main

from conftest import command


def test_without_a_command_the_commands_are_listed_and_the_exit_status_is_2():
    ended = command("-m", "parity")
    assert (ended.status, ended.stdout, ended.stderr) == (2, "", COMMANDS)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed_to_stdout(option, capsys):
    assert main([option]) == 0
    assert capsys.readouterr().out == COMMANDS


def test_an_argument_does_not_run_anything(capsys):
    assert main(["run", "--steps", "1"]) == 2
    assert capsys.readouterr().err == COMMANDS


def test_every_listed_command_exists():
    listed = re.findall(r"^  python -m (parity\.\w+) ", COMMANDS, re.MULTILINE)
    assert len(listed) == 4
    assert all(importlib.util.find_spec(name) for name in listed)
