import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from parity.ground.errors import Trouble
from parity.judge.columns import Columns
from parity.judge.differences import Comparison
from parity.judge.differences_table import SCHEMA, differences_table
from parity.judge.trial_trace import TrialTrace
from parity.judge.ulp import relative, ulp_distance
from parity.store.stored_run import read_run
from parity.store.trace import QUANTITIES

from conftest import plant

FLOATS = st.floats(width=32, allow_nan=False)


def distance(baseline, candidate, dtype="float32"):
    return int(ulp_distance(np.array([baseline], float), np.array([candidate], float), dtype=dtype)[0])


@given(FLOATS, st.integers(0, 50))
def test_ulp_counts_what_nextafter_walks(start, count):
    end = np.float32(start)
    with np.errstate(all="ignore"):  # walking through subnormals and off the end of the finite numbers
        for _ in range(count):
            end = np.nextafter(end, np.float32(np.inf))
    assume(np.isfinite(start) and np.isfinite(end))
    assert distance(start, end) == distance(end, start) == count


@given(FLOATS, FLOATS, FLOATS)
def test_ulp_is_a_distance(one, two, three):
    assert distance(one, two) == distance(two, one) >= 0
    assert distance(one, three) <= distance(one, two) + distance(two, three)
    assert (distance(one, two) == 0) == (one == two)


@pytest.mark.parametrize(
    ("baseline", "candidate", "dtype", "expected"),
    [
        (1.0, 1.0, "float32", 0),
        (0.0, -0.0, "float32", 0),
        (-1e-45, 1e-45, "float32", 2),
        (1.0, 1 + 2**-23, "float32", 1),
        (1.0, 1 + 2**-52, "float64", 1),
        (1.0, 1 + 2**-10, "float16", 1),
        (1.0, 1 + 2**-7, "bfloat16", 1),
        (-1.0, -1 - 2**-7, "bfloat16", 1),
        (3.4028234663852886e38, math.inf, "float32", 1),
        (math.nan, 1.0, "float32", -1),
        (math.nan, math.nan, "float32", -1),
        (-1.7976931348623157e308, 1.7976931348623157e308, "float64", 2**63 - 1),
    ],
)
def test_ulp_of_known_pairs(baseline, candidate, dtype, expected):
    assert distance(baseline, candidate, dtype) == expected


def test_ulp_refuses_what_it_cannot_count():
    with pytest.raises(ValueError) as error:
        distance(1.0, 1.0, "int8")
    assert str(error.value) == "The dtype 'int8' has no ulp. Known dtypes: float16, float32, float64, bfloat16."
    with pytest.raises(ValueError) as error:
        ulp_distance(np.zeros(2), np.zeros(3), dtype="float32")
    assert str(error.value) == "shapes (2,) and (3,) differ"


def test_relative_of_nothing_is_nothing():
    assert relative(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 2.0])).tolist() == [0.0, math.inf, 0.5]


def compare(directory):
    run = read_run(directory)
    return Comparison(*(TrialTrace(record, Columns(run.traces)) for record in run.trials))


def one_ulp(value):
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def one_bit(value):
    return value ^ 1


def first_of_list(values):
    return [values[0] ^ 1, *values[1:]]


def two_of_list(values):
    return [*values[:2], values[2] ^ 1, values[3] ^ 1, *values[4:]]


PLANTED = [
    ("loss", one_ulp, "loss", None),
    ("output_grad_norm", one_ulp, "output_grad", None),
    ("param_grad_norm", one_ulp, "param_grad", None),
    *((f"{quantity}_digest", one_bit, quantity, None) for quantity in QUANTITIES),
    ("param_grad_digests", first_of_list, "param_grad", "0.0.weight"),
    ("param_grad_digests", two_of_list, "param_grad", "0.2.bias"),
    ("param_digests", two_of_list, "param", "0.2.weight"),
]


def test_equal_traces_have_no_difference(equal_pair):
    assert compare(equal_pair).first() is None


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize(("column", "change", "quantity", "tensor"), PLANTED)
def test_first_difference_finds_the_planted_step(equal_pair, copy_of, column, change, quantity, tensor, step):
    directory = copy_of(equal_pair)
    plant(directory, "functional", column, step, change)
    found = compare(directory).first()
    assert (found.step, found.epoch, found.batch, found.quantity, found.tensor) == (step, 0, step, quantity, tensor)
    assert found.baseline != found.candidate


def test_first_difference_gives_the_sizes_of_a_loss(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    plant(directory, "functional", "loss", 3, one_ulp)
    comparison = compare(directory)
    found = comparison.first()
    assert found.candidate == one_ulp(found.baseline)
    assert found.ulp == 1
    assert found.abs == found.candidate - found.baseline
    assert found.rel == found.abs / found.baseline
    assert comparison.loss_ulp.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


def test_the_earlier_quantity_of_a_step_comes_first(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    for quantity in reversed(QUANTITIES):
        plant(directory, "functional", f"{quantity}_digest", 4, one_bit)
        assert compare(directory).first().quantity == quantity


def test_digests_are_told_by_what_they_are(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    plant(directory, "functional", "output_digest", 2, one_bit)
    found = compare(directory).first()
    assert int(found.baseline, 16) ^ int(found.candidate, 16) == 1
    assert (found.abs, found.rel, found.ulp) == (None, None, None)


def test_the_table_says_which_quantities_differ(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    plant(directory, "functional", "loss", 3, one_ulp)
    plant(directory, "functional", "param_digest", 5, one_bit)
    table = differences_table(compare(directory), "loss")
    assert table.schema.equals(SCHEMA)
    names = [set(table[name].to_pylist()) for name in ("axis", "baseline", "candidate")]
    assert names == [{"loss"}, {"builtin@cpu-s0"}, {"functional@cpu-s0"}]
    assert table["loss_differs"].to_pylist() == [step == 3 for step in range(8)]
    assert table["param_differs"].to_pylist() == [step == 5 for step in range(8)]
    assert table["loss_ulp"].to_pylist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert table["output_grad_norm_ratio"].to_pylist() == [1.0] * 8


def test_lists_of_another_length_are_damage(equal_pair, copy_of):
    directory = copy_of(equal_pair)
    plant(directory, "functional", "param_digests", 5, lambda values: values[:-1])
    with pytest.raises(Trouble) as trouble:
        compare(directory).first()
    assert str(trouble.value) == (
        f"{directory}/traces/0001-functional@cpu-s0.parquet is damaged: its param_digests are not 16 in each row."
    )
