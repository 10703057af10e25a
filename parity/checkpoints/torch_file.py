"""Files of torch.save (.pt, .pth, .bin, .ckpt): tensors and plain values, in dictionaries and lists of any depth.

The only module here that needs torch. Pickles that would run code are refused.
"""

import struct
import warnings
import zipfile
import zlib
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.checkpoints.leaves import leaves
from parity.checkpoints.tensor import Checkpoint, StoredTensor
from parity.ground.errors import Trouble
from parity.ground.quoting import cut

if TYPE_CHECKING:
    import torch

FORMAT = "torch.save"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# Most tensors and values: dictionaries that share each other can have more of them than any memory holds.
_MOST_LEAVES = 1_000_000
# Bytes of a tensor that may be larger than its storage, as a view of one number is.
_LARGEST_VIEW = 2**28
# Bytes that a file may become when it is decompressed, and how many times its own size.
_LARGEST_INFLATED, _MOST_INFLATED = 2**27, 100
# Bytes of a pickle of settings; those of TrainingArguments have 4,000.
_LARGEST_SETTINGS = 2**20
# What torch raises where bytes of a file are not what they were.
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


class RunsCodeError(Trouble):
    """A file holds objects that could run code when they are loaded."""


class ForeignError(Trouble):
    """A file is not a checkpoint: another program wrote it, and only its name ends like that of one."""


def is_torch_file(head: bytes) -> bool:
    """Whether a file begins as those of torch.save do: a ZIP archive, or a pickle before torch 1.6."""
    return head.startswith(_ZIP) or (head.startswith(_PICKLE) and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def is_archive(path: Path) -> bool:
    """Whether a file is a ZIP archive, as torch.save has written since torch 1.6."""
    with path.open("rb") as file:
        return file.read(4) == _ZIP


def is_settings(path: Path) -> bool:
    """Whether a file of torch.save has an object of transformers and no tensor, as TrainingArguments are saved.

    It is not loaded for that.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (pickle,) = (each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            tensors = any("/data/" in name for name in archive.namelist())
            return not tensors and pickle.file_size <= _LARGEST_SETTINGS and b"transformers." in archive.read(pickle)
    except (*_DAMAGE, OSError):
        return False


def _is_of_others(path: Path) -> bool:
    """Whether a file is a whole ZIP archive, and none of torch.save: of NumPy, say, or of TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (*_DAMAGE, OSError):
        return False
    return "data.pkl" not in names or "constants.pkl" in names


def read(path: Path) -> Checkpoint:
    """Reads a file; the bytes of its tensors are mapped into memory where the file allows it.

    Raises:
        Trouble: It needs code to be loaded, is damaged, or has a tensor that is not a plain array.
        ModuleNotFoundError: torch is not installed.
    """
    content = _load(path)
    tensors: dict[str, StoredTensor] = {}
    values: dict[str, object] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    for count, (name, leaf) in enumerate(leaves(content)):
        if count >= _MOST_LEAVES:
            raise Trouble(f"{path} has more than {_MOST_LEAVES:,} tensors and values. Save fewer, such as the weights.")
        if name in tensors or name in values:
            raise Trouble(f"{path} has two entries whose names come to {name[:200]!r}. Rename one of them.")
        if isinstance(leaf, np.ndarray):
            tensors[name] = StoredTensor(str(leaf.dtype), leaf.shape, partial(_array_bytes, leaf))
        elif _is_tensor(leaf):
            _check_plain(path, name, leaf)
            dtype = str(leaf.dtype).removeprefix("torch.")
            key = (leaf.data_ptr(), tuple(leaf.shape), leaf.stride(), dtype, leaf.is_conj(), leaf.is_neg())
            if leaf.numel() and key in seen:
                tied[name] = seen[key]
            seen.setdefault(key, name)
            tensors[name] = StoredTensor(dtype, tuple(leaf.shape), partial(_tensor_bytes, leaf))
        else:
            values[name] = leaf
    return Checkpoint(str(path), FORMAT, tensors, values, tied)


def _load(path: Path) -> Any:
    import torch

    mappable = is_archive(path)
    try:
        if mappable:
            _check_inflated(path)
        with torch.serialization.safe_globals(_numpy_arrays()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols of pickles, which decide nothing here
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except UnpicklingError as error:
        raise _refusal(path) from error
    except _DAMAGE as error:
        kind = ForeignError if _is_of_others(path) else Trouble
        reason = cut(str(error).partition(". ")[0].splitlines()[0] if str(error) else type(error).__name__, 300)
        raise kind(f"{path} cannot be loaded by torch: {reason}. Copy it again from where it was written.") from error


def _check_inflated(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        inflated = sum(each.file_size for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED)
    if inflated > max(_LARGEST_INFLATED, _MOST_INFLATED * path.stat().st_size):
        raise Trouble(f"{path} would become {inflated:,} bytes when it is decompressed. Save it without compression.")


def _check_plain(path: Path, name: str, tensor: "torch.Tensor") -> None:
    if tensor.is_nested or tensor.is_meta or str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        raise Trouble(
            f"{path} has {name!r} as a tensor that is sparse, quantized, nested or on the meta device. "
            "Save it as a plain one."
        )
    size = tensor.numel() * tensor.element_size()
    if size > max(_LARGEST_VIEW, tensor.untyped_storage().nbytes()):
        raise Trouble(f"{path} has {name!r} as a view of {size:,} bytes of a smaller storage. Save it as a plain one.")


def _numpy_arrays() -> list[Any]:
    """What NumPy's arrays need, such as the states of its generators, which Hugging Face's Trainer saves."""
    core: Any = np._core if hasattr(np, "_core") else np.core  # of NumPy 2, and before
    return [core.multiarray._reconstruct, np.ndarray, np.dtype, *(type(np.dtype(each)) for each in "fdilqLIQBb?")]


def _refusal(path: Path) -> Trouble:
    import torch

    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (*_DAMAGE, UnpicklingError, OSError):
        unsafe = []  # of old files torch does not list them
    if not unsafe:
        # An archive of torch.save is damaged; what else is a pickle may be another program's.
        kind = Trouble if is_archive(path) and not _is_of_others(path) else ForeignError
        return kind(
            f"{path} is no file of torch.save that holds tensors and plain values only, or it is damaged. "
            "Save a state_dict, or copy the file again from where it was written."
        )
    return RunsCodeError(
        f"{path} would run code when it is loaded: it holds objects of {', '.join(unsafe[:4])}"
        f"{' and more' if len(unsafe) > 4 else ''}. parity loads tensors and plain values only. Save a state_dict, "
        "or load the file yourself where you trust it, and save its tensors with safetensors.torch.save_file."
    )


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _tensor_bytes(tensor: "torch.Tensor") -> np.ndarray:
    import torch

    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    array: np.ndarray = flat.view(torch.uint8).numpy()
    return array


def _array_bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
