"""The parser of every command: help of at most 80 columns, and errors of one line that say what to do."""

import argparse
import re
import shutil
from collections.abc import Iterable
from typing import Any, NoReturn

from parity.ground.errors import Trouble
from parity.ground.spelling import did_you_mean

# Most columns of a help text.
WIDTH = 80


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, at most `WIDTH`; description and examples as they are written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=min(WIDTH, shutil.get_terminal_size().columns))


class Parser(argparse.ArgumentParser):
    """Parses the arguments of a command; raises `Trouble` for wrong ones, in place of printing its usage and exiting.

    Args:
        prog: The command, such as "parity run".
        usage: What follows it in the first line of the help.
        description: What the command does, in lines of at most 80 columns.
        example: A command line and what it does.
        epilog: What follows the example.

    Attributes:
        other: The parser of the command that has taken its own options from the same arguments before, or None.
    """

    other: "Parser | None" = None

    def __init__(
        self, prog: str, *, usage: str, description: str, example: str, epilog: str = "", allow_abbrev: bool = True
    ) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}".rstrip(),
            description=description,
            epilog=f"example:\n  {example}\n" + (f"\n{epilog}" if epilog else ""),
            formatter_class=_Help,
            allow_abbrev=allow_abbrev,
        )

    def error(self, message: str) -> NoReturn:
        """Raises `Trouble`.

        Args:
            message: What argparse says.
        """
        raise Trouble(self._explained(message))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(each) for each in action.choices]
            raise Trouble(
                f"{_name(action)} {value!r} is unknown. Known: {', '.join(known)}.{did_you_mean(str(value), known)}"
            )

    def _explained(self, message: str) -> str:
        """What argparse says, as a sentence on what was found, and one on what to do."""
        found = re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL)
        if found:
            # Of an option with several names, the long one.
            return self._of_option(found[1].rpartition("/")[2], found[2])
        kind, _, rest = message.partition(": ")
        if kind == "unrecognized arguments":
            return self._unknown(rest)
        if kind == "the following arguments are required":
            return f"{rest} is missing. Write {self.usage}; {self._see_help()}"
        if kind.startswith("ambiguous option") and (both := re.fullmatch(r"(\S+) could match (.*)", rest)):
            return f"Option {both[1]} is not unique: it could be {both[2]}. Write one of them in full."
        return f"{message}. {self._see_help()}"

    def _of_option(self, name: str, message: str) -> str:
        """What is wrong with the value of an option."""
        action = next((each for each in self._actions if name in each.option_strings), None)
        value = f" {action.metavar or '{' + ','.join(map(str, action.choices or [])) + '}'}" if action else ""
        if message.startswith("expected"):
            several = " ..." if action and action.nargs == "+" else ""
            return f"{name} has no value. Write {name}{value}{several}, or leave it out."
        if message.startswith("ignored explicit argument"):
            return f"{name} takes no value, and {message.rpartition(' ')[2]} was given. Write {name} alone."
        if message.startswith("ambiguous option"):
            return self._explained(message)
        return f"{name} {message}"

    def _unknown(self, rest: str) -> str:
        """What is wrong with arguments that nobody knows: the first of them, since the others may follow from it."""
        word = rest.split(" ")[0]
        name = word.partition("=")[0]
        actions = [*self._actions, *(self.other._actions if self.other else ())]
        known = [each for action in actions for each in action.option_strings]
        if not name.startswith("-"):
            loss = f" Did you mean --loss builtin {word}?" if "--loss" in known and ":" in word else ""
            return f"Unexpected argument {word!r}: each value has to follow its option.{loss} {self._see_help()}"
        return f"Unknown option {name}.{did_you_mean(name, known)} {self._see_help()}"

    def _see_help(self) -> str:
        if self.other:
            return f"{self.other.prog} --help and {self.prog} --help list the options."
        return f"{self.prog} --help lists the options."


def _name(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


def unknown_command(word: str, commands: Iterable[str]) -> Trouble:
    """The error about an unknown command."""
    names = [*commands]
    return Trouble(
        f"Unknown command {word!r}. Known commands: {', '.join(names)}."
        f"{did_you_mean(word, names, written='parity {}')} parity --help explains them."
    )
