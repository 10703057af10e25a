"""README says what the command does, and its commands are what CI runs."""

import re
from pathlib import Path

import pandas as pd
import pytest

from parity.plan.options import make_parser
from parity.store.trace import QUANTITIES

from conftest import command


@pytest.fixture
def readme():
    return Path("README.md").read_text(encoding="utf-8")


def test_every_option_is_in_the_readme(readme):
    options = [action.option_strings[-1] for action in make_parser()._actions]
    assert [option for option in options if option != "--help" and f"`{option}" not in readme] == []


def test_this_check_can_fail(readme):
    assert "`--speed" not in readme


def test_every_verdict_and_quantity_is_in_the_readme(readme):
    for word in ("identical", "report-only", "rounding", "diverged", "failed", "inconclusive", *QUANTITIES):
        assert f"`{word}`" in readme


def test_every_module_is_in_the_tree(readme):
    tree = readme[readme.index("## Develop") :]
    names = {path.name if path.suffix else f"{path.name}/" for path in Path("parity").iterdir()}
    names = {name for name in names if not name.startswith("__")}
    assert {name for name in names if f"  {name} " not in tree} == set()


def test_ci_runs_the_readmes_test_command(readme):
    pattern = re.search(r"grep -m1 '(.+)' README", Path(".ci/run").read_text())[1]
    commands = re.findall(pattern, readme, re.MULTILINE)
    assert commands == ['python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest']


def blocks(readme, language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    return [text for found, text in fenced if found == language]


def file_name(block):
    """The name of the file that a block is, or None."""
    found = re.match(r"# (\w+\.py)\n", block)
    return found and found[1]


def test_the_python_of_the_readme_runs(readme, reference, capsys):
    """On the reference run, in the place of the runs that README makes; test_questions has the section of questions."""
    before, _, after = readme.partition("## Ask the files")
    for block in blocks(before + after[after.index("\n## ") :], "python"):
        if file_name(block):  # has a test of its own
            continue
        exec(block.replace("runs/first", str(reference)).replace("runs/adam", str(reference)), {})
    out = capsys.readouterr().out
    assert "grad_error_u double ||g - g64||" in out
    assert "loss_rel" in out


def test_the_task_of_the_readme_trains(readme, tmp_path):
    from parity import run

    block = next(block for block in blocks(readme, "python") if block.startswith("# my_task.py"))
    path = tmp_path / "my_task.py"
    path.write_text(block)
    arguments = [
        "--inline",
        "--task",
        f"{path}:Quadrants",
        "--loss",
        "builtin",
        f"{path}:by_hand",
        "--batch-size",
        "60",
    ]
    arguments += ["--steps", "20", "--device", "cpu", "cpu:threads=2", "--out", str(tmp_path / "run")]
    assert run.main(arguments) == 0


def test_the_pytest_example_of_the_readme_passes_and_can_fail(readme, tmp_path):
    block = next(block for block in blocks(readme, "python") if block.startswith("# test_my_loss.py"))
    (tmp_path / "test_right.py").write_text(block)
    (tmp_path / "test_wrong.py").write_text(block.replace(".sum()", ".sum() * 2"))
    ended = command("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path)
    assert ended.status == 1 and "1 failed, 1 passed" in ended.stdout, ended.stdout
    assert "parity: builtin@cpu-s0 my_loss@cpu-s0  diverged: beyond rounding from step 0: " in ended.stdout
    assert "scaled by 2; " in ended.stdout and "first at step 0, loss" in ended.stdout


def test_the_loops_of_the_readme_record_the_same(readme, tmp_path):
    files = {file_name(block): block for block in blocks(readme, "python")}
    loops = ["plain.py", "with_lightning.py", "with_accelerate.py"]
    for name in ("training.py", *loops):
        (tmp_path / name).write_text(files[name])
    for name in loops:
        code = f"import os, runpy, sys; os.chdir(sys.argv[1]); sys.path.insert(0, ''); runpy.run_path({name!r})"
        ended = command("-c", code, tmp_path)
        assert ended.status == 0, ended.stderr
    runs = [tmp_path / "runs" / name for name in ("plain", "lightning", "accelerate")]
    ended = command("-m", "parity.report", *runs)
    assert (ended.status, len(re.findall(r"-s0  identical", ended.stdout))) == (0, 2), ended.stdout


def test_the_printed_report_is_the_one_of_the_readme(readme, reference, capsys):
    """Line by line but for the numbers, whose last digits are the machine's."""
    from parity import report

    report.main([str(reference)])

    def shape(text):
        # The first difference may be of another quantity on another CPU.
        text = re.sub(r"^  first  .*\n(            .*\n)*", "  first\n", text, flags=re.MULTILINE)
        lines = (" ".join(line.replace("─", "").split()) for line in text.splitlines())
        return [re.sub(r"[\d.]+(e[+-]\d+)?", "#", line) for line in lines if line]

    printed = shape(capsys.readouterr().out)
    block = next(block for block in blocks(readme, "") if "numpy     rounding" in block)
    assert "first" in printed and printed == shape(block)[:-1]


def test_no_output_that_the_readme_shows_is_wider_than_80_columns(readme):
    shown = [line for block in blocks(readme, "") if " steps: " in block for line in block.splitlines()]
    assert len(shown) > 50
    assert [line for line in shown if len(line) > 80 and not line.startswith("$ ")] == []


def test_the_ci_example_names_options_and_formats_that_are_there(readme):
    (block,) = blocks(readme, "yaml")
    commands = re.findall(r"python -m parity\.(run|report) ([^>\n]+)", block)
    assert [name for name, _ in commands] == ["run", "report"]
    assert make_parser().parse_args(commands[0][1].split()).format == "markdown"
    assert commands[1][1].split() == ["parity", "--format", "junit"]


def test_the_table_of_the_problem_is_what_adam_does(readme, tmp_path):
    from parity import run

    out = tmp_path / "adam"
    arguments = ["--inline", "--device", "cpu", "--steps", "11", "--loss", "builtin", "tests/wrong_losses.py:Doubled"]
    assert run.main([*arguments, "--out", str(out)]) == 1
    differences = pd.read_parquet(out / "differences.parquet").set_index("step").loss_rel
    assert differences[0] == 0
    assert differences[1] == pytest.approx(2e-6, rel=0.5)
    assert differences[10] == pytest.approx(2.9e-4, rel=0.5)
