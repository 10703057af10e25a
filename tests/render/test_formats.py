"""--format: stdout has the document and nothing else, and the exit status is the same."""

import json
from xml.etree import ElementTree as ET

import pytest
from test_report import loaded_by

from parity import report, run
from parity.render.formats import FORMATS

from conftest import command, warm_command

LOUD = """
def loud(output, target):
    print("<a loss that talks>")
    return 2 * ((output - target) ** 2).mean()
"""


@pytest.mark.parametrize("form", FORMATS)
def test_a_stored_run_is_printed_in_each_format(reference, capsys, form):
    assert report.main([str(reference), "--format", form]) == 0
    out, err = capsys.readouterr()
    begins = {"text": "mnist-autoencoder, 470 steps: rounding\n", "markdown": "## parity: rounding\n", "json": "{\n"}
    assert out.startswith(begins.get(form, "<?xml "))
    assert out.endswith("\n") and not out.endswith("\n\n") and err == ""


def test_json_is_the_summary_that_was_stored(reference, capsys):
    report.main([str(reference), "--format", "json"])
    assert capsys.readouterr().out == (reference / "summary.json").read_text(encoding="utf-8")


def test_text_is_the_default(reference, capsys):
    report.main([str(reference)])
    out = capsys.readouterr().out
    report.main([str(reference), "--format", "text"])
    assert capsys.readouterr().out == out
    assert all(len(line) <= 80 and line == line.rstrip() for line in out.splitlines())


def test_another_format_is_refused(capsys):
    assert report.main(["somewhere", "--format", "xml"]) == 2
    known = "Known: text, markdown, json, junit."
    assert capsys.readouterr().err == f"parity: --format 'xml' is unknown. {known}\n"


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "text"])
def test_a_run_prints_the_document_alone_whatever_its_loss_prints(tmp_path, capsys, form):
    (tmp_path / "loud.py").write_text(LOUD)
    out = tmp_path / "run"
    arguments = ["--inline", "--device", "cpu", "--steps", "3", "--loss", "builtin", f"{tmp_path}/loud.py:loud"]
    assert run.main([*arguments, "--format", form, "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert report.main([str(out), "--format", form]) == 1
    assert printed.out == capsys.readouterr().out
    assert "<a loss that talks>\n" in printed.err and f"Stored in {out}; report:" in printed.err
    if form == "junit":
        assert ET.fromstring(printed.out).get("failures") == "1"
    if form == "json":
        assert json.loads(printed.out)["verdict"] == "diverged"
    assert run.main(["--resume", str(out)]) == 1, "the format does not belong to a run"
    assert run.main(["--resume", str(out), "--format", "text"]) == 1


def test_the_command_prints_junit_to_a_pipe(tmp_path):
    ended = warm_command("-m", "parity.run", "--inline", "--steps", 3, "--format", "junit", "--out", tmp_path / "run")
    assert ended.status == 0, ended.stderr
    root = ET.fromstring(ended.stdout)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("1", "0", "0")


PRINT_EACH = """
import io, json, sys
from parity import report
stdout, sys.stdout = sys.stdout, io.StringIO()
loaded = {}
for form in sys.argv[2:]:
    report.main([sys.argv[1], "--format", form])
    loaded[form] = list(sys.modules)
print(json.dumps(loaded), file=stdout)
"""


@pytest.fixture(scope="module")
def loaded_by_format(reference):
    """The modules that are loaded after each format, in one new Python."""
    return json.loads(command("-c", PRINT_EACH, reference, *FORMATS).stdout)


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_loads_torch_or_ray(loaded_by_format, form):
    loaded = {*loaded_by_format[form]}
    assert "parity.judge" in loaded and not loaded & {"torch", "ray"}


def test_a_run_does_not_load_what_a_format_needs_before_it_is_asked_for():
    loaded = loaded_by("import parity.measuring")
    assert "parity.render.formats" in loaded
    assert not loaded & {"parity.render.markdown", "parity.render.junit"}
