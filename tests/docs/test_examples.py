"""README and docs: what they show runs, and does what they say."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from pages import PAGES, README, blocks, commands, files, parsers

from parity import report, run
from parity.judge.verdict import VERDICTS
from parity.store.trace import QUANTITIES

from conftest import ROOT, own_environment, warm_command

QUESTIONS = "docs/how-to/ask-the-files.md"


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def run_inline(folder, *arguments):
    """Runs parity.run in this process; returns its exit status and the verdicts' file."""
    with own_environment():
        status = run.main(["--inline", *map(str, arguments), "--out", str(folder / "run")])
    return status, folder / "run" / "summary.json"


def test_every_verdict_and_quantity_is_in_the_readme():
    readme = README.read_text(encoding="utf-8")
    for word in (*VERDICTS, *QUANTITIES):
        assert f"`{word}`" in readme


def test_ci_runs_the_readmes_test_command():
    pattern = re.search(r"grep -m1 '(.+)' README", Path(".ci/run").read_text())[1]
    found = re.findall(pattern, README.read_text(encoding="utf-8"), re.MULTILINE)
    assert found == ['python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest']


def test_the_start_command_of_the_readme_is_that_of_the_tutorial():
    line = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/parity run --out runs/first"
    assert line in README.read_text(encoding="utf-8").splitlines()
    assert line in page("tutorial/first-run.md").splitlines()


def test_the_python_of_the_pages_runs(reference, capsys):
    """On the reference run, in place of the runs that the pages make; files and questions have tests of their own."""
    found = [block for block in blocks(language="python") if not block.file]
    own = [block for block in found if block.page != QUESTIONS or "runs/adam" in block.text]
    assert len(own) >= 3
    for block in own:
        exec(block.text.replace("runs/first", str(reference)).replace("runs/adam", str(reference)), {})
    out = capsys.readouterr().out
    assert re.search(r"^grad_error_u double .*\|\|g - g64\|\|", out, re.MULTILINE)
    assert "loss_rel" in out
    assert "diverged 0 ['scaled'" in out


def test_the_loss_of_the_tutorial_diverges_on_the_partial_batch_until_it_is_fixed(tmp_path, few_images):
    """Which is at step 11 of few images, and at step 234 of all."""
    path = tmp_path / "mine.py"
    path.write_text(files()["mine.py"])
    loss = ("--device", "cpu", "--loss", "builtin", f"{path}:MyLoss", "--steps")
    status, summary = run_inline(tmp_path / "wrong", *loss, 13)
    (pair,) = pd.read_json(summary).pairs
    assert (status, pair["verdict"], pair["onset"]["step"]) == (1, "diverged", 11)
    assert "partial batches" in pair["cause"] and "scaled by 0.375" in pair["cause"]
    path.write_text(files()["mine.py"].replace("(256 * 784)", "output.numel()"))
    status, summary = run_inline(tmp_path / "right", *loss, 3)
    assert status == 0


def test_the_task_of_the_guide_trains(tmp_path):
    path = tmp_path / "my_task.py"
    path.write_text(files()["my_task.py"])
    names = ("--task", f"{path}:Quadrants", "--loss", "builtin", f"{path}:by_hand")
    assert run_inline(tmp_path, *names, "--batch-size", 60, "--steps", 20, "--device", "cpu", "cpu:threads=2")[0] == 0


def test_the_missing_term_of_the_guide_is_found(tmp_path):
    path = tmp_path / "autoencoder_task.py"
    path.write_text(files()["autoencoder_task.py"])
    names = ("--task", f"{path}:Autoencoder", "--loss", "builtin", f"{path}:without_the_penalty")
    status, summary = run_inline(tmp_path, *names, "--batch-size", 64, "--steps", 5, "--device", "cpu")
    (pair,) = pd.read_json(summary).pairs
    assert (status, pair["verdict"], pair["onset"]["step"]) == (1, "diverged", 0)
    assert pair["onset"]["quantity"] == "output_grad"


def test_the_loop_of_the_readme_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(files()["my_loop.py"], {})
    assert len(pd.read_parquet(tmp_path / "runs" / "mine" / "traces")) == 10


def test_the_pytest_example_passes_and_can_fail(tmp_path):
    text = files()["test_my_loss.py"]
    (tmp_path / "test_right.py").write_text(text)
    (tmp_path / "test_wrong.py").write_text(text.replace(".sum()", ".sum() * 2"))
    # Without a plugin that imports hypothesis at the end, for seconds.
    plugins = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    ended = warm_command("-m", "pytest", "-q", *plugins, "--rootdir", tmp_path, tmp_path)
    assert ended.status == 1 and "1 failed, 1 passed" in ended.stdout, ended.stdout
    # What docs/how-to/pytest-and-python.md shows, but for the page, which has another place.
    (shown,) = [block.text for block in blocks(language="text") if "E       Failed: diverged: " in block.text]
    assert shown.partition("E         page ")[0] in ended.stdout


LOOPS = """
import os, runpy, sys
import torch._dynamo, parity.recorder  # once for all of the loops; every optimizer that is made imports the first
os.chdir(sys.argv[1])
sys.path.insert(0, "")
for name in sys.argv[2:]:
    if not (child := os.fork()):  # a process of its own, as a user's
        runpy.run_path(name)
        break
    _, status = os.waitpid(child, 0)
    assert status == 0, name
"""


def test_the_loops_of_the_guide_record_the_same(tmp_path, capsys):
    loops = ["plain.py", "with_lightning.py", "with_accelerate.py", "with_transformers.py"]
    for name in ("training.py", *loops):
        (tmp_path / name).write_text(files()[name])
    ended = warm_command("-c", LOOPS, tmp_path, *loops)
    assert ended.status == 0, ended.stderr
    runs = [str(tmp_path / "runs" / name) for name in ("plain", "lightning", "accelerate")]
    status = report.main([*runs, "--format", "json"])
    verdicts = [pair["verdict"] for pair in json.loads(capsys.readouterr().out)["pairs"]]
    assert (status, verdicts) == (0, ["identical", "identical"])
    assert pd.read_parquet(tmp_path / "runs" / "transformers" / "trials.parquet").rows.tolist() == [4]


def test_the_printed_report_is_the_one_of_the_tutorial(reference, capsys):
    """Line by line but for the numbers, whose last digits are the machine's."""
    report.main([str(reference)])

    def shape(text):
        # The first difference may be of another quantity on another CPU.
        text = re.sub(r"^  first  .*\n(            .*\n)*", "  first\n", text, flags=re.MULTILINE)
        # A number may be a percentage elsewhere, and lines then break at other words.
        return re.sub(r"[\d.]+(e[+-]\d+)?( %)?", "#", " ".join(text.replace("─", "").split()))

    printed = shape(capsys.readouterr().out)
    shown = blocks(ROOT / "docs" / "tutorial" / "first-run.md", language="")
    (block,) = [block for block in shown if "numpy     rounding" in block.text]
    assert "first" in printed and printed == shape(block.text)


def test_the_ci_example_names_options_and_formats_that_exist():
    path = ROOT / "docs" / "how-to" / "ci.md"
    (block,) = blocks(path, language="yaml")
    found = [(name, parsers()[name].parse_args(arguments).format) for name, arguments in commands(path)]
    # The last one is for a machine that only judges.
    assert found == [("parity run", "markdown"), ("parity report", "junit"), ("parity report", "text")]
    assert "$GITHUB_STEP_SUMMARY" in block.text


def test_the_table_of_the_problem_is_what_adam_does(tmp_path):
    losses = ("--loss", "builtin", "tests/wrong_losses.py:Doubled")
    status, summary = run_inline(tmp_path, "--device", "cpu", "--steps", 11, *losses)
    assert status == 1
    differences = pd.read_parquet(summary.parent / "differences.parquet").set_index("step").loss_rel
    assert differences[0] == 0
    assert differences[1] == pytest.approx(2e-6, rel=0.5)
    assert differences[10] == pytest.approx(2.9e-4, rel=0.5)


def test_every_page_has_one_title():
    for path in PAGES:
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, path
