import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from parity import report
from parity.ground.command import guarded

from conftest import command, plant


@cache
def loaded_by(statement):
    """Modules that are loaded after a statement, in a new Python."""
    code = f"{statement}; import sys; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["torch", "ray"])
def test_judge_does_not_load(module):
    assert module not in loaded_by("import parity.judge.judging, parity.report")


@pytest.mark.parametrize("module", ["torch", "ray"])
def test_the_planning_driver_does_not_load(module):
    assert module not in loaded_by("import parity.run")


def test_this_check_can_fail():
    assert "torch" in loaded_by("import parity.train.loop")


def test_judging_a_whole_run_loads_neither(reference):
    loaded = loaded_by(f"from parity import report; report.main([{str(reference)!r}])")
    assert not loaded & {"torch", "ray"}


def test_report_prints_what_the_run_found(reference, capsys):
    assert report.main([str(reference)]) == 0
    out = capsys.readouterr().out
    assert "mnist-autoencoder, 470 steps: rounding" in out
    assert "builtin@cpu-s0 numpy@cpu-s0  rounding\n  first     step 0 (epoch 0, batch 0), " in out
    assert "470 steps, 10 quantities" in out
    assert "How the audit decided" in out
    summary = json.loads((reference / "summary.json").read_text())
    assert (summary["verdict"], summary["exit_status"]) == ("rounding", 0)


def test_report_writes_nothing(reference, capsys):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*")}
    report.main([str(reference)])
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*")} == before


def test_one_flipped_bit_of_a_stored_value_is_found_where_it_is(equal_pair, copy_of, capsys):
    directory = copy_of(equal_pair)
    assert report.main([str(directory)]) == 0
    assert "identical: 8 steps" in capsys.readouterr().out

    def flip(loss):
        bits = np.array([loss]).view(np.uint64) ^ np.uint64(1 << 29)  # the last bit of the float32
        return float(bits.view(np.float64)[0])

    plant(directory, "functional", "loss", 5, flip)
    assert report.main([str(directory)]) == 0
    out = capsys.readouterr().out
    assert "  report-only\n  cause     only the reported number differs; " in out
    assert "  first     step 5 (epoch 0, batch 5), loss " in out and "(1 ulp)" in out
    plant(directory, "functional", "output_grad_digest", 3, lambda digest: digest ^ 1)
    report.main([str(directory)])
    assert "  rounding\n  first     step 3 (epoch 0, batch 3), output_grad differs " in capsys.readouterr().out


def test_a_foreign_folder_exits_with_2(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"parity: {tmp_path} is not a run directory: it has no run.json. Give the --out of a run.\n"
    )


def test_no_directory_exits_with_2():
    ended = command("-m", "parity.report")
    assert ended.status == 2
    assert ended.stderr == (
        "parity: DIR is missing. Write parity report DIR [DIR ...] [options]; parity report --help lists the options.\n"
    )


def test_a_bug_of_ours_exits_with_2_and_not_with_1(capsys):
    def bug():
        raise ZeroDivisionError("planted")

    assert guarded(bug) == 2
    err = capsys.readouterr().err
    assert "ZeroDivisionError: planted" in err and "a bug of parity" in err


def test_ctrl_c_exits_with_2(capsys):
    def interrupt():
        raise KeyboardInterrupt

    assert guarded(interrupt) == 2
    assert capsys.readouterr().err == "parity: interrupted.\n"


def test_a_reader_that_goes_away_is_not_an_error():
    code = "from parity import report; import sys; sys.exit(report.guarded(lambda: print('x' * 200_000) or 0))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_the_page_replaces_a_page_and_no_other_file(equal_pair, tmp_path, capsys):
    page = tmp_path / "page.html"
    for _ in range(2):
        assert report.main([str(equal_pair), "--html", str(page)]) == 0
    capsys.readouterr()
    other = tmp_path / "trials.parquet"
    other.write_bytes(b"PAR1")
    assert report.main([str(equal_pair), "--html", str(other)]) == 2
    assert capsys.readouterr().err == (
        f"parity: --html {other} would replace a file that is not a web page. "
        "Choose another file, or remove that one.\n"
    )
    assert other.read_bytes() == b"PAR1"
