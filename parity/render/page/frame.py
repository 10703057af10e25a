"""The whole page in the output of a notebook's cell."""

import html as escaping

# Pixels; the page scrolls inside.
_HEIGHT = 640


def show(page: str, path: object) -> None:
    """Shows a page below the cell, in a frame of its own.

    The page is in the frame and not behind its address: a notebook's server gives no file of the temporary folder,
    and a browser opens no file of a machine for a page of a server.

    Args:
        page: The page as HTML.
        path: Where it is stored, for a front end that shows text alone.
    """
    from IPython.display import display

    # The page's scripts run, but reach nothing of the notebook, which is another origin to a sandbox.
    frame = (
        f'<iframe srcdoc="{escaping.escape(page)}" sandbox="allow-scripts allow-popups allow-downloads" '
        f'allow="clipboard-write" title="Report of parity" '
        f'style="width: 100%; height: {_HEIGHT}px; border: 1px solid rgba(128, 128, 128, .4)"></iframe>'
    )
    # Not IPython's HTML, which warns of frames: IFrame, which it recommends, has an address.
    display({"text/html": frame, "text/plain": f"The page is {path}"}, raw=True)  # type: ignore[no-untyped-call]
