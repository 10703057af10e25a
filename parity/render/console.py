"""The console that reports go to."""

from rich.console import Console

from parity.render.wrapping import WIDTH


def make_console() -> Console:
    """A console on stdout, as wide as the terminal, and `WIDTH` where no width is known.

    `COLUMNS=0` is how some shells and tools say that it is not known; Rich takes it for a width, in which no text fits.
    """
    console = Console()
    return console if console.width > 0 else Console(width=WIDTH)
