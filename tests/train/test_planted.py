"""The planted faults do what they say, and nothing else."""

import torch

from parity.observe.low_precision import round_to_bfloat16, round_to_tf32
from parity.train.planted import planted, spoil_gradient


def test_tf32_keeps_ten_bits_to_nearest():
    one = torch.ones(())
    assert round_to_tf32(one + 2.0**-10) == 1 + 2.0**-10
    assert round_to_tf32(one + 2.0**-12) == 1
    assert round_to_tf32(one + 2.0**-11 + 2.0**-13) == 1 + 2.0**-10
    assert round_to_tf32(torch.tensor(torch.inf)) == torch.inf
    assert round_to_bfloat16(one + 2.0**-9) == 1


def test_only_matrix_products_are_rounded():
    values = torch.full((2, 2), 1 + 2.0**-12)
    with planted("tf32"):
        assert torch.equal(values @ torch.eye(2), torch.ones(2, 2))
        assert torch.equal(values * 1, values)
    assert torch.equal(values @ torch.eye(2), values)


def test_noise_differs_each_time():
    values = torch.ones(4, 4)
    with planted("noise"):
        assert not torch.equal(values @ values, values @ values)


def test_one_element_is_spoilt_at_its_step_alone():
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    spoil_gradient("element-4", 3, model)
    assert all(torch.equal(left, right.grad) for left, right in zip(before, model.parameters(), strict=True))
    spoil_gradient("element-4", 4, model)
    changed = sum(int((left != right.grad).sum()) for left, right in zip(before, model.parameters(), strict=True))
    assert changed == 1
