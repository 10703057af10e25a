"""README and docs: links resolve, commands are understood, the language is plain."""

import itertools
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from pages import DOCUMENTS, PAGES, README, blocks, commands, files, name_of, options, parsers, prose

from parity.ground.errors import Trouble

from conftest import ROOT

# What nobody would write who speaks English by trade; "there is no" and "is no longer" are English.
FORBIDDEN = r"\btold\b|(?<!\bthere )\bis no (?!longer\b)[a-z]+\b|\bmend(?:s|ed)?\b|\bbefell\b"
# A paragraph or a section each has in docs/develop/architecture.md.
ARCHITECTURE = ROOT / "docs" / "develop" / "architecture.md"


def every(path):
    return pytest.mark.parametrize("path", path, ids=name_of)


def targets(text):
    """Where the links and pictures of a page lead."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in token.children or []:
            target = child.attrs.get("href") or child.attrs.get("src")
            if target:
                yield target


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt("commonmark").parse(text)
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            words = "".join(child.content for child in token.children).lower()
            yield re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def broken(path, text):
    """The relative links of a page that lead nowhere."""
    for target in targets(text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (anchor and anchor not in anchors(found.read_text(encoding="utf-8"))):
            yield target


@every(DOCUMENTS)
def test_every_link_resolves(path):
    assert list(broken(path, path.read_text(encoding="utf-8"))) == []


def test_a_broken_link_and_a_broken_anchor_are_found():
    text = """[a](docs/nowhere.md) [b](docs/README.md#nowhere) [c](#start)

## Start

![d](no.png) [e](docs/README.md#develop)
"""
    assert list(broken(README, text)) == ["docs/nowhere.md", "docs/README.md#nowhere", "no.png"]


def test_the_index_links_every_page():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in targets(index.read_text(encoding="utf-8"))}
    assert [name_of(path) for path in PAGES if path not in linked and path != index] == []


@every([README, *PAGES, ROOT / "CONTRIBUTING.md"])
def test_every_command_is_understood(path):
    for name, arguments in commands(path):
        try:
            parsers()[name].parse_known_args(arguments) if "submit" in name else parsers()[name].parse_args(arguments)
        except Trouble as trouble:
            pytest.fail(f"{name} {arguments}: {trouble}")


def test_commands_are_found_in_blocks_with_continued_lines_and_in_text(tmp_path):
    page = tmp_path / "page.md"
    text = """
Use `python -m parity.devices --address X`:

```python
import parity
```

```
$ python -m parity.run --steps 3 \\
      --inline | tee
$ .venv/bin/parity report runs/a
```
"""
    page.write_text(text)
    found = [
        ("parity run", ["--steps", "3", "--inline"]),
        ("parity report", ["runs/a"]),
        ("parity devices", ["--address", "X"]),
    ]
    assert list(commands(page)) == found
    assert sum(len(list(commands(path))) for path in DOCUMENTS) > 20


@every([README, *PAGES])
def test_every_option_that_is_named_exists(path):
    known = {option for _, option in options()} | {"--help"}
    known |= {"--check", "--what", "--readme", "--parity-report"}  # three are options of scripts, the last is pytest's
    named = re.findall(r"`(--[a-z-]+)", prose(path))
    assert [option for option in named if option not in known] == []


@every(DOCUMENTS)
def test_the_language_is_plain(path):
    """What commands print is left out: it is tested where it is made."""
    assert re.findall(FORBIDDEN, prose(path), re.IGNORECASE) == []


def test_a_private_dialect_is_found():
    text = "There is no audit. It is no longer there. It is no number, as told, of a run that nothing befell."
    assert re.findall(FORBIDDEN, text, re.IGNORECASE) == ["is no number", "told", "befell"]


def test_no_shown_output_is_wider_than_80_columns():
    wide = []
    for block in blocks(language=""):
        continued = False
        for line in block.text.splitlines():
            is_command = continued or line.startswith("$ ")
            continued = is_command and line.endswith("\\")
            wide += [] if is_command or len(line) <= 80 else [(block.page, line)]
    assert wide == []
    assert sum(" steps: " in block.text for block in blocks(language="")) >= 5


def test_the_readme_is_one_page():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


def test_every_python_file_of_the_pages_has_a_test():
    """Blocks without a name run in test_examples, those of the questions in test_questions."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in files() if f'"{name}"' not in tests] == []


def test_every_package_has_a_paragraph_in_the_architecture():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "parity").glob("*/__init__.py")}
    assert len(packages) >= 8
    assert {name for name in packages if f"**`parity.{name}`.**" not in text} == set()


def test_every_file_that_the_architecture_names_exists():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:parity|jobs|docs|tests|benchmarks)/[\w/.]+)`", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_architecture_answers_where_to_change_what():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Where do I change …\?\n(.*?)^## ", text, re.M | re.S)
    answers = re.findall(r"^\*\*(.+?)\.\*\*(.*?)(?=^\*\*|\Z)", section, re.M | re.S)
    assert len(answers) == 25
    for question, answer in answers:
        assert 1 <= len(set(re.findall(r"`(parity/[\w/]+\.py|pyproject\.toml)`", answer))) <= 6, question


def test_the_versions_are_those_of_the_code():
    from parity.version import __version__

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (licence,) = re.findall(r'^license = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    # What is cited is the code; the other licence is that of MNIST.
    assert f"\nlicense: {licence.split(' AND ')[0]}\n" in citation
