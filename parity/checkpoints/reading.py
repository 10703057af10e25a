"""Finds out by its content what a checkpoint is, and reads it."""

from pathlib import Path

from parity.checkpoints import folder, safetensors_file, torch_file
from parity.checkpoints.tensor import Checkpoint
from parity.ground.errors import Trouble

_HEAD = 4096


def is_checkpoint(path: Path) -> bool:
    """Whether a file or folder is a checkpoint."""
    if path.is_dir():
        return folder.has_checkpoint(path)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    index = path.suffix == ".json" and folder.is_index(head)
    return index or safetensors_file.is_safetensors(head) or torch_file.is_torch_file(head)


def read_checkpoint(text: str) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        Trouble: It is damaged, needs code to be loaded, or has neither a tensor nor a value.
        ModuleNotFoundError: It is a file of torch.save, and torch is not installed.
    """
    path = Path(text)
    if path.is_dir():
        found = folder.read_folder(text, path)
    elif path.suffix == ".json":
        found = folder.read_index(path)
    else:
        found = folder.read_file(path)
    if not found.tensors and not found.values:
        raise Trouble(f"{text} has no tensor. Give a checkpoint with at least one.")
    return found
