"""What docs/reference takes from the code equals the code."""

import shutil

import pytest
from pages import generator, options, parsers

from conftest import ROOT, command


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of docs/reference, for the generator to work on."""
    shutil.copytree(ROOT / "docs" / "reference", tmp_path / "reference")
    monkeypatch.setattr(generator(), "PAGES", tmp_path / "reference")
    return tmp_path / "reference"


def test_the_generated_pages_are_up_to_date(capsys):
    assert generator().main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_is_out_of_date_is_named_with_the_command_and_renewed(copied, capsys):
    page = copied / "options.md"
    assert generator().main([]) == 0
    capsys.readouterr()
    right = page.read_text()
    page.write_text(right.replace("`--steps N`", "`--stepps N`"))
    assert generator().main(["--check"]) == 1
    assert capsys.readouterr().err == "Out of date: docs/reference/options.md. Run: python docs/generate.py\n"
    assert "--stepps" in page.read_text()
    assert generator().main([]) == 0
    assert page.read_text() == right
    assert capsys.readouterr().out == "Written: docs/reference/options.md\n"


def test_a_page_without_a_place_for_a_part_is_refused(copied):
    (copied / "lines.md").write_text("# Limits\n")
    with pytest.raises(ValueError, match=r"^the page has no part <!-- generated: lines --> ... <!-- end of lines -->$"):
        generator().main([])


def test_the_generator_does_not_load_ray():
    program = "import runpy, sys; runpy.run_path('docs/generate.py'); print('ray' in sys.modules)"
    assert command("-c", program).stdout == "False\n"


def test_every_option_of_every_command_is_documented():
    text = (ROOT / "docs" / "reference" / "options.md").read_text(encoding="utf-8")
    assert len(options()) > 30 and set(parsers()) == set(generator().COMMANDS)
    assert [(name, option) for name, option in options() if f"`{option}" not in text] == []


def test_this_check_can_fail():
    assert "`--speed" not in (ROOT / "docs" / "reference" / "options.md").read_text(encoding="utf-8")


def test_every_item_of_the_contract_is_described_in_its_order():
    from parity.observe.contract.items import CHECKS

    lines = (ROOT / "docs" / "reference" / "contract.md").read_text(encoding="utf-8").splitlines()
    described = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    described = [name for name in described if name not in ("item", "---", "---|---|")]
    assert described[: len(CHECKS)] == list(CHECKS)
    assert f"[{len(CHECKS)} ways]" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_exit_statuses_of_the_readme_are_those_of_the_verdicts():
    from parity.judge.verdict import VERDICTS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    shown = {row[0].strip("`"): int(row[-1]) for row in rows if row[0].strip("`") in VERDICTS}
    assert shown == {word: meaning.exit_status for word, meaning in VERDICTS.items()}
