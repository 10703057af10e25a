"""A text of any length, of a loss or of a run that somebody else stored, fills no report and no table."""

import json
import re
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parity import run
from parity.ground.quoting import MOST_SHOWN, MOST_STORED
from parity.judge.judging import judge
from parity.render import formats
from parity.render.page import html
from parity.store.stored_run import read_run
from parity.store.tables import CONTRACT, FINDINGS
from parity.store.trials import TRIALS

from conftest import warm_command

LOSSES = """
import torch
from torch.nn import functional


def raising(output, target):
    raise ValueError(f"strange: {output.tolist()}")  # 256 * 784 numbers


def narrow(output, target):
    if output.dtype == torch.float64:
        raise ValueError(f"the file of {output.tolist()}")
    return functional.mse_loss(output, target)


def nameless(output, target):
    if output.dtype == torch.float64:
        raise ValueError("the file \\udcff")
    return functional.mse_loss(output, target)


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def silent(output, target):
    raise Silent
"""
LEFT_OUT = re.compile(r"\[\.\.\. ([\d,]+) characters left out \.\.\.\]")
# Characters that a report may have beside the texts of a run with a few trials.
FRAME = 25_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a loss whose message holds a tensor, and what the command printed."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "losses.py").write_text(LOSSES)
    names = ("narrow", "builtin", "raising")
    losses = [name if name == "builtin" else f"{folder / 'losses.py'}:{name}" for name in names]
    out = folder / "out"
    arguments = ["--inline", "--device", "cpu", "--steps", "2", "--out", str(out), "--loss", *losses]
    # In a process of its own, since a fixture of a module cannot capture what is printed.
    ended = warm_command("-m", "parity.run", *arguments)
    assert ended.status == 1, ended.stderr
    return out, ended


def test_a_loss_that_raises_with_a_tensor_in_its_message_gives_a_report_of_some_kb(trained):
    out, ended = trained
    assert len(ended.stdout) < FRAME and len(ended.stderr) < FRAME
    assert "raised ValueError: strange: [[0." in " ".join(ended.stdout.split()).replace("- ", "")
    plotly = len(html._asset("plotly-cartesian.min.js"))
    assert len((out / "report.html").read_text()) - plotly < 400_000
    assert LEFT_OUT.search((out / "report.html").read_text())
    assert len((out / "summary.json").read_text()) < 2 * MOST_STORED + FRAME


def test_what_a_loss_raised_is_stored_with_both_ends_and_the_number_of_characters_between_them(trained):
    out, _ = trained
    trials = pd.read_parquet(out / "trials.parquet").set_index("loss_name")
    for name, end in (("error", "]]"), ("traceback", "]]\n")):
        text = trials.loc["raising", name]
        assert len(text) <= MOST_STORED + 100 and text.endswith(end)
        (count,) = LEFT_OUT.findall(text)
        # 256 rows of 784 numbers, each of some 20 characters.
        assert 256 * 784 * 15 < int(count.replace(",", "")) < 256 * 784 * 25
    assert trials.loc["raising", "traceback"].startswith("Traceback (most recent call last):\n")
    audit = trials.loc["builtin", "audit_error"]
    assert "in float64 it raised ValueError: the file of [[" in audit and len(audit) <= MOST_STORED
    assert len(LEFT_OUT.findall(audit)) == 1


def test_an_exception_that_cannot_be_printed_is_one_of_the_loss(tmp_path, capsys):
    (tmp_path / "losses.py").write_text(LOSSES)
    arguments = ["--inline", "--device", "cpu", "--steps", "2", "--out", str(tmp_path / "out"), "--loss", "builtin"]
    assert run.main([*arguments, f"{tmp_path / 'losses.py'}:silent"]) == 1
    said = "raised Silent: its message cannot be read, which raises RuntimeError"
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_reason_against_the_audit_that_is_no_unicode_is_stored(tmp_path, capsys):
    (tmp_path / "losses.py").write_text(LOSSES)
    arguments = ["--inline", "--device", "cpu", "--steps", "2", "--out", str(tmp_path / "out"), "--loss"]
    assert run.main([*arguments, f"{tmp_path / 'losses.py'}:nameless", "builtin"]) in (0, 3)
    assert "the file \\udcff" in pd.read_parquet(tmp_path / "out" / "trials.parquet").audit_error[1]


def replaced(path, **columns):
    """Puts other values into columns of a table."""
    table = pq.read_table(path)
    for name, values in columns.items():
        field = table.schema.field(name)
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        index = table.schema.get_field_index(name)
        table = table.set_column(index, field, pa.array(values, plain).cast(field.type))
    pq.write_table(table, path)


# Texts that are looked up in another place, so that a long one is another run: names, and words of a list.
KEYS = {"trial", "loss_name", "device", "trace", "status", "failure", "loss_dtype", "param_names"}
LONG = "<b>\x1b[31m& " * 30_000


def lengthened(directory):
    """Puts a text of 300 kB, with colours and markup in it, into all texts of a run that may have one."""
    trials = pq.read_table(directory / "trials.parquet")
    for field in TRIALS:
        if field.name in KEYS:
            continue
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if kind == pa.string():
            replaced(directory / "trials.parquet", **{field.name: [f"{field.name} {LONG}"] * len(trials)})
        elif kind == pa.list_(pa.string()) and field.name == "restarts":
            replaced(directory / "trials.parquet", **{field.name: [[LONG, LONG]] * len(trials)})
    name = trials["trial"][-1].as_py()
    contract = [{"trial": name, "item": LONG, "status": status, "reason": LONG} for status in ("failed", "passed")]
    pq.write_table(pa.Table.from_pylist(contract, CONTRACT), directory / "contract.parquet")
    finding = {"trial": name, "step": 0, "kind": "unknown", "value": None, "detail": LONG}
    pq.write_table(pa.Table.from_pylist([finding], FINDINGS), directory / "findings.parquet")
    info = json.loads((directory / "run.json").read_text())
    for key in ("task", "command", "folder", "host", "created"):
        info[key] = LONG
    info["versions"] = {"torch": LONG}
    (directory / "run.json").write_text(json.dumps(info))


@pytest.fixture(scope="module")
def stored(trained, tmp_path_factory):
    """A run as somebody else may have stored it."""
    directory = tmp_path_factory.mktemp("stored") / "out"
    shutil.copytree(trained[0], directory)
    lengthened(directory)
    return read_run(directory)


@pytest.mark.parametrize("form", formats.FORMATS)
def test_long_texts_of_a_stored_run_are_cut_in_every_format(stored, form):
    shown = formats.FORMATS[form](stored, judge(stored))
    assert LEFT_OUT.search(shown) and len(shown) < 40 * MOST_STORED
    assert "\x1b" not in shown


def test_long_texts_of_a_stored_run_are_cut_in_the_page(stored):
    plotly = len(html._asset("plotly-cartesian.min.js"))
    page = html.render(stored, judge(stored))
    assert LEFT_OUT.search(page) and len(page) - plotly < 60 * MOST_STORED


def test_a_text_is_cut_once_for_each_place_where_it_is_shown(stored):
    """The limit of a report is that of its texts, and not a share of their length."""
    text = formats.FORMATS["text"](stored, judge(stored))
    assert max(map(len, text.split())) < MOST_SHOWN
