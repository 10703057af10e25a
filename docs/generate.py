"""Writes the parts of docs/reference that come from the code.

    python docs/generate.py            writes them
    python docs/generate.py --check    changes nothing; exit status 1 if a page is out of date

A generated part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; the text around it is written by
hand. Ray is not needed.
"""

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
sys.path.insert(0, str(ROOT))

from parity import columns  # noqa: E402 - from this folder, whether or not parity is installed
from parity.judge.verdict import VERDICTS  # noqa: E402
from parity.observe.contract.items import CHECKS  # noqa: E402
from parity.plan import lines  # noqa: E402
from parity.plan.command_options import PARSERS  # noqa: E402
from parity.plan.options import EXIT_STATUSES  # noqa: E402

# What makes the parser of each command, by the name of its generated part.
COMMANDS = {f"parity {name}": make for name, make in PARSERS.items()}


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """The options and arguments of a command, without --help: the title of each group, and what is in it."""
    for group in parser._action_groups:
        actions = [each for each in group._group_actions if each.dest != "help" and each.help != argparse.SUPPRESS]
        if actions:
            yield group.title or "", actions


def option_table(make: Callable[[], argparse.ArgumentParser]) -> str:
    """What a command does and its options, as a table for each group of them."""
    parser = make()
    groups = list(options_of(parser))
    parts = [_cell(parser.description or "")]
    for title, actions in groups:
        if len(groups) > 1:
            parts.append(f"**{title[:1].upper()}{title[1:]}**")
        parts.append(table(("option", "meaning"), [(_usage(each), _help(parser, each)) for each in actions]))
    if not groups:
        parts.append("It has no options.")
    return "\n\n".join(parts)


def exit_status_table() -> str:
    """The exit statuses of parity run, parity report and parity check."""
    found = re.findall(r"^ +(\d) +(.*(?:\n {4,}\S.*)*)", EXIT_STATUSES, re.MULTILINE)
    return table(("status", "meaning"), [(status, _cell(" ".join(text.split()))) for status, text in found])


def verdict_table() -> str:
    """Every verdict, from the best to the worst."""
    names = {"baseline": "*baseline*", "candidate": "*candidate*"}
    rows = [(f"`{word}`", str(each.exit_status), each.sentence.format(**names)) for word, each in VERDICTS.items()]
    return table(("verdict", "exit status", "in a sentence"), rows)


def line_table() -> str:
    """Every limit, with its source."""
    found = {name: value for name, value in vars(lines).items() if isinstance(value, lines.Line)}
    rows = [
        (f"`{name}`", f"{line.value:g} {_cell(line.unit)}", _cell(line.meaning), _cell(line.source))
        for name, line in found.items()
    ]
    return table(("name", "value", "what it limits", "where the value comes from"), rows)


def contract_table() -> str:
    """Every item of the contract, in the order in which they are checked."""
    rows = [
        (name, ", ".join(check.needs) or "-", check.when_raised, check.when_broken) for name, check in CHECKS.items()
    ]
    heading = ("item", "checked after these have passed", "status if the loss raises", "status without a gradient")
    return table(heading, rows)


def column_tables() -> str:
    """Every column of every file: what `parity columns` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        columns.main([])
    return out.getvalue().strip()


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))


# By page: name of a generated part -> what makes it.
GENERATED: dict[str, dict[str, Callable[[], str]]] = {
    "options.md": {name: lambda make=make: option_table(make) for name, make in COMMANDS.items()}
    | {"exit statuses": exit_status_table},
    "columns.md": {"columns": column_tables},
    "verdicts.md": {"verdicts": verdict_table},
    "lines.md": {"lines": line_table},
    "contract.md": {"contract": contract_table},
}


def renew(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """A page with its generated parts written anew.

    Raises:
        ValueError: A part has no place in the page.
    """
    for name, make in parts.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"the page has no part {begin} ... {end}")
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the pages; returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes the parts of docs/reference that come from the code.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a page is out of date")
    check = parser.parse_args(arguments).check
    outdated = []
    for name, parts in GENERATED.items():
        text = (PAGES / name).read_text(encoding="utf-8")
        renewed = renew(text, parts)
        if renewed != text:
            outdated.append(f"docs/reference/{name}")
            if not check:
                (PAGES / name).write_text(renewed, encoding="utf-8")
    if outdated and check:
        print(f"Out of date: {', '.join(outdated)}. Run: python docs/generate.py", file=sys.stderr)
        return 1
    print(f"Written: {', '.join(outdated)}" if outdated else "Nothing to do: every page is up to date.")
    return 0


def _usage(action: argparse.Action) -> str:
    """An option as it is given, such as `--loss LOSS ...`; of an argument its name."""
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    more = " ..." if action.nargs in ("+", "*") else ""
    if not action.option_strings:
        return f"`{value}{more}`"
    names = ", ".join(reversed(action.option_strings))  # the long one first
    return f"`{names}`" if action.nargs == 0 else f"`{names} {value}{more}`"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return _cell(parser._get_formatter()._expand_help(action))


def _cell(text: str) -> str:
    """A text as Markdown wants it in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
