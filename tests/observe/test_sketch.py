"""Sketches: estimated distances beside true ones, and sums that do not depend on how rows arrive."""

import numpy as np
import pytest

from parity.observe.row_sketch import RowSketch
from parity.observe.signs import SUMS
from parity.observe.sketch import norms_and_sketches

SHAPES = [(), (1,), (5,), (8,), (13, 7), (128, 784), (8192,), (3, 8192), (20_001,)]


def distance(left, right):
    """The estimated distance of two tensors."""
    _, sketches = norms_and_sketches([left, right])
    return float(np.sqrt(((sketches[0] - sketches[1]) ** 2).sum()))


def test_norms_are_those_of_numpy():
    arrays = [np.random.default_rng(1).standard_normal(shape).astype(np.float32) for shape in SHAPES]
    norms, sketches = norms_and_sketches(arrays)
    assert sketches.shape == (len(SHAPES), SUMS)
    assert norms == pytest.approx([np.linalg.norm(array.astype(np.float64)) for array in arrays], rel=1e-5)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if np.prod(shape) >= SUMS])
def test_the_estimate_is_within_a_factor_of_three(shape):
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        left, noise = (generator.standard_normal(shape).astype(np.float32) for _ in range(2))
        right = left + np.float32(1e-3) * noise
        ratios.append(distance(left, right) / np.linalg.norm(right.astype(np.float64) - left))
    assert np.mean([(1 / 3 < ratio < 3) for ratio in ratios]) > 0.99


@pytest.mark.parametrize("shape", SHAPES)
def test_one_element_alone_is_measured_exactly(shape):
    left = np.zeros(shape, np.float32)
    for place in {0, left.size // 2, left.size - 1}:
        right = left.copy()
        right.reshape(-1)[place] = 0.5
        assert distance(left, right) == 0.5


def test_a_difference_with_one_value_everywhere_is_seen():
    left = np.zeros((64, 128), np.float32)
    assert 1 / 3 < distance(left, left + 1) / np.sqrt(left.size) < 3


def test_a_tensor_has_the_same_sketch_beside_any_others():
    arrays = [np.random.default_rng(2).standard_normal(shape).astype(np.float32) for shape in SHAPES]
    together = norms_and_sketches(arrays)[1]
    alone = np.concatenate([norms_and_sketches([array])[1] for array in arrays])
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_a_missing_tensor_has_no_norm_and_no_sketch():
    norms, sketches = norms_and_sketches([None, np.ones(3, np.float32)])
    assert np.isnan(norms[0]) and np.isnan(sketches[0]).all()
    assert norms[1] == pytest.approx(np.sqrt(3)) and not np.isnan(sketches[1]).any()


def test_narrow_and_wide_dtypes_are_summed():
    values = np.arange(100)
    for dtype in (np.float16, np.float64, np.int64, np.bool_):
        norms, _ = norms_and_sketches([values.astype(dtype)])
        assert norms[0] == pytest.approx(np.linalg.norm(values.astype(dtype).astype(np.float64)), rel=1e-5)
    left = np.random.default_rng(3).standard_normal(30_000)
    assert distance(left, left * (1 + 1e-13)) == pytest.approx(1e-13 * np.linalg.norm(left), rel=0.9)


@pytest.mark.parametrize("shape", [(60,), (60, 3), (60, 784), (60, 9000), (60, 3, 33, 33)])
def test_micro_batches_have_the_sketch_of_the_whole_batch(shape):
    rows = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    whole, streamed = RowSketch(), RowSketch()
    whole.add(rows)
    for start in (0, 7, 8, 33, 59):
        stop = {0: 7, 7: 8, 8: 33, 33: 59, 59: 60}[start]
        streamed.add(rows[start:stop])
    assert streamed.rows == whole.rows == 60
    assert streamed.norm == pytest.approx(whole.norm, rel=1e-5)
    assert streamed.sums == pytest.approx(whole.sums, rel=1e-4, abs=1e-3)


def test_another_order_of_the_rows_has_another_sketch():
    rows = np.random.default_rng(5).standard_normal((32, 10)).astype(np.float32)
    one, other = RowSketch(), RowSketch()
    one.add(rows)
    other.add(rows[::-1])
    assert np.linalg.norm(one.sums - other.sums) > 0.1 * one.norm


def sketched(rows):
    found = RowSketch()
    found.add(rows)
    return found


@pytest.mark.parametrize("shape", [(32, 2), (32, 3), (32, 4), (64, 10), (2048, 512), (16, 20_000)])
@pytest.mark.parametrize("kind", ["one value everywhere", "nothing in each row's sum", "a column"])
def test_a_difference_that_is_alike_in_all_rows_is_seen(shape, kind):
    """Signs that all sums share would see it or overlook it as a whole: the gradients of a softmax add up to 0."""
    generator = np.random.default_rng(6)
    rows = generator.standard_normal(shape).astype(np.float32)
    difference = np.ones(shape, np.float32)
    if kind == "nothing in each row's sum":
        difference[:, 0] = 1 - shape[1]
    if kind == "a column":
        difference[:, 1:] = 0
    estimate = np.linalg.norm(sketched(rows + difference).sums - sketched(rows).sums)
    assert 1 / 4 < estimate / np.linalg.norm(difference) < 4


@pytest.mark.parametrize("width", [2, 3, 4, 8, 10, 32, 100])
def test_rows_that_sum_to_zero_are_seen(width):
    rows = np.random.default_rng(6).standard_normal((32, width)).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    sketch = RowSketch()
    sketch.add(rows)
    assert np.linalg.norm(sketch.sums) > 0.2 * sketch.norm
