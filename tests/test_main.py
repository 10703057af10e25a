"""The command `parity`: finds its commands, explains them, and is the same as python -m parity."""

import importlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from parity.__main__ import MODULES, USAGE, main
from parity.completion import SHELLS, script
from parity.plan.command_options import CHECK_STEPS, PARSERS
from parity.plan.options import EXIT_STATUSES
from parity.render import browser
from parity.version import __version__

from conftest import QUICK, command


def test_without_a_command_the_commands_are_listed_and_the_exit_status_is_2(capsys):
    assert main([]) == 2
    assert capsys.readouterr() == ("", USAGE)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed_to_stdout(option, capsys):
    assert main([option]) == 0
    assert capsys.readouterr().out == USAGE


def test_every_command_is_listed_and_has_a_module():
    assert [*MODULES] == [*PARSERS]
    for name, module in MODULES.items():
        assert f"\n  {name:<8} " in USAGE
        assert callable(importlib.import_module(module).main)


def test_python_m_parity_is_the_same_command():
    ended = command("-m", "parity", "--version")
    assert (ended.status, ended.stdout, ended.stderr) == (0, f"parity {__version__}\n", "")


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_each_help_has_an_example_and_fits_80_columns(name, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert f"\nexample:\n  parity {name}" in text
    assert "%(" not in text


def test_the_options_of_run_are_in_groups_and_the_exit_statuses_follow():
    text = PARSERS["run"]().format_help()
    places = [text.index(f"\n{title}:\n") for title in ("what to compare", "training", "cluster", "output", "example")]
    assert places == sorted(places)
    assert text.endswith(EXIT_STATUSES)


def test_every_option_has_help():
    for make in PARSERS.values():
        for action in make()._actions:
            assert action.help


HEAVY = "numpy pyarrow pandas torch ray jinja2 upath fsspec psutil filelock"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["report", "--help"], ["run", "--speed"]])
def test_help_and_wrong_arguments_import_nothing_heavy(arguments):
    """What takes the time of a command is its imports; python -X importtime shows them."""
    code = f"""
import sys
from parity.__main__ import main
try:
    main({arguments!r})
except SystemExit:
    pass
print(*(name for name in {HEAVY!r}.split() if name in sys.modules), file=sys.stderr)
"""
    ended = command("-c", code)
    assert ended.stderr.splitlines()[-1] == ""


def test_modules_of_the_current_folder_are_found_from_the_script_too(tmp_path, monkeypatch):
    """Python puts the folder of a script where -m puts the current one."""
    (tmp_path / "nearby_losses.py").write_text("def mse(output, target): ...\n")
    code = "import sys; sys.path.pop(0); from parity.__main__ import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["run", "--loss", "builtin", "nearby_losses:msee", "--inline"]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (
        2,
        "parity: Module 'nearby_losses' has no attribute 'msee'. It has: mse. Did you mean nearby_losses:mse?\n",
    )


def test_check_trains_beside_the_builtin_and_prints_the_report(tmp_path, capsys):
    arguments = ["tests/wrong_losses.py:Doubled", "--steps", "3", "--batch-size", "64"]
    assert main(["check", *arguments, "--format", "json", "--quiet"]) == 1
    printed = capsys.readouterr()
    (pair,) = json.loads(printed.out)["pairs"]
    assert (pair["baseline_loss"], pair["candidate_loss"], pair["verdict"]) == ("builtin", "Doubled", "diverged")
    assert re.fullmatch(r"Report: \S+report.html \(kept for 7 days\)\n", printed.err)
    assert main(["check", *arguments, "--quiet"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("mnist-autoencoder, 3 steps: diverged\n") and printed.err == ""
    assert re.search(r"\n\nReport: \S+report.html \(kept for 7 days\)\n\Z", printed.out)
    assert main(["check", "numpy", *arguments[1:], "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert "numpy     rounding" in printed.out
    assert printed.out.endswith(f"\n\nReport: {tmp_path}/run/report.html\n")
    assert (tmp_path / "run" / "report.html").exists()
    assert main(["check", "numpy", *arguments[1:], "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"{tmp_path}/run already holds a run. Choose another --out (out= in Python).\n")


def test_what_a_checked_loss_prints_is_not_in_the_document(tmp_path, capsys):
    (tmp_path / "loud.py").write_text(
        "print('begun')\ndef mse(output, target):\n    print('called')\n    return ((output - target) ** 2).mean()\n"
    )
    arguments = ["check", f"{tmp_path}/loud.py:mse", "--steps", "1", "--batch-size", "16", "--quiet"]
    assert main([*arguments, "--format", "json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["verdict"] == "identical"
    assert "begun\n" in printed.err and "called\n" in printed.err


def test_equal_runs_of_a_wrong_loss_are_not_said_to_be_right(tmp_path, capsys):
    run = str(tmp_path / "run")
    check = ["check", "tests/wrong_losses.py:Doubled", "--steps", "3", "--batch-size", "64", "--out", run]
    assert main(check) == 1
    capsys.readouterr()
    assert main(["report", run, run]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "The runs are equal to the bit, in both pairs." in words
    assert "Equal runs do not show that the loss is right" in words
    assert "above 16 u, its limit follows from it and says nothing" in words
    assert "would have been seen" not in words and "No action needed" not in words


def test_check_has_the_steps_of_parity_check():
    from inspect import signature

    from parity import check

    assert signature(check).parameters["steps"].default == CHECK_STEPS


def test_a_quiet_run_prints_nothing_but_its_report(tmp_path, capsys):
    assert main(["run", *QUICK, "--steps", "2", "--quiet", "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "rounding" in printed.out


@pytest.fixture
def folder(equal_pair, tmp_path):
    """A folder with runs in it."""
    for name in ("first", "second"):
        shutil.copytree(equal_pair, tmp_path / "runs" / name)
    (tmp_path / "runs" / "second" / "summary.json").unlink()
    (tmp_path / "runs" / "none").mkdir()
    return tmp_path / "runs"


def test_the_runs_of_a_folder_are_listed_and_nothing_is_judged(folder, capsys):
    assert main(["report", str(folder)]) == 2
    printed = capsys.readouterr()
    heading, *rows = printed.out.splitlines()
    assert heading.split() == ["began", "(UTC)", "state", "verdict", "run"]
    assert sorted(row.split()[2:] for row in rows) == [
        ["complete", "-", f"{folder}/second"],
        ["complete", "identical", f"{folder}/first"],
    ]
    assert printed.err.startswith(f"parity: {folder} is not a run itself, and nothing was judged. Give one of these ")


def test_a_run_whose_first_rank_is_gone_is_listed(folder, capsys):
    (folder / "ranks").mkdir()
    (folder / "second").rename(folder / "ranks" / "rank-1")
    main(["report", str(folder)])
    assert f"{folder}/ranks" in capsys.readouterr().out


def test_a_damaged_run_is_listed_as_damaged(folder, capsys):
    (folder / "first" / "run.json").write_bytes(b"\xff\x00")
    (folder / "first" / "summary.json").write_text('{"verdict": ["\x1b[31m"]}')
    main(["report", str(folder)])
    (row,) = [row for row in capsys.readouterr().out.splitlines() if row.endswith("/first")]
    assert row.split() == ["-", "damaged", "-", f"{folder}/first"]


def test_each_path_that_is_not_a_run_says_what_it_is(folder, capsys):
    for given, said in {
        folder / "nowhere": f"{folder}/nowhere does not exist. Give the --out of a run.",
        folder / "none": f"{folder}/none is not a run directory: it has no run.json. Give the --out of a run.",
        folder / "first" / "report.html": (
            f"{folder}/first/report.html is a file, and not the folder of a run. Give {folder}/first."
        ),
    }.items():
        assert main(["report", str(given)]) == 2
        assert capsys.readouterr().err == f"parity: {said}\n"
    # Beside another run there is nothing to list: the message names them.
    assert main(["report", str(folder / "first"), str(folder)]) == 2
    assert (
        f"{folder} is not a run itself, and holds 2 runs: {folder}/first and {folder}/second. "
        in capsys.readouterr().err
    )


def test_open_opens_the_page_and_prints_its_path(folder, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(browser.webbrowser, "open", lambda url: opened.append(url) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    page = folder / "first" / "report.html"
    assert main(["open", str(folder / "first")]) == 0
    assert capsys.readouterr() == (f"{page}\n", "")
    assert opened == [page.as_uri()]


def test_open_makes_a_missing_page_and_says_so_where_there_is_no_browser(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(browser.webbrowser, "open", None)
    page = folder / "second" / "report.html"
    page.unlink()
    assert main(["open", str(folder / "second")]) == 0
    assert capsys.readouterr() == (
        f"{page}\n",
        f"parity: No browser was found to open {page}. Open the file on a machine that has one.\n",
    )
    assert "<html" in page.read_text(encoding="utf-8")


def test_an_option_without_its_value_says_what_to_write(capsys):
    assert main(["check", "x.py:l", "--task"]) == 2
    assert capsys.readouterr().err == "parity: --task has no value. Write --task TASK, or leave it out.\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_knows_every_command_and_option(shell, capsys):
    assert main(["--completion", shell]) == 0
    text = capsys.readouterr().out
    for name, make in PARSERS.items():
        assert name in text
        options = [each for action in make()._actions for each in action.option_strings if each.startswith("--")]
        # fish is told the name alone; "out" is in "output" too.
        written = [f"-l {option.removeprefix('--')}" if shell == "fish" else option for option in options]
        assert [each for each in written if not re.search(rf"{re.escape(each)}(?![\w-])", text)] == []


@pytest.mark.parametrize("name", PARSERS)
def test_every_value_has_a_name_or_choices(name):
    """Messages say what to write in its place."""
    valued = [each for each in PARSERS[name]()._actions if each.nargs != 0]
    assert [each.dest for each in valued if each.metavar is None and each.choices is None] == []


def test_bash_completes_commands_options_and_values():
    code = script("bash") + (
        """
tried() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_parity; echo "${COMPREPLY[*]}"; }
tried parity rep
tried parity run --batch
tried parity report --format j
tried parity run --loss pyproj
"""
    )
    ended = subprocess.run([shutil.which("bash"), "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["report", "--batch-size", "json junit", "pyproject.toml"], ended.stderr
