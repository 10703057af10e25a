"""A command whose streams are closed, full or without a reader has the exit status that it has otherwise, or 2."""

import doctest
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from parity.ground import streams

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def parity(arguments, redirections, folder):
    """Runs a command of parity with a shell's redirections; returns its exit status and what it printed to stderr."""
    ended = subprocess.run(
        ["sh", "-c", f'exec "$0" -m parity {arguments} {redirections}', sys.executable],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        timeout=240,
    )
    return ended.returncode, ended.stderr


@needs_full
@pytest.mark.parametrize("arguments", ["--version", "--help", "columns"])
def test_stdout_on_a_full_disk_is_trouble_in_a_sentence(arguments, tmp_path):
    status, errors = parity(arguments, ">/dev/full", tmp_path)
    assert (status, errors) == (
        2,
        "parity: cannot write to stdout (No space left on device). What was stored is kept.\n",
    )


@pytest.mark.parametrize("arguments", ["--version", "columns"])
def test_a_closed_stdout_changes_nothing(arguments, tmp_path):
    assert parity(arguments, ">&-", tmp_path) == (0, "")


@needs_full
def test_a_run_that_nothing_can_be_printed_of_has_its_page(tmp_path):
    assert parity("run --inline --steps 2 --out one", ">/dev/full 2>/dev/full", tmp_path)[0] == 2
    assert (tmp_path / "one/report.html").exists()
    # Lines that nobody takes are no trouble by themselves.
    assert parity("report one", "2>/dev/full", tmp_path)[0] == 0


def test_a_run_whose_streams_are_closed_is_as_any_other(tmp_path):
    assert parity("run --inline --steps 2 --out one", ">&- 2>&- <&-", tmp_path)[0] == 0
    assert (tmp_path / "one/report.html").exists()


def test_trouble_that_cannot_be_printed_is_still_2(tmp_path):
    assert parity("report nowhere", "2>&-", tmp_path)[0] == 2


def test_a_reader_that_leaves_is_no_error(tmp_path):
    ended = subprocess.run(
        ["sh", "-c", '("$0" -m parity columns; echo "status $?" >&2) | true', sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert ended.stderr == "status 2\n"


def test_the_examples_are_true():
    tried = doctest.testmod(streams)
    assert (tried.failed, tried.attempted >= 1) == (0, True)


def test_a_report_is_printed_in_any_encoding(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def doubled(output, target):\n    return 2 * ((output - target) ** 2).mean()\n")
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    run = "run --inline --quiet --loss builtin mine.py:doubled --steps 2 --out mïne"
    assert parity(run, ">ascii", tmp_path) == (1, "")
    assert "2x too large" in (tmp_path / "ascii").read_text(encoding="ascii")
    for form in ("json", "junit", "markdown"):
        assert parity(f"report mïne --format {form}", f">{form}", tmp_path) == (1, "")
    assert json.loads((tmp_path / "json").read_text(encoding="utf-8"))["exit_status"] == 1
    assert "2×" in ElementTree.parse(tmp_path / "junit").find(".//failure").get("message")
    (tmp_path / "markdown").read_text(encoding="utf-8")
    # These encodings lack the characters that tables are drawn with.
    for encoding in ("latin-1", "cp1252"):
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
        assert parity("report mïne", f">{encoding}", tmp_path) == (1, "")
        assert "too large" in (tmp_path / encoding).read_text(encoding=encoding)


def test_an_error_without_a_number_is_not_one_of_stdout(monkeypatch):
    # As in a notebook; its `fileno` raises an OSError without a number, too.
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not streams.unprintable(OSError("libnone.so.12: cannot open shared object file"))
