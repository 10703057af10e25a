import numpy as np
import pytest
import torch

from parity.observe.digest import MISSING, combine, digest


def tensor():
    return torch.arange(1.0, 13.0).reshape(3, 4)


def test_equal_tensors_have_equal_digests():
    assert digest(tensor()) == digest(tensor().clone())


def flip_sign(values):
    values[1, 2] *= -1


def swap_two(values):
    values[0, 0], values[2, 3] = values[2, 3].clone(), values[0, 0].clone()


def move_one_ulp(values):
    values[1, 1] = torch.nextafter(values[1, 1], torch.tensor(torch.inf))


@pytest.mark.parametrize("change", [flip_sign, swap_two, move_one_ulp])
def test_a_change_is_seen(change):
    changed = tensor()
    change(changed)
    assert digest(changed) != digest(tensor())


def test_zeros_of_either_sign_differ():
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))


def test_nans_of_another_payload_differ():
    bits = np.array([0x7FC00000, 0x7FC00001], np.uint32)
    one, other = (torch.from_numpy(bits[index : index + 1].view(np.float32)) for index in (0, 1))
    assert one.isnan().all() and other.isnan().all()
    assert digest(one) != digest(other)
    assert digest(one) == digest(one.clone())


def test_shape_and_dtype_belong_to_the_digest():
    assert digest(tensor()) != digest(tensor().reshape(4, 3))
    assert digest(torch.zeros(4, dtype=torch.int32)) != digest(torch.zeros(4, dtype=torch.float32))


def test_the_layout_in_memory_does_not():
    transposed = tensor().T.contiguous().T
    assert not transposed.is_contiguous()
    assert digest(transposed) == digest(tensor())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_every_dtype_and_a_scalar_have_a_digest(dtype):
    assert digest(torch.ones((), dtype=dtype)) != digest(torch.zeros((), dtype=dtype))


def test_a_tensor_with_a_gradient_is_digested_as_its_values():
    assert digest(tensor().requires_grad_()) == digest(tensor())


def test_a_missing_tensor_is_not_a_zero_one():
    assert digest(None) == MISSING != digest(torch.zeros(1))


def test_a_combination_knows_the_order():
    one, other = np.array([1, 2], np.uint64), np.array([2, 1], np.uint64)
    assert combine(one) == combine(one.copy()) != combine(other)
    assert 0 <= combine(one) < 2**64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_digest_is_the_same_on_a_gpu():
    assert digest(tensor().cuda()) == digest(tensor())
