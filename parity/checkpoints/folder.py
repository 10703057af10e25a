"""Checkpoints of several files: the shards of one model, and what Hugging Face's Trainer saves beside it."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from parity.checkpoints import safetensors_file, torch_file
from parity.checkpoints.tensor import Checkpoint, StoredTensor
from parity.ground.errors import Trouble

_INDEX = ".index.json"
# Where a folder has several, the first is read: they hold the same model.
_MODELS = (
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
)
# Beside a model: its names get the part before the dot as their first part.
_BESIDE = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "rng_state.pth", "scaler.pt")
# Of torch.distributed.checkpoint: a pickle of objects, which is not read here since loading it would run code.
_DISTRIBUTED = ".metadata"
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin")


def is_index(text: bytes) -> bool:
    """Whether a file says in which shard each tensor is."""
    return b'"weight_map"' in text


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder has files of a checkpoint."""
    return any(True for _ in _models(folder)) or any((folder / name).is_file() for name in (*_BESIDE, _DISTRIBUTED))


def _models(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _MODELS if (folder / name).is_file())
    yield from sorted(folder.glob(f"*{_INDEX}"))
    yield from (each for each in sorted(folder.iterdir()) if each.suffix in _ENDINGS and each.name not in _BESIDE)


def read_folder(path: str, folder: Path) -> Checkpoint:
    """Reads the model of a folder, and the states of optimizer, scheduler and generators beside it.

    Raises:
        Trouble: A file is damaged or needs code, or the folder has several files and no index that says what they are.
    """
    if (folder / _DISTRIBUTED).is_file():
        raise Trouble(
            f"{path} is a folder of torch.distributed.checkpoint. Make a file of it, and compare that:\n"
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(path)} checkpoint.pt"
        )
    first = next(_models(folder), None)
    parts: list[tuple[str, Checkpoint]] = []
    notes: list[str] = []
    if first and (first.name in _MODELS or first.name.endswith(_INDEX)):
        parts.append(("", read_index(first) if first.name.endswith(_INDEX) else read_file(first)))
    elif first:
        # Files of any name: each has its own names.
        files = [each for each in _models(folder) if not each.name.endswith(_INDEX)]
        parts += [("" if len(files) == 1 else each.stem, read_file(each)) for each in files]
    parts += [(Path(name).stem, read_file(folder / name)) for name in _BESIDE if (folder / name).is_file()]
    if (folder / "training_args.bin").is_file():
        notes.append("training_args.bin is not compared, since loading it would run code")
    tensors: dict[str, StoredTensor] = {}
    values: dict[str, object] = {}
    tied: dict[str, str] = {}
    for prefix, part in parts:
        before = f"{prefix}." if prefix else ""
        tensors.update({before + name: each for name, each in part.tensors.items()})
        values.update({before + name: each for name, each in part.values.items()})
        tied.update({before + name: before + other for name, other in part.tied.items()})
        notes += part.notes
    formats = ", ".join(dict.fromkeys(part.format for _, part in parts))
    return Checkpoint(path, f"folder of {formats}", tensors, values, tied, tuple(notes))


def read_index(index: Path) -> Checkpoint:
    """Reads the shards that an index names, in its order.

    Raises:
        Trouble: A shard or a tensor is missing, or a shard lies outside the folder.
    """
    try:
        weights = json.loads(index.read_bytes())["weight_map"]
        names = {str(name): str(file) for name, file in weights.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Trouble(f"{index} is damaged: it has no weight_map. Copy it again from where it was written.") from error
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
    extra = [name for file, shard in shards.items() for name in shard.tensors if names.get(name) != file]
    notes = (f"{index.name} does not name {len(extra)} tensors of its shards, such as {extra[0]}",) if extra else ()
    tensors = {name: shards[file].tensors[name] for name, file in names.items()}
    tied = {name: other for shard in shards.values() for name, other in shard.tied.items()}
    kind = next(iter(shards.values())).format if shards else "no shard"
    return Checkpoint(str(index), f"{len(shards)} shards of {kind}", tensors, {}, tied, notes)


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
    raise Trouble(
        f"{path} is {'empty' if not head else 'no checkpoint that parity reads'}. "
        "A checkpoint is a safetensors file, a file of torch.save, an index of shards, or a folder of these."
    )
