"""Files with the state of a trial between two steps, from which another process can continue it."""

from pathlib import Path

from parity.ground.errors import Trouble
from parity.store import storage
from parity.store.files import write_bytes, writing
from parity.store.frames import frame, unframe
from parity.store.storage import StoragePath


def write_state(directory: StoragePath, index: int, step: int, state: bytes) -> None:
    """Writes the state of a trial before a step, whole or not at all.

    Args:
        directory: The run directory.
        index: Position of the trial in the plan.
        step: The next step.
        state: The state, packed by `saved_state.pack`.

    Raises:
        Trouble: The file cannot be written.
    """
    path = _state_path(directory, index, step)
    if isinstance(path, Path):
        # The folder is made on first use: a run whose trials are too short to be saved has none.
        with writing(path):
            path.parent.mkdir(exist_ok=True)
    # The frame detects damage, since training from a damaged state might raise no error and only give other numbers.
    write_bytes(path, frame(state))


def read_state(directory: StoragePath, index: int, step: int) -> bytes:
    """Reads the state that `write_state` wrote for the same trial and step.

    Raises:
        Trouble: The file is missing or damaged.
    """
    path = _state_path(directory, index, step)
    try:
        with storage.on_disk(path) as copy, copy.open("rb") as file:
            state = unframe(file)
            whole = not file.read(1)  # nothing follows the frame
    except FileNotFoundError as error:
        raise Trouble(f"{path} is missing.") from error
    except OSError as error:
        raise Trouble(f"{path} cannot be read ({error}).") from error
    if state is None or not whole:
        raise Trouble(f"{path} is damaged.")
    return state


def remove_state(directory: StoragePath, index: int, step: int) -> None:
    """Removes the file that `write_state` wrote.

    Raises:
        Trouble: It cannot be removed.
    """
    path = _state_path(directory, index, step)
    with writing(path):
        storage.remove(path)


def _state_path(directory: StoragePath, index: int, step: int) -> StoragePath:
    # A file for each step: the older state has to exist until the journal says that the newer one counts.
    return directory / "states" / f"{index:04d}-{step}.state"
