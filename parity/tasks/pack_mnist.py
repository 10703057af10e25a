"""Packs the four original MNIST files for shipping: compresses each with Zstandard at its highest level.

python -m parity.tasks.pack_mnist DIR      DIR has train-images-idx3-ubyte.gz and the three other files
"""

import argparse
import gzip
from pathlib import Path

import pyarrow

from parity.tasks import mnist

# The highest level of Zstandard: packing is done once, so its time does not matter.
LEVEL = 22


def pack(folder: Path) -> None:
    """Writes `parity/tasks/data/NAME.zst` for each of the four files `NAME.gz` in the folder.

    Raises:
        OSError: A file is missing or cannot be written.
        Trouble: A file's SHA-256 is not the published one.
    """
    codec = pyarrow.Codec("zstd", compression_level=LEVEL)
    for name in mnist.SHA256:
        original = gzip.decompress((folder / f"{name}.gz").read_bytes())
        # Before it is written: whatever is shipped has the published hash.
        mnist.verify(name, original, origin=str(folder))
        (mnist.FOLDER / f"{name}.zst").write_bytes(codec.compress(original, asbytes=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder with the four original files")
    pack(parser.parse_args().folder)
