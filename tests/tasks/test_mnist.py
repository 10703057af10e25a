import gzip
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from parity.ground.errors import Trouble
from parity.tasks import mnist, mnist_autoencoder, pack_mnist


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A torchvision root with the original files."""
    folder = tmp_path_factory.mktemp("torchvision")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in mnist.SHA256:
        (raw / name).write_bytes(mnist._read(name, mnist.FOLDER))
    return folder


@pytest.mark.parametrize(("part", "train"), [("train", True), ("t10k", False)])
def test_embedded_images_equal_torchvisions(root, part, train):
    expected = datasets.MNIST(str(root), train=train)
    found = mnist.load(part)
    assert found["images"].tobytes() == expected.data.numpy().tobytes()
    assert found["labels"].tolist() == expected.targets.tolist()


def test_batches_equal_to_tensor_through_a_data_loader(root, data):
    images = datasets.MNIST(str(root), transform=transforms.ToTensor())
    batches = [*DataLoader(images, batch_size=256).batch_sampler]
    steps = (0, 1, 117, 234)  # the others are not loaded, which takes 4 s
    loader = DataLoader(images, batch_sampler=[batches[step] for step in steps])
    for step, (expected, _) in zip(steps, loader, strict=True):
        (found,) = mnist_autoencoder.batch(data, step * 256, min(step * 256 + 256, 60_000))
        assert found.numpy().tobytes() == expected.view(len(expected), -1).numpy().tobytes()
    assert len(batches) == 235 and len(found) == 96


def test_every_pixel_value_is_divided_as_to_tensor_does():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, -1)
    (found,) = mnist_autoencoder.batch({"images": pixels}, 0, 1)
    expected = transforms.ToTensor()(pixels.reshape(16, 16)).reshape(1, -1)
    assert torch.equal(found, expected)


def test_a_batch_is_a_copy_of_read_only_data(data):
    (batch,) = mnist_autoencoder.batch(data, 0, 256)
    assert not data["images"].flags.writeable
    before = data["images"][0].copy()
    batch.zero_()
    assert np.array_equal(data["images"][0], before)


def test_torchvision_root_gives_the_same_data(root, data):
    found = mnist.load_torchvision(root)
    assert np.array_equal(found["images"], data["images"])
    assert np.array_equal(found["labels"], data["labels"])
    assert not found["images"].flags.writeable


def test_a_closed_network_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(Trouble) as trouble:
        mnist.load_torchvision(tmp_path)
    text = str(trouble.value)
    assert text.startswith(f"--data {tmp_path} does not contain MNIST, which could not be downloaded (")
    assert text.endswith(
        "Put the four IDX files into its MNIST/raw folder, or leave out --data to use the embedded MNIST."
    )


def test_a_damaged_torchvision_root_is_reported(root, tmp_path):
    damaged = shutil.copytree(root, tmp_path / "damaged")
    path = damaged / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Trouble) as trouble:
        mnist.load_torchvision(damaged)
    assert str(trouble.value).startswith(f"--data {damaged} has a damaged MNIST (")
    assert str(trouble.value).endswith("Delete its MNIST/raw folder.")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(Trouble) as trouble:
        mnist.load(folder=tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.zst"
    assert str(trouble.value) == f"{path} cannot be read (No such file or directory). Install parity again."


def test_a_damaged_file_is_reported(tmp_path):
    name = "train-images-idx3-ubyte"
    packed = bytearray((mnist.FOLDER / f"{name}.zst").read_bytes())
    packed[len(packed) // 2] ^= 1
    (tmp_path / f"{name}.zst").write_bytes(packed)
    with pytest.raises(Trouble, match=r"is damaged.*Install parity again\."):
        mnist.load(folder=tmp_path)


def test_content_with_another_sum_is_reported():
    with pytest.raises(Trouble) as trouble:
        mnist.verify("t10k-labels-idx1-ubyte", b"other", origin="here")
    assert str(trouble.value) == (
        "t10k-labels-idx1-ubyte in here is damaged: its SHA-256 is "
        "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, not "
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2. Install parity again."
    )


def test_packing_gives_what_is_shipped(tmp_path, monkeypatch):
    name = "t10k-labels-idx1-ubyte"
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(mnist._read(name, mnist.FOLDER)))
    monkeypatch.setattr(mnist, "SHA256", {name: mnist.SHA256[name]})
    shipped = (mnist.FOLDER / f"{name}.zst").read_bytes()
    monkeypatch.setattr(mnist, "FOLDER", tmp_path)
    pack_mnist.pack(tmp_path)
    assert (tmp_path / f"{name}.zst").read_bytes() == shipped
