import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.observe import device_sums
from parity.observe.word_sums import (
    BLOCK_WORDS,
    block_weights,
    finished,
    mixed,
    padded_rows,
    place_weights,
    word_sum,
    words_of,
)  # fmt: skip

PLACES = ["0xc747974bea1b8947", "0xe23fcfcd4cd7a2d3", "0x56d6ba1617370c8d"]
WEIGHTS = ["0xe220a8397b1dcdaf", "0x910a2dec89025cc1", "0x975835de1c9756cf"]
ROOT = Path(__file__).parents[2]


def numbers(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def by_definition(data: bytes) -> int:
    """The sum as the module's docstring has it, in Python's integers."""
    data += b"\0" * (-len(data) % 4)
    places, total = place_weights().tolist(), 0
    for number in range(len(data) // 4):
        block, place = divmod(number, BLOCK_WORDS)
        product = int.from_bytes(data[4 * number : 4 * number + 4], "little") * places[place] % 2**64
        total += (product ^ (product >> 32)) * int(block_weights(block, 1)[0])
    return total % 2**64


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 8191, 8192, 8193, 3 * 8192 - 1, 3 * 8192, 3 * 8192 + 1, 100_000])
def test_sum_is_that_of_the_definition(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert word_sum(data) == by_definition(data.tobytes())


def test_weights_never_change() -> None:
    # Stored digests are compared with those of later versions.
    assert [hex(number) for number in place_weights()[[0, 1, 2047]].tolist()] == PLACES
    assert [hex(number) for number in block_weights(0, 3).tolist()] == WEIGHTS
    assert np.array_equal(block_weights(5000, 2), mixed(np.array([5000, 5001], np.uint64)) | np.uint64(1))
    assert len(np.unique(place_weights())) == BLOCK_WORDS
    assert np.all(place_weights() % 2 == 1)


@pytest.mark.parametrize("cut", [1, 2047, 2048, 2049, 5000])
def test_pieces_give_the_sum_of_the_whole(cut: int) -> None:
    array = numbers(20_000)
    assert (word_sum(array[:cut]) + word_sum(array[cut:], cut)) % 2**64 == word_sum(array)


def test_rows_are_filled_up_to_whole_words() -> None:
    table = np.arange(15, dtype=np.uint8).reshape(3, 5)
    assert padded_rows(table).tolist() == [[*row, 0, 0, 0] for row in table.tolist()]
    assert padded_rows(table.astype(np.float32)).dtype == np.float32
    assert len(words_of(table)) == 2


def test_digests_keep_apart_what_sums_keep_apart() -> None:
    sums = np.arange(10_000, dtype=np.uint64)
    assert len(np.unique(finished(sums, [7] * len(sums)))) == len(sums)
    assert finished(sums[:1], [7]) != finished(sums[:1], [8])


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in 20,000 words, two different ones each."""
    generator = np.random.default_rng(1)
    first = generator.integers(0, 20_000, count)
    return first, (first + generator.integers(1, 20_000, count)) % 20_000


def terms(words: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What each word adds to a sum at its place; uint64[N]."""
    products = words.astype(np.uint64) * place_weights()[places % BLOCK_WORDS]
    return (products ^ (products >> np.uint64(32))) * block_weights(0, 10)[places // BLOCK_WORDS]


def test_terms_are_those_of_a_sum() -> None:
    words = numbers(20_000).view(np.uint32)
    assert int(terms(words, np.arange(20_000)).sum()) == word_sum(words)


@pytest.mark.parametrize("constant", [False, True])
def test_a_million_pairs_of_changes_change_the_sum(constant: bool) -> None:
    words = np.full(20_000, 0x3F800000, np.uint32) if constant else numbers(20_000).view(np.uint32)
    first, second = pairs(1_000_000)
    was = terms(words[first], first) + terms(words[second], second)
    flipped = words ^ np.uint32(2**31)
    doubled = words + np.uint32(2**23)
    for changed in (flipped, doubled):
        assert not np.any(terms(changed[first], first) + terms(changed[second], second) == was)
    swapped = terms(words[second], first) + terms(words[first], second)
    assert np.all((swapped == was) == (words[first] == words[second]))
    # Moved by one word: the lower neighbour of one, and the upper one of the other.
    assert not np.any(terms(words[first] - np.uint32(1), first) + terms(words[second] + np.uint32(1), second) == was)


def test_no_two_of_a_million_random_tensors_have_one_sum() -> None:
    generator = np.random.default_rng(2)
    words = generator.integers(0, 2**32, (1_000_000, 2), dtype=np.uint32)
    places = np.broadcast_to(np.arange(2), words.shape)
    assert len(np.unique(terms(words, places).sum(axis=1))) == 1_000_000


@pytest.mark.parametrize(
    "change",
    [
        lambda array: -array,
        lambda array: array[::-1].copy(),
        lambda array: np.roll(array, 1),
        lambda array: np.roll(array, BLOCK_WORDS),
        lambda array: 2 * array,
        lambda array: np.where(np.arange(len(array)) % 2, array, -array),
        lambda array: array.reshape(-1, 100).T.ravel(),
    ],
)
def test_changes_of_a_whole_tensor_change_the_sum(change) -> None:
    array = numbers(20_000)
    assert word_sum(change(array).astype(np.float32)) != word_sum(array)


def test_zeros_and_nans_have_signs_and_payloads() -> None:
    zeros = np.zeros(5, np.float32)
    assert len({word_sum(zeros), word_sum(-zeros), word_sum(np.array([-0.0, 0, 0, 0, 0], np.float32))}) == 3
    nans = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800001], np.uint32)
    assert len({word_sum(nan) for nan in nans.reshape(-1, 1)}) == 4


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """What the program that runs the kernels has printed, and its folder."""
    pytest.importorskip("triton", reason="Triton comes with torch for CUDA only")
    folder = tmp_path_factory.mktemp("kernels")
    command = [sys.executable, Path(__file__).with_name("kernels_on_cpu.py"), folder]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    ), folder


def test_kernels_agree_with_the_host(kernels) -> None:
    done, _ = kernels
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def is_near(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    if found.dtype.kind == "f":
        # A sum of a sketch may be close to zero, and is as near as its terms are.
        size = np.max(np.abs(expected[np.isfinite(expected)]), initial=1.0)
        return np.allclose(found, expected, rtol=1e-5, atol=1e-6 * size, equal_nan=True)
    return np.array_equal(found, expected)


def test_the_kernels_leave_the_trace_of_the_host(kernels) -> None:
    done, folder = kernels
    assert done.returncode == 0, done.stderr
    host, kernels = json.loads((folder / "traces.json").read_text())
    assert host.keys() == kernels.keys()
    for name, values in host.items():
        if name != "step_s":
            assert len(kernels[name]) == len(values) == 4, name
            assert all(map(is_near, kernels[name], values)), name


class FakeDevice:
    """A tensor of an accelerator that Triton does not know."""

    dtype, device = torch.float32, torch.device("meta")


def test_a_device_without_kernels_is_told_once_and_left_to_the_host(monkeypatch):
    monkeypatch.setattr(device_sums, "WITH_KERNELS", {"meta"})
    device_sums._kernels_run.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"^parity: meta does not compute digests itself \(.+\)\. Its tensors are"):
        assert not device_sums.on_device(FakeDevice)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not device_sums.on_device(FakeDevice)
    device_sums._kernels_run.cache_clear()


def test_a_device_that_sums_wrongly_is_left_to_the_host(monkeypatch):
    monkeypatch.setattr(device_sums, "WITH_KERNELS", {"cpu"})
    monkeypatch.setattr(device_sums.TensorSums, "take", lambda self, tensors, out: out.fill_(7))
    device_sums._kernels_run.cache_clear()
    with pytest.warns(RuntimeWarning, match="it gives 0000000000000007, not "):
        assert not device_sums.on_device(torch.zeros(3))
    device_sums._kernels_run.cache_clear()
