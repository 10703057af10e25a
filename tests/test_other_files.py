"""`parity.report` takes logs and checkpoints: what it prints, how it exits, and what it refuses."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from safetensors.torch import save_file

from parity import report

from conftest import command

EQUAL = "step,loss,lr\n0,8.0406999588012695,0.1\n1,7.5,0.1\n2,7.25,0.1\n"
OTHER = EQUAL.replace("8.0406999588012695", "8.0407009124755859")  # the next float32


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Logs and checkpoints, in the current folder."""
    monkeypatch.chdir(tmp_path)
    contents = {
        "a.csv": EQUAL,
        "b.csv": OTHER,
        "short.csv": EQUAL[:-11],
        "names.csv": EQUAL.replace("loss", "train/loss"),
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    weights = {"bias": torch.zeros(3), "weight": torch.ones(3, 3)}
    save_file(weights, tmp_path / "a.safetensors")
    save_file({**weights, "weight": weights["weight"] * 2}, tmp_path / "b.safetensors")
    torch.save(weights, tmp_path / "a.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("no checkpoint\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "first"),
    [
        ("a.csv a.csv", 0, "logs: identical"),
        ("a.csv b.csv", 1, "logs: differ"),
        ("a.csv b.csv --rtol 1.2e-7", 0, "logs: within"),
        ("a.csv b.csv --atol 1e-9", 1, "logs: differ"),
        ("a.csv b.csv --scalar lr", 0, "logs: identical"),
        ("a.csv short.csv", 3, "logs: undecided"),
        ("a.csv names.csv", 3, "logs: undecided"),
        ("a.csv names.csv --scalar loss=train/loss --scalar lr", 0, "logs: identical"),
        ("a.csv a.csv b.csv", 1, "logs: identical"),
        ("a.safetensors a.pt", 0, "checkpoints: identical"),
        ("a.safetensors b.safetensors", 1, "checkpoints: differ"),
        ("a.safetensors b.safetensors --atol 1", 0, "checkpoints: within"),
    ],
)
def test_exit_status_and_first_line(files, arguments, status, first, capsys):
    assert report.main(arguments.split()) == status
    out = capsys.readouterr().out
    assert out.splitlines()[0] == first
    assert all(len(line) <= 80 for line in out.splitlines())


def test_the_text_of_one_ulp(files, capsys):
    report.main(["a.csv", "b.csv"])
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "The logs differ. loss parts at step 0 by 1 ulp of float32; 1 of 3 steps differ; no other step differs." in out
    )
    assert "first step 0: 8.0407 and 8.040701, 1 ulp of float32 (absolute 9.54e-07, relative 1.19e-07)" in out
    assert "passes with --rtol 1.19e-07 or --atol 9.54e-07" in out
    assert "rounding or a fault" in out and ": rounding" not in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"w": torch.ones(3)}, "The only tensor is identical, bit for bit (12 bytes)."),
        ({str(n): torch.ones(3) for n in range(12)}, "All 12 tensors are identical, bit for bit (144 bytes)."),
        ({"epoch": 3}, "The only value is identical, bit for bit (0 bytes)."),
    ],
)
def test_the_sentence_of_equal_checkpoints(files, content, words, capsys):
    torch.save(content, files / "same.pt")
    assert report.main(["same.pt", "same.pt"]) == 0
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("a.safetensors", "b.safetensors")])
def test_the_other_formats(files, names, capsys):
    report.main([*names, "--format", "json"])
    content = json.loads(capsys.readouterr().out)
    assert (content["verdict"], content["exit_status"], content["baseline"]["path"]) == ("differ", 1, names[0])
    report.main([*names, "--format", "junit"])
    suites = ET.fromstring(capsys.readouterr().out)
    assert int(suites.get("failures")) == len(suites.findall(".//failure")) == 2  # the whole and its part
    report.main([*names, "--format", "markdown"])
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(capsys.readouterr().out)
    assert [each.type for each in tokens].count("table_open") == 1


def test_numbers_that_are_not_finite_are_strict_json(files, capsys):
    (files / "nan.csv").write_text(EQUAL.replace("7.5", "nan"))
    assert report.main(["a.csv", "nan.csv", "--format", "json"]) == 1
    content = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(text))
    assert content["scalars"][0]["first"]["candidate"] == "nan" and content["scalars"][0]["atol"] == "inf"
    assert report.main(["nan.csv", "nan.csv"]) == 0
    assert "loss has NaN at the same steps." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.csv", "a.csv is a log, and one alone has nothing to be compared with. Give two."),
        (
            "a.csv a.safetensors",
            "a.csv is a log, a.safetensors is a checkpoint. Give two runs, two logs or two checkpoints.",
        ),
        ("RUN a.csv", "a.csv is a log. Give two runs, two logs or two checkpoints."),
        ("a.csv b.csv --across", "--across is an option for runs, and these are not. Leave it out."),
        ("a.csv b.csv --html x.html", "--html is an option for runs, and these are not. Leave it out."),
        ("RUN --scalar loss", "--scalar is an option for logs and checkpoints, and these are runs. Leave it out."),
        ("RUN --rtol 0", "--rtol is an option for logs and checkpoints, and these are runs. Leave it out."),
        ("a.safetensors b.safetensors --scalar x", "--scalar chooses a scalar of two logs, and these are checkpoints."),
        ("a.csv b.csv --scalar los", "a.csv has no scalar 'los'. Did you mean 'loss'?"),
        ("a.csv missing", "a.csv is a log, missing does not exist. Give two runs, two logs or two checkpoints."),
        ("missing missing", "missing does not exist"),
        ("empty.pt a.pt", "empty.pt is empty, a.pt is a checkpoint. Give two runs, two logs or two checkpoints."),
        ("a.pt text.pt", "a.pt is a checkpoint, text.pt is neither a log nor a checkpoint. Give two runs, "),
        ("a.csv folder", "a.csv is a log, folder is a folder without a run, a log or a checkpoint. Give two runs, "),
        ("/dev/null a.pt", "/dev/null is not a regular file, a.pt is a checkpoint. Give two runs, "),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(files, arguments, message, equal_pair, capsys):
    assert report.main([str(equal_pair) if each == "RUN" else each for each in arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_numbers_whose_distance_no_float_holds_are_compared_without_a_warning(files, capsys):
    (files / "huge.csv").write_text("step,loss\n0,1e308\n1,0.5\n")
    (files / "low.csv").write_text("step,loss\n0,-1e308\n1,1\n")
    assert report.main(["huge.csv", "low.csv"]) == 1
    assert "1e+308 and -1e+308" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["nan", "-1", "inf", "x"])
def test_a_tolerance_is_a_number(files, text, capsys):
    assert report.main(["a.csv", "b.csv", "--rtol", text]) == 2
    assert "is not a finite number of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["40", "200"])
def test_narrow_and_wide_terminals(files, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    report.main(["a.csv", "b.csv"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= min(int(columns), 80)


def test_names_that_would_control_a_terminal_are_shown_as_text(files, capsys):
    (files / "odd.csv").write_text("step,lo\x1b[31mss\n0,1\n1,2\n2,3\n")
    (files / "other.csv").write_text("step,lo\x1b[31mss\n0,1\n1,2\n2,4\n")
    assert report.main(["odd.csv", "other.csv"]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_a_log_and_safetensors_need_no_torch(files):
    code = (
        "import sys; sys.modules['torch'] = None; from parity import report; "
        "sys.exit(report.main(sys.argv[1:3]) + report.main(sys.argv[3:]))"
    )
    ended = command("-c", code, *(files / name for name in ("a.csv", "a.csv", "a.safetensors", "a.safetensors")))
    assert (ended.status, ended.stderr) == (0, "")
    ended = command(
        "-c", "import sys; sys.modules['torch'] = None; " + code[12:], *(files / "a.pt", files / "a.pt") * 2
    )
    assert ended.status == 4 and "the package torch is not installed" in ended.stderr


def test_a_hundred_thousand_steps_and_a_late_ulp(files):
    """How fast it is stands in docs/how-to/compare-logs-and-checkpoints.md; a test has no clock."""
    values = np.linspace(8, 1, 100_000, dtype=np.float32)
    for name in ("long.csv", "planted.csv"):
        rows = "\n".join(f"{step},{value!r}" for step, value in enumerate(values.astype(np.float64).tolist()))
        (files / name).write_text(f"step,loss\n{rows}\n")
        values[99_999] = np.nextafter(values[99_999], np.float32(9))
    from parity.scalars.choosing import compare_logs
    from parity.scalars.reading import read_log

    found = compare_logs(read_log("long.csv"), read_log("planted.csv")).scalars[0]
    assert (found.steps, found.first.step, found.first.units, found.unit) == (100_000, 99_999, 1, "ulp of float32")
