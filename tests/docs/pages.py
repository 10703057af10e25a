"""README and the pages of docs/, as the tests read them."""

import importlib.util
import re
import shlex
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from conftest import ROOT

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Every fence has to be matched: otherwise the end of one would be taken for the beginning of the next.
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
# A command in a shell block or between backticks, in each form: parity run, python -m parity.run.
COMMAND = re.compile(
    r"(?:python -m parity[. ]|(?<![\w./-])parity |bin/parity )(run|report|check|devices|columns|submit|open)\b"
    r"((?: [^|;&>`#]*)?)"
)
DOCUMENTS = [README, *PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page's path in the repository.
        language: What the fence names; "" is the output of a command.
        text: The content.
    """

    page: str
    language: str
    text: str

    @property
    def file(self):
        """The name of the file that the block is, from its first line `# name.py`, or None."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found and found[1]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(*paths, language=None):
    """The fenced blocks of some pages, in order; those of one language if it is given."""
    found = []
    for path in paths or DOCUMENTS:
        fences = FENCE.finditer(path.read_text(encoding="utf-8"))
        found += [Block(name_of(path), fence["language"], fence["text"]) for fence in fences]
    return [block for block in found if language is None or block.language == language]


def files():
    """The Python files that the pages have, by name; a file that two pages have must be the same in both."""
    found = {}
    for block in blocks(language="python"):
        if block.file:
            assert found.setdefault(block.file, block.text) == block.text, f"{block.file} differs in {block.page}"
    return found


def prose(path):
    """The text of a page without what commands print."""
    text = path.read_text(encoding="utf-8")
    return FENCE.sub(lambda fence: fence[0] if fence["language"] else "", text)


def commands(path):
    """The commands of parity on a page: (name, arguments), such as ("parity run", ["--steps", "240"])."""
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    shell = [fence["text"] for fence in FENCE.finditer(text) if fence["language"] in ("sh", "yaml", "")]
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))
    for line in [*"".join(shell).splitlines(), *spans]:
        for name, rest in COMMAND.findall(line):
            if rest and "[" not in rest:  # else it is the name of a command, or a synopsis
                yield f"parity {name}", shlex.split(rest)


@cache
def generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def parsers():
    """The parser of each command, by its name."""
    return {name: make() for name, make in generator().COMMANDS.items()}


def options():
    """Every option of every command, as `(command, --option)`."""
    return [
        (name, action.option_strings[-1])
        for name, parser in parsers().items()
        for action in parser._actions
        if action.option_strings and action.dest != "help"
    ]
