"""The command `parity`, also started by python -m parity: finds the command that is meant, and checks its arguments.

Each command is a module, which is imported once its arguments are known to be right: most import much.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from parity.ground.command import guarded
from parity.plan.command_options import PARSERS
from parity.plan.parser import unknown_command
from parity.version import __version__

# By command, the module whose `main` does it.
MODULES = {
    "run": "parity.run",
    "report": "parity.report",
    "check": "parity.checking",
    "devices": "parity.devices",
    "columns": "parity.columns",
    "submit": "parity.submit",
    "open": "parity.opening",
}

USAGE = """usage: parity COMMAND [options]

Are these training runs the same? If not: where do they first differ, by how
much, and is that rounding or a bug?

compare:
  check    train with a loss and the builtin one, a few steps, in this process
  run      train with each loss and device, and report where the runs differ
  report   judge stored runs again, compare them with each other, or list them
  open     open the report of a run in a browser

look up:
  devices  list the devices of this machine or of a Ray cluster
  columns  explain the columns of the stored tables

cluster:
  submit   run the same comparison as a Ray job

options:
  -h, --help           show this text; parity COMMAND --help explains a command
  --version            show the version
  --completion SHELL   print the completion script for bash, zsh or fish

example:
  parity check mine.py:MyLoss

exit status: 0 the same or rounding, 1 diverged or failed, 2 trouble,
3 inconclusive. python -m parity COMMAND does the same as parity COMMAND.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status, or 2 if none is given, since nothing was compared."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help", "-V", "--version"):
        return guarded(lambda: _about(given))
    if status := guarded(lambda: _check(given)):
        return status
    if given[0] == "--completion":
        return 0
    _import_from_here()
    # Its import takes long enough to be interrupted.
    if status := guarded(lambda: _load(given[0])):
        return status
    command = importlib.import_module(MODULES[given[0]])
    if arguments is not None:
        return int(command.main(given[1:]))
    # As if python -m parity.COMMAND had been given: its times count from the beginning of this process.
    sys.argv[1:] = given[1:]
    return int(command.main())


def _load(command: str) -> int:
    """Imports the module of a command. Returns 0."""
    importlib.import_module(MODULES[command])
    return 0


def _about(given: Sequence[str]) -> int:
    """Prints the version or the help, which is an answer only to those who have asked."""
    if given and given[0] in ("-V", "--version"):
        print(f"parity {__version__}")
    else:
        print(USAGE, end="", file=sys.stdout if given else sys.stderr)  # as argparse does
    return 0 if given else 2


def _check(given: Sequence[str]) -> int:
    """Checks the arguments; prints what completes them if that is asked for. Returns 0.

    Raises:
        Trouble: The command is unknown, or its arguments are wrong.
        SystemExit: The help of the command has been printed.
    """
    name, *rest = given
    if name == "--completion":
        from parity.completion import print_script

        print_script(rest)
    elif name not in PARSERS:
        raise unknown_command(name, PARSERS)
    # The options that are not its own are those of the job's parity run, and are checked with it.
    elif name == "submit":
        PARSERS[name]().parse_known_args(rest)
    else:
        PARSERS[name]().parse_args(rest)
    return 0


def _import_from_here() -> None:
    """Lets modules of the current folder be imported, as python -m parity does, also for the script `parity`."""
    if getattr(sys.flags, "safe_path", False) or "" in sys.path:
        return
    try:
        folder = os.getcwd()  # noqa: PTH109 - text
    except FileNotFoundError:  # it was removed: there is nothing to import
        return
    # Without the folder of the script, which Python puts there: it has all scripts of the environment.
    if folder not in sys.path:
        sys.path.insert(0, folder)


if __name__ == "__main__":
    sys.exit(main())
