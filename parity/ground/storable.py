"""Names of files that can be stored and opened: Arrow takes UTF-8 only, and so do JSON and the tables of a run."""

from parity.ground.errors import Trouble


def check_storable(text: str) -> None:
    """Checks a path or another argument.

    Raises:
        Trouble: It has bytes that are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Trouble(f"{text!r} is not valid UTF-8, so it cannot be stored. Rename the file.") from error
