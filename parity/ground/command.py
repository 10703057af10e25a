"""How each command ends: with its own exit status, or with a message and exit status 2."""

import atexit
import gc
import sys
import traceback
from collections.abc import Callable

from parity.ground import interrupt, streams
from parity.ground.errors import Trouble
from parity.ground.packages import how_to_install, why_not_imported
from parity.ground.quoting import cut, visible

# At its end, Python would look for garbage in all that was imported: 0.2 of the 0.25 s from the last line of
# parity.run to the end of its process.
atexit.register(gc.freeze)


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; returns its exit status.

    Whatever the command raises becomes a message on stderr and exit status 2. Python itself would exit with 1, which
    says that a pair diverged.
    """
    with streams.standard_streams(), interrupt.interruptible():
        status = _status(command)
        interrupt.leave_if_abandoned(status)
    return status


def _status(command: Callable[[], int]) -> int:
    """Runs a command; returns its exit status, or 2 after a message about what it raised."""
    try:
        status = command()
        sys.stdout.flush()  # what fails here has an exit status, and at the end of Python another one
        return status
    except Trouble as trouble:
        # It may name what somebody else has stored. Line breaks are ours: a command has a line of its own.
        text = "\n".join(map(visible, cut(str(trouble)).split("\n")))
        print(f"parity: {text}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"parity: interrupted.{interrupt.how_to_go_on()}", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 - printed in full
        if isinstance(error, OSError) and streams.unprintable(error):
            if not isinstance(error, BrokenPipeError):  # whose reader has seen enough
                why = f"cannot write to stdout ({error.strerror})"
                print(f"parity: {why}. What was stored is kept.", file=sys.stderr)
            return 2
        if isinstance(error, ValueError) and getattr(sys.stdout, "closed", False):
            print(
                "parity: something closed stdout, perhaps the loss. What was stored is kept.",
                file=sys.stderr,
            )
            return 2
        if isinstance(error, ModuleNotFoundError) and (missing := how_to_install(error)):
            print(f"parity: {missing}", file=sys.stderr)
            return 2
        if isinstance(error, ImportError | OSError) and (broken := why_not_imported(error)):
            print(f"parity: {broken}", file=sys.stderr)
            return 2
        traceback.print_exc()
        print("parity: the error above is a bug of parity; please report it.", file=sys.stderr)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - printed in full
        # Only user's code raises such; it asks everybody on the way not to take it for an error of the usual kind.
        traceback.print_exc()
        print(
            f"parity: {type(error).__name__} was raised, which is not an Exception, so it ends the command. "
            "Raise an Exception in the loss or task.",
            file=sys.stderr,
        )
    return 2
