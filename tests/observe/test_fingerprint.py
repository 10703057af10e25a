"""Fingerprints: digest, norm and sketch of tensors, and of rows that arrive batch by batch."""

import math

import numpy as np
import pytest
import torch

from parity.observe.digest import MISSING, digest
from parity.observe.fingerprint import fingerprint
from parity.observe.rows import Rows
from parity.observe.signs import BLOCK, VISIT
from parity.observe.standing import StandingTensors

GENERATOR = torch.Generator().manual_seed(3)
TENSORS = [torch.randn(shape, generator=GENERATOR) for shape in [(7, 5), (3,), (), (2, 3, 4)]]
# Of several visits, with and without a rest.
LONG = [torch.randn(size, generator=GENERATOR) for size in (VISIT, VISIT + 5, 3 * VISIT + BLOCK)]


def rows(*batches, sketched=True):
    made = Rows(sketched=sketched)
    for batch in batches:
        made.add(batch if isinstance(batch, list) else [batch])
    return made


def test_each_tensor_has_its_digest_norm_and_sketch():
    found = fingerprint(TENSORS)
    assert list(found.digests) == [digest(tensor) for tensor in TENSORS]
    assert found.norms == pytest.approx([float(tensor.double().norm()) for tensor in TENSORS], rel=1e-6)
    assert found.sketches.shape == (4, 8)
    assert found.norm == pytest.approx(float(torch.cat([tensor.reshape(-1) for tensor in TENSORS]).norm()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_long_tensors_have_the_digest_that_they_have_in_one_go(dtype):
    tensors = [(tensor * 100).to(dtype) for tensor in LONG]
    found = fingerprint([tensors[0], TENSORS[0], *tensors[1:]])
    assert found.digests[[0, 2, 3]].tolist() == [digest(tensor) for tensor in tensors]
    assert found.norms[[0, 2, 3]] == pytest.approx([float(tensor.double().norm()) for tensor in tensors], rel=1e-5)


def test_long_batches_have_the_digest_of_their_micro_batches():
    whole = torch.randn(900, 1000, generator=GENERATOR)
    assert rows(whole).digest == rows(whole[:500], whole[500:]).digest == rows(whole, sketched=False).digest


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (30, 7)])
def test_both_parts_of_complex_numbers_are_summed(dtype, shape):
    tensor = torch.randn(shape, dtype=dtype, generator=GENERATOR)
    turned = tensor.real + 1j * (tensor.imag + 1)
    found = fingerprint([tensor, turned, TENSORS[0]])
    norms = [float(torch.view_as_real(each).norm()) for each in (tensor, turned)]
    assert found.norms[:2] == pytest.approx(norms, rel=1e-6)
    assert np.abs(found.sketches[0] - found.sketches[1]).max() > 0.5


def test_a_tensor_that_torch_negates_when_it_is_read_has_the_digest_of_its_elements():
    numbers = torch.randn(9, dtype=torch.complex64, generator=GENERATOR)
    lazy = numbers.conj().imag
    assert lazy.is_neg()
    found, expected = fingerprint([lazy, TENSORS[0]]), fingerprint([-numbers.imag, TENSORS[0]])
    assert found.digests.tolist() == expected.digests.tolist()
    assert found.norms.tolist() == expected.norms.tolist()


@pytest.mark.parametrize("kind", ["xxh3", "words"])
@pytest.mark.parametrize("make", [torch._neg_view, lambda values: torch.complex(values, values).conj()])
def test_what_becomes_of_a_lazy_tensor_in_its_memory_is_seen(kind, make):
    # Its elements are a copy, which is not to be taken for the memory that changes.
    values, standing = torch.randn(9, generator=GENERATOR), StandingTensors(kind)
    lazy, found = make(values), []
    for _ in range(4):
        with torch.no_grad():
            lazy.add_(1)
        standing.look([lazy])
        found.append(standing.digests()[0])
    assert len(set(found)) == 4


@pytest.mark.parametrize("kind", ["xxh3", "words"])
@pytest.mark.parametrize(
    "turn",
    [
        lambda tensor: tensor.T,
        torch._neg_view,
        torch.conj,
        lambda tensor: tensor.reshape(2, 8),
        lambda tensor: torch.view_as_real(tensor).reshape(4, 8)[:, :4],
        torch.clone,
    ],
)
def test_other_elements_of_the_same_tensor_are_seen_wherever_they_are(kind, turn):
    # All but the last are at the same address.
    values = torch.randn(4, 4, dtype=torch.complex64, generator=GENERATOR)
    tensor, standing = values.clone(), StandingTensors(kind)
    for _ in range(3):
        standing.look([tensor])
    tensor.data = turn(tensor.data)
    with torch.no_grad():
        tensor.mul_(2)
    standing.look([tensor])
    assert standing.digests() == fingerprint([tensor.clone()], kind).digests.tolist()


def test_a_dimension_of_one_element_may_have_any_stride():
    logits = torch.randn(1, 6, generator=GENERATOR).bfloat16()
    for view in (logits[:, 0], torch.randn(6, 1, generator=GENERATOR).bfloat16().T[:, :5].T):
        assert fingerprint([view]).digests.tolist() == fingerprint([view.clone()]).digests.tolist()
        assert rows(view).digest == rows(view.clone()).digest


def test_a_missing_tensor_has_no_norm_and_no_sketch():
    found = fingerprint([TENSORS[0], None])
    assert found.digests[1] == MISSING
    assert np.isnan(found.norms[1]) and np.isnan(found.sketches[1]).all()
    assert found.norm == pytest.approx(float(TENSORS[0].norm()), rel=1e-6)
    assert found.digest != fingerprint([TENSORS[0]]).digest


def test_the_order_of_the_tensors_counts():
    assert fingerprint(TENSORS).digest != fingerprint(TENSORS[::-1]).digest


@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [1] * 12, [7, 5], [0, 12]])
def test_the_fingerprint_of_rows_does_not_depend_on_how_they_arrive(sizes):
    whole = torch.randn(12, 9, 2, generator=torch.Generator().manual_seed(4))
    one, several = rows(whole), rows(*whole.split(sizes))
    assert one.digest == several.digest
    assert several.norms == pytest.approx(one.norms, rel=1e-6)
    assert several.sketches == pytest.approx(one.sketches, rel=1e-4, abs=1e-4)


def test_rows_of_several_tensors_arrive_side_by_side():
    left, right = torch.randn(6, 3, generator=GENERATOR), torch.arange(6)
    one, several = rows([left, right]), rows([left[:2], right[:2]], [left[2:], right[2:]])
    assert one.digest == several.digest and one.count == 2
    assert len(one.norms) == 1  # integers have no norm


@pytest.mark.parametrize(
    "other",
    [
        lambda whole: whole.flip(0),
        lambda whole: whole.reshape(4, 9),
        lambda whole: whole.double(),
        lambda whole: whole[:-1],
        lambda whole: torch.cat([whole, whole[:1]]),
        lambda whole: torch.nextafter(whole, torch.tensor(torch.inf)),
    ],
)
def test_other_rows_have_another_digest(other):
    whole = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
    assert rows(whole).digest != rows(other(whole)).digest


def test_an_empty_batch_is_not_no_batch():
    assert rows(torch.zeros(0, 3)).digest != rows().digest


def test_a_tensor_without_a_dimension_is_one_row():
    assert rows(torch.tensor(1.0), torch.tensor(2.0)).digest != rows(torch.tensor(2.0), torch.tensor(1.0)).digest
    assert rows(torch.tensor(3.0)).norms == pytest.approx([3.0])


def test_a_tensor_that_was_changed_after_it_was_added_is_seen():
    whole = torch.randn(6, 6, generator=torch.Generator().manual_seed(6))
    made = rows(whole[:3])
    before = made.copy()
    made.add([whole[3:]])
    assert made.unchanged(before, [whole[3:]])
    whole[5, 5] += 1
    assert not made.unchanged(before, [whole[3:]])


def test_a_copy_goes_its_own_way():
    made = rows(torch.ones(2, 2))
    copied = made.copy()
    copied.add([torch.ones(1, 2)])
    assert copied.digest == rows(torch.ones(3, 2)).digest
    assert made.digest == rows(torch.ones(2, 2)).digest


def test_the_distance_of_two_outputs_is_known_from_their_sketches():
    whole = torch.randn(64, 100, generator=torch.Generator().manual_seed(7))
    near = whole + 1e-3 * torch.randn(64, 100, generator=torch.Generator().manual_seed(8))
    one, other = rows(*whole.split(16)), rows(near)
    estimate = float(np.sqrt(((one.sketches - other.sketches) ** 2).sum()))
    assert 1 / 3 < estimate / float((whole - near).norm()) < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.uint8])
@pytest.mark.parametrize("width", [(), (5,), (2, 3)])
def test_batches_of_rows_have_the_sums_of_words_of_one_batch(dtype, width):
    # Rows of no whole number of words, too.
    whole = (torch.arange(40.0).repeat(math.prod(width), 1).T.reshape(40, *width) % 7 - 2).to(dtype)
    together, apart, other = (Rows(sketched=True, kind="words") for _ in range(3))
    together.add([whole])
    for begin, end in ((0, 3), (3, 3), (3, 20), (20, 40)):
        apart.add([whole[begin:end]])
    other.add([whole[:39]])
    assert apart.digest == together.digest != other.digest
    assert apart.norms == pytest.approx(together.norms)
    swapped = Rows(sketched=True, kind="words")
    swapped.add([whole.roll(1, 0)])
    assert swapped.digest != together.digest
