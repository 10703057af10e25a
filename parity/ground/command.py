"""How each command ends: by its own exit status, or with a message and exit status 2."""

import sys
import traceback
from collections.abc import Callable

from parity.ground import interrupt
from parity.ground.errors import Trouble


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; turns whatever it raises into a message and exit status 2, since Python's own would be 1."""
    with interrupt.interruptible():
        try:
            return command()
        except Trouble as trouble:
            print(f"parity: {trouble}", file=sys.stderr)
        except BrokenPipeError:
            sys.stderr.close()  # whoever read the output has gone; nothing more to tell anybody
        except KeyboardInterrupt:
            print(f"parity: interrupted.{interrupt.how_to_go_on()}", file=sys.stderr)
        except Exception:  # noqa: BLE001 - printed in full; exit status 1 would say that a pair diverged
            traceback.print_exc()
            print("parity: the error above is a bug of parity; please report it.", file=sys.stderr)
    return 2
