"""Checkpoints of several files: the shards of one model, and what Hugging Face's Trainer saves beside it."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from parity.checkpoints import safetensors_file, torch_file, trainer_state
from parity.checkpoints.tensor import Checkpoint, StoredTensor, Unread
from parity.checkpoints.torch_file import ForeignError, RunsCodeError
from parity.ground.errors import Trouble
from parity.store.json_text import each_once

_INDEX = ".index.json"
# The first of them that a folder has is its model, whose names get no first part.
_MODELS = (
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
)
# Beside a model: as of all other files, their names get the part before the dot as their first part.
_BESIDE = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "rng_state.pth", "scaler.pt")
# What a folder has without being a checkpoint: it may be a log.
_STATE = (*_BESIDE, trainer_state.NAME)
# Of torch.distributed.checkpoint: a pickle of objects, which is not read here since loading it would run code.
_DISTRIBUTED = ".metadata"
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_SETTINGS = "training_args.bin"
# A model card: no library loads it.
_FOR_READERS = "README.md"


def is_index(text: bytes) -> bool:
    """Whether a file says in which shard each tensor is."""
    return b'"weight_map"' in text


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder has files of a checkpoint."""
    return any(True for _ in _models(folder)) or any((folder / name).is_file() for name in (*_BESIDE, _DISTRIBUTED))


def _models(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _MODELS if (folder / name).is_file())
    yield from sorted(folder.glob(f"*{_INDEX}"))
    beside = (*_BESIDE, _SETTINGS)
    yield from (each for each in sorted(folder.iterdir()) if each.suffix in _ENDINGS and each.name not in beside)


def read_folder(path: str, folder: Path) -> Checkpoint:
    """Reads the model of a folder and the checkpoints beside it; all other files are compared by their bytes.

    Raises:
        Trouble: A file is damaged or needs code, two tensors have one name, or the folder is of another kind.
    """
    if (folder / _DISTRIBUTED).is_file():
        raise Trouble(
            f"{path} is a folder of torch.distributed.checkpoint. Make a file of it, and compare that:\n"
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(path)} checkpoint.pt"
        )
    parts, unread = _parts(folder)
    tensors: dict[str, StoredTensor] = {}
    values: dict[str, object] = {}
    tied: dict[str, str] = {}
    notes: list[str] = []
    for prefix, part in parts:
        before = f"{prefix}." if prefix else ""
        for name in (*part.tensors, *part.values):
            if before + name in tensors or before + name in values:
                raise Trouble(f"{path} has two files with {before + name!r}. Give the files instead of the folder.")
        tensors.update({before + name: each for name, each in part.tensors.items()})
        values.update({before + name: each for name, each in part.values.items()})
        tied.update({before + name: before + other for name, other in part.tied.items()})
        notes += part.notes
    formats = ", ".join(dict.fromkeys(part.format for _, part in parts))
    return Checkpoint(path, f"folder of {formats}", tensors, values, tied, tuple(notes), unread)


def _parts(folder: Path) -> tuple[list[tuple[str, Checkpoint]], dict[str, Unread]]:
    """The files that are read, each with the first part of its names, and all others."""
    models = [*dict.fromkeys(_models(folder))]
    indexes = [each for each in models if each.name.endswith(_INDEX)]
    shards = {folder / file for index in indexes for file in _weight_map(index).values()}
    beside = [folder / name for name in _STATE if (folder / name).is_file()]
    # Of Accelerate; other pickles are not of torch.save.
    pickles = [each for each in sorted(folder.glob("*.pkl")) if each.is_file() and torch_file.is_archive(each)]
    models = [each for each in models if each not in shards]
    known = bool(models) and (models[0].name in _MODELS or models[0] in indexes)
    found: dict[Path, Checkpoint] = {}
    refused: dict[Path, Trouble] = {}
    for each in (*models, *beside, *pickles):
        try:
            found[each] = _reader(each, indexes)(each)
        except (RunsCodeError, ForeignError) as error:
            if each in indexes or each in beside or (known and each == models[0]):
                raise
            refused[each] = error
    if models and not any(each in found for each in models):
        raise refused[models[0]]
    alone = known or sum(each in found for each in models) == 1
    prefixes = _prefixes([*found][1:] if alone else found)
    unread = {each.name: Unread(each, _why(error)) for each, error in refused.items()}
    for other in sorted(folder.rglob("*")):
        # A link to a folder has no bytes that could be compared, so it is never the same.
        if other not in {*found, *refused, *shards} and (other.is_symlink() or not other.is_dir()):
            unread[str(other.relative_to(folder))] = _not_read(other, folder)
    return [(prefixes.get(each, ""), part) for each, part in found.items()], unread


def _reader(path: Path, indexes: Sequence[Path]) -> Callable[[Path], Checkpoint]:
    return trainer_state.read if path.name == trainer_state.NAME else read_index if path in indexes else read_file


def _why(error: Trouble) -> str:
    return "parity does not read what it is" if isinstance(error, ForeignError) else str(error).rstrip(".")


def _not_read(path: Path, folder: Path) -> Unread:
    if path == folder / _SETTINGS:
        # Whatever else has this name may be state.
        settings = path.is_file() and torch_file.is_settings(path)
        return Unread(path, f"{'settings; ' * settings}loading it would run code", state=not settings)
    if path == folder / _FOR_READERS and path.is_file():
        return Unread(path, "a text for readers", state=False)
    return Unread(path, "compare it on its own")


def _prefixes(files: Iterable[Path]) -> dict[Path, str]:
    """The part of each file's name before the dot, or all of it where two files share that part."""
    stems = {each: each.name.removesuffix(_INDEX) if each.name.endswith(_INDEX) else each.stem for each in files}
    counts = Counter(stems.values())
    return {each: stem if counts[stem] == 1 else each.name for each, stem in stems.items()}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weights = json.loads(index.read_bytes(), object_pairs_hook=each_once)["weight_map"]
        return {str(name): str(file) for name, file in weights.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Trouble(
            f"{index} is damaged: it has no weight_map that can be read ({error}). Copy it again from where it was "
            "written."
        ) from error


def read_index(index: Path) -> Checkpoint:
    """Reads the shards that an index names, in its order.

    Raises:
        Trouble: A shard or a tensor is missing, or a shard lies outside the folder.
    """
    names = _weight_map(index)
    shards: dict[str, Checkpoint] = {}
    for file in dict.fromkeys(names.values()):
        shard = index.parent / file
        if Path(file).name != file:
            raise Trouble(f"{index} names the shard {file!r}, and shards lie beside their index.")
        if not shard.is_file():
            raise Trouble(f"{index} names the shard {file!r}, which is missing. Copy all shards into one folder.")
        shards[file] = read_file(shard)
    missing = [name for name, file in names.items() if name not in shards[file].tensors]
    if missing:
        raise Trouble(
            f"{index} says that {missing[0]!r} is in {names[missing[0]]}, which does not have it. "
            "The shards are not those of this index: copy both again."
        )
    tensors = {name: shards[file].tensors[name] for name, file in names.items()}
    extra = {
        name if name not in names else f"{file}.{name}": tensor
        for file, shard in shards.items()
        for name, tensor in shard.tensors.items()
        if names.get(name) != file
    }
    if len(extra) < sum(len(shard.tensors) for shard in shards.values()) - len(names) or extra.keys() & names.keys():
        raise Trouble(f"{index} does not say which of its shards has a tensor that several have. Save them again.")
    some = next(iter(extra), "")
    notes = (f"{index.name} does not name {len(extra)} tensors of its shards, such as {some}",) if extra else ()
    tensors.update(extra)
    values = {
        f"{file}.{name}" if len(shards) > 1 else name: value
        for file, shard in shards.items()
        for name, value in shard.values.items()
    }
    tied = {name: other for shard in shards.values() for name, other in shard.tied.items()}
    kind = next(iter(shards.values())).format if shards else "no shard"
    return Checkpoint(str(index), f"{len(shards)} shards of {kind}", tensors, values, tied, notes)


def read_file(path: Path) -> Checkpoint:
    """Reads a single file.

    Raises:
        Trouble: It is of another kind, is damaged, or needs code.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if safetensors_file.is_safetensors(head):
        return safetensors_file.read(path)
    if torch_file.is_torch_file(head):
        return torch_file.read(path)
    # A safetensors file is named so by all that write one, and an empty file is what a failed copy leaves.
    foreign = head and path.suffix != ".safetensors"
    raise (ForeignError if foreign else Trouble)(
        f"{path} is {'empty' if not head else 'no checkpoint that parity reads'}. "
        "A checkpoint is a safetensors file, a file of torch.save, an index of shards, or a folder of these."
    )
