"""Names with quotes, spaces, newlines, markup, separators and other scripts break no path, no table and no report."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity import check, run
from parity.ground.errors import Trouble
from parity.plan.device import parse_device
from parity.plan.loss_spec import parse_losses
from parity.report import main as report
from parity.store.trace_files import trace_file

LOSS = """
from torch.nn import functional


def {name}(output, target):
    return functional.mse_loss(output, target)
"""
# Whatever may be typed, and more often what is special somewhere.
HOSTILE = st.text(st.sampled_from("ab/\\.:;,'\"[]<>&%$#@! \n\t\0=-_*?µ損é\u202e") | st.characters(), max_size=40)


@pytest.mark.parametrize("folder", ['it\'s "here"', "[bold red]<script>&amp;", "line\nbreak", "-x --損失;a%20b"])
def test_a_loss_in_a_file_of_any_name_is_trained_stored_and_told(tmp_path, capsys, folder):
    place = tmp_path / folder
    place.mkdir()
    losses = []
    for file in ("one.py", "two.py"):  # of the same attribute, so that the file's name is part of the loss's
        (place / f"{folder[:6]} {file}").write_text(LOSS.format(name="損失"), encoding="utf-8")
        losses.append(f"{place / f'{folder[:6]} {file}'}:損失")
    out = place / "out"
    arguments = ["--inline", "--device", "cpu", "--steps", "2", "--out", str(out), "--loss", "builtin", *losses]
    assert run.main(arguments) == 0
    printed = capsys.readouterr().out
    names = [pair["candidate_loss"] for pair in json.loads((out / "summary.json").read_text())["pairs"]]
    assert len(set(names)) == 2 and all(name.endswith(".損失") for name in names)
    assert set(pd.read_parquet(out / "traces")["loss_name"]) == {"builtin", *names}
    assert report([str(out)]) == 0
    shown = f"{capsys.readouterr().out} Stored in {out}; report: {out}/report.html"
    assert shown.split() == printed.split()
    for name in names:
        assert "".join(name.split()) in "".join(printed.split())
    assert run.main(["--resume", str(out)]) == 0


def test_an_exception_whose_words_are_no_unicode_is_stored_and_told(tmp_path, capsys):
    path = tmp_path / "raising.py"
    path.write_text("def raising(output, target):\n    raise ValueError('the file \\udcff.bin')\n")
    out = tmp_path / "run"
    arguments = ["--inline", "--device", "cpu", "--steps", "2", "--out", str(out), "--loss", "builtin"]
    assert run.main([*arguments, f"{path}:raising"]) == 1
    assert "ValueError: the file \\udcff.bin" in " ".join(capsys.readouterr().out.split())
    assert "the file \\udcff.bin" in pd.read_parquet(out / "trials.parquet").error[1]


def test_a_path_that_is_no_utf_8_is_told(tmp_path, capsys):
    assert run.main(["--inline", "--out", str(tmp_path / "caf\udce9")]) == 2
    assert "caf\\udce9' is not valid UTF-8, so it cannot be stored. Rename the file." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["folder", "loss", "out"])
def test_a_check_does_not_begin_where_a_name_is_no_utf_8(tmp_path, monkeypatch, place):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    (folder / "mine.py").write_text("def mine(output, target):\n    return ((output - target) ** 2).mean()\n")
    if place == "folder":
        monkeypatch.chdir(folder)
    loss = f"{folder}/mine.py:mine" if place == "loss" else "numpy"
    with pytest.raises(Trouble, match=r"caf\\udce9.* is not valid UTF-8, so it cannot be stored. Rename the file."):
        check(loss, steps=1, out=folder / "run" if place == "out" else None)
    assert [path.name for path in folder.iterdir()] == ["mine.py"]


def test_a_run_whose_name_is_no_utf_8_is_not_called_damaged(tmp_path, equal_pair, capsys):
    shutil.copytree(equal_pair, tmp_path / "caf\udce9")
    assert report([str(tmp_path / "caf\udce9")]) == 2
    assert "caf\\udce9' is not valid UTF-8, so it cannot be stored. Rename the file." in capsys.readouterr().err


@given(st.lists(HOSTILE, min_size=1, max_size=40, unique=True))
def test_a_trace_file_stays_in_its_folder(names):
    for index in range(len(names)):
        file = trace_file(index, names)
        assert file.isascii() and os.fspath(Path("traces") / file) == f"traces/{file}"
        assert len(file) < 200 and not file.startswith((".", "_")) and "/" not in file and "\\" not in file


@given(HOSTILE)
def test_a_device_of_any_name_is_parsed_or_told(text):
    try:
        device = parse_device(text)
    except Trouble as trouble:
        assert repr(text) in str(trouble)
    else:
        assert parse_device(device.name) == device


@given(st.lists(HOSTILE, min_size=1, max_size=3))
def test_losses_of_any_name_are_parsed_or_told(texts):
    try:
        specs = parse_losses(texts, shipped=("builtin", "numpy"))
    except Trouble as trouble:
        assert str(trouble)
    else:
        assert len({spec.name for spec in specs}) == len(texts)
