"""`parity --completion SHELL`: prints what a shell needs to complete commands, options and paths on Tab."""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from parity.ground.errors import Trouble
from parity.ground.packages import how_to_install
from parity.ground.spelling import did_you_mean
from parity.plan.command_options import PARSERS

# By shell, how to use what is printed.
SHELLS = {
    "bash": 'eval "$(parity --completion bash)" in ~/.bashrc',
    "zsh": 'parity --completion zsh > "${fpath[1]}/_parity"',
    "fish": "parity --completion fish > ~/.config/fish/completions/parity.fish",
}
# By what the help calls a value, what it is completed with.
_PATHS = {"DIR": "DIRECTORY", "FILE": "FILE", "FILE:ATTR": "FILE", "LOSS": "FILE", "PATH": "FILE", "TASK": "FILE"}


def print_script(arguments: Sequence[str]) -> None:
    """Prints the script of a shell.

    Args:
        arguments: What follows `--completion`: the shell.

    Raises:
        Trouble: It is none of `SHELLS`, or the package that writes the scripts is missing.
    """
    shell = arguments[0] if arguments else ""
    if len(arguments) != 1 or shell not in SHELLS:
        found = f"--completion {' '.join(arguments)}".rstrip()
        raise Trouble(
            f"{found} does not name one shell. Known shells: {', '.join(SHELLS)}.{did_you_mean(shell, SHELLS)} "
            f"Write {SHELLS['bash']}."
        )
    print(script(shell))


def script(shell: str) -> str:
    """What completes the commands of parity in a shell, one of `SHELLS`.

    Raises:
        Trouble: The package that writes the scripts is missing.
    """
    try:
        # By name, so that type checkers do not ask for it: it is an extra.
        shtab = importlib.import_module("shtab")
    except ModuleNotFoundError as error:
        raise Trouble(how_to_install(error) or str(error)) from error
    return str(shtab.complete(_tree(shtab), shell))


def _tree(shtab: Any) -> argparse.ArgumentParser:
    """One parser with all commands, whose values have what shtab completes them with."""
    parser = argparse.ArgumentParser(prog="parity")
    parser.add_argument("--version", action="store_true", help="show the version")
    parser.add_argument("--completion", choices=SHELLS, help="print what completes commands on Tab")
    commands = parser.add_subparsers()
    for name, make in PARSERS.items():
        own = make()
        summary = " ".join((own.description or "").split()).partition(". ")[0]
        added = commands.add_parser(name, parents=[own], add_help=False, help=summary, description=summary)
        for action in added._actions:
            kind = _PATHS.get(str(action.metavar))
            if kind:
                action.complete = getattr(shtab, kind)  # type: ignore[attr-defined]
    return parser
