"""The folder in which a command runs, which may be removed while a shell or program is still in it."""

from pathlib import Path

from parity.ground.errors import Trouble


def current_folder() -> Path:
    """The working directory of this process.

    Raises:
        Trouble: It was removed.
    """
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise Trouble(
            "The current folder was removed. Change to a folder that exists "
            '(cd "$PWD" if it was created again), and run the command again.'
        ) from error
