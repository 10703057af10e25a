"""What a step adds to the parameters: digests of what they are, norms and sketches of the difference."""

import numpy as np
import pytest
import torch

from parity.observe.columns import Columns
from parity.observe.digest import digest
from parity.observe.parameters import ObservedParameters
from parity.observe.signs import BLOCK, VISIT
from parity.observe.sketch import norms_and_sketches


class Taken(Columns):
    """Columns that keep what was added last."""

    def __init__(self):
        super().__init__(1)

    def add(self, values):
        self.values = dict(values)


def model(dtype=torch.float32):
    """Tensors without a whole block, of blocks alone, with a rest, and of several visits."""
    sizes = [(), (3, 5), (BLOCK,), (2 * BLOCK + 7,), (VISIT,), (2 * VISIT + BLOCK + 11,)]
    made = torch.nn.Module()
    generator = torch.Generator().manual_seed(1)
    made.each = torch.nn.ParameterList(torch.randn(size, generator=generator).to(dtype) for size in sizes)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_each_step_has_its_update(dtype):
    trained = model(dtype)
    observed, columns = ObservedParameters(trained), Taken()
    observed.begin()
    for step in range(3):
        before = [parameter.detach().clone() for parameter in trained.parameters()]
        with torch.no_grad():
            for number, parameter in enumerate(trained.parameters()):
                parameter.mul_(1 + 0.5 / (1 + number + step))
        observed.add_update(columns)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        updates = [
            (new.detach().to(wide) - old.to(wide)).numpy()
            for new, old in zip(trained.parameters(), before, strict=True)
        ]
        norms, sketches = norms_and_sketches(updates)
        assert columns.values["param_digests"].tolist() == [digest(parameter) for parameter in trained.parameters()]
        assert columns.values["update_norms"] == pytest.approx(norms, rel=1e-5)
        assert columns.values["update_sketches"] == pytest.approx(sketches.reshape(-1), rel=1e-4, abs=1e-3)
        assert not np.isnan(norms).any()


def test_a_parameter_that_got_other_memory_is_seen():
    trained = model()
    observed, columns = ObservedParameters(trained), Taken()
    observed.begin()
    observed.add_update(columns)
    first = columns.values["param_digests"]
    trained.each[1].data = trained.each[1].data + 1
    observed.add_update(columns)
    assert [old != new for old, new in zip(first, columns.values["param_digests"], strict=True)] == [
        number == 1 for number in range(6)
    ]
    assert columns.values["update_norms"] == pytest.approx([0, np.sqrt(15), 0, 0, 0, 0])


def test_a_parameter_that_stays_in_its_memory_with_another_shape_is_seen():
    trained = model()
    observed, columns = ObservedParameters(trained), Taken()
    observed.begin()
    for _ in range(3):
        observed.add_update(columns)
    trained.each[1].data = trained.each[1].data.reshape(5, 3)
    observed.add_update(columns)
    assert columns.values["param_digests"].tolist() == [digest(parameter) for parameter in trained.parameters()]
