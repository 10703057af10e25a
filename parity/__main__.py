"""python -m parity: lists the commands."""

import sys
from collections.abc import Sequence

COMMANDS = """usage: python -m parity.COMMAND [options]

  python -m parity.run       train with each loss and device, and report where the runs differ
  python -m parity.report    judge stored runs again, or compare them with each other
  python -m parity.devices   list the devices of this machine or of a Ray cluster
  python -m parity.columns   explain the columns of the stored tables

Add --help to a command to see its options.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the commands; returns 0 if --help asked for them, otherwise 2, since nothing was compared."""
    given = sys.argv[1:] if arguments is None else arguments
    asked = bool({"-h", "--help"} & set(given))
    print(COMMANDS, end="", file=sys.stdout if asked else sys.stderr)  # as argparse does
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
