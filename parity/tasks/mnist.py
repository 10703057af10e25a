"""Reads MNIST, from the embedded copy or from a torchvision root.

Shapes: N images of 28 x 28 = 784 pixels.
"""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pyarrow

from parity.ground.errors import Trouble

FOLDER = Path(__file__).parent / "data"

# SHA-256 of each original file, uncompressed, as published.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

# Size of each original file, uncompressed, in bytes. pyarrow's decompressor needs it in advance.
SIZE_BYTES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def load(part: str = "train", *, folder: Path = FOLDER) -> dict[str, np.ndarray]:
    """Reads one part of the embedded MNIST, checked against the published SHA-256.

    Args:
        part: "train" (N = 60,000) or "t10k" (N = 10,000).
        folder: The folder with the `.zst` files.

    Returns:
        Read-only arrays in file order: "images" uint8[N, 784] and "labels" uint8[N].

    Raises:
        Trouble: A file is missing or damaged.
    """
    images = _read(f"{part}-images-idx3-ubyte", folder)
    labels = _read(f"{part}-labels-idx1-ubyte", folder)
    # An IDX file is a big-endian header (16 bytes for images, 8 for labels), then the values in C order.
    return {
        "images": np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784),
        "labels": np.frombuffer(labels, np.uint8, offset=8),
    }


def load_torchvision(root: Path) -> dict[str, np.ndarray]:
    """Reads the training part from a torchvision root, and downloads MNIST into it first if a file is missing.

    Args:
        root: The `root` of `torchvision.datasets.MNIST`.

    Returns:
        Read-only arrays in file order: "images" uint8[N, 784] and "labels" uint8[N].

    Raises:
        Trouble: The data is missing and cannot be downloaded, or is damaged.
    """
    from torchvision import datasets  # slow (it imports torch), and rarely needed

    missing = not all((root / "MNIST" / "raw" / name).exists() for name in SHA256)
    try:
        dataset = datasets.MNIST(str(root), train=True, download=missing)
    # torchvision raises any of these for a damaged file or a failed download.
    except (RuntimeError, ValueError, OSError) as error:
        if not missing:
            raise Trouble(f"--data {root} has a damaged MNIST ({error}). Delete its MNIST/raw folder.") from error
        raise Trouble(
            f"--data {root} does not contain MNIST, which could not be downloaded ({error}). "
            "Put the four IDX files into its MNIST/raw folder, or leave out --data to use the embedded MNIST."
        ) from error
    # As `load` returns them, so that both sources give the same bits.
    images = dataset.data.numpy().reshape(len(dataset), -1)
    labels = dataset.targets.numpy().astype(np.uint8)
    images.flags.writeable = labels.flags.writeable = False
    return {"images": images, "labels": labels}


def verify(name: str, content: bytes, *, origin: str) -> None:
    """Raises `Trouble` unless the content's SHA-256 is the published one of the file `name`."""
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise Trouble(
            f"{name} in {origin} is damaged: its SHA-256 is {found}, not {SHA256[name]}. Install parity again."
        )


@functools.lru_cache(maxsize=2)  # images and labels: under pytest, one process may call `parity.check` many times
def _read(name: str, folder: Path) -> bytes:
    """Decompresses one of the four files and verifies its SHA-256.

    Raises:
        Trouble: The file is missing or damaged.
    """
    path = folder / f"{name}.zst"
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise Trouble(f"{path} cannot be read ({error.strerror}). Install parity again.") from error
    try:
        content: bytes = pyarrow.decompress(packed, SIZE_BYTES[name], codec="zstd", asbytes=True)
    except OSError as error:
        raise Trouble(f"{path} is damaged ({error}). Install parity again.") from error
    # The hash is that of the original file, so it does not depend on how it was compressed.
    verify(name, content, origin=str(folder))
    return content
