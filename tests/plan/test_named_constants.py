"""What a factor stands for."""

import pytest

from parity.plan.named_constants import name_constant


@pytest.mark.parametrize(
    ("factors", "name"),
    [
        ([256.0, 96.0], "the batch size"),
        ([1 / 256, 1 / 96], "1/batch size"),
        ([784.0, 784.0], "elements of a row (features, classes)"),
        ([1 / 784, 1 / 784], "1/elements of a row (1/features, 1/classes)"),
        ([256 * 784.0, 96 * 784.0], "numel, the elements of the batch"),
        ([2.0, 2.0], "2"),
        ([0.5, 0.5], "1/2"),
        ([256.0, 256.0], None),
        ([1.7, 1.7], None),
    ],
)
def test_a_factor_is_named_where_it_fits_every_batch(factors, name):
    assert name_constant(factors, rows=[256, 96], elements=[256 * 784, 96 * 784]) == name


@pytest.mark.parametrize(
    "empty", [{"rows": [0, 96]}, {"elements": [256 * 784, 0]}, {"rows": [0, 0], "elements": [0, 0]}]
)
def test_the_size_of_an_empty_batch_names_nothing(empty):
    sizes = {"rows": [256, 96], "elements": [256 * 784, 96 * 784]} | empty
    assert name_constant([256.0, 96.0], **sizes) is None
    assert name_constant([2.0, 2.0], **sizes) == "2"
