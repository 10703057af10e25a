"""Whether two models are the same function beside their first steps: after a small step, and in what buffers get."""

from dataclasses import replace

import pytest
from synthetic_runs import BUFFERS, TENSORS, make_run

from parity.judge.same_buffers import compare_buffers
from parity.judge.same_elsewhere import compare_elsewhere
from parity.store.trace import SKETCH_SUMS

# By what is compared: its names, the quantity it is reported as, and the words before the tensor.
COMPARED = {
    "elsewhere": (compare_elsewhere, TENSORS, "param_grad", "after a small step of the parameters"),
    "buffer_added": (compare_buffers, BUFFERS, "buffer", "what their first steps add differs most at"),
}
STARTS = {"initial_digests": [7] * len(TENSORS), "initial_buffer_digests": [9] * len(BUFFERS)}


def record(name, *, apart=0.0, norm=1.0, **changes):
    """A trial whose first tensor is off by APART, as a share of all tensors of the baseline."""
    count = len(COMPARED[name][1])
    sketches = [0.0] * (count * SKETCH_SUMS)
    sketches[0] = apart * count**0.5
    stored = {f"{name}_norms": [norm] * count, f"{name}_sketches": sketches, "buffer_added_inexact": 0.0}
    return replace(make_run(steps=1).trials[0], **{**STARTS, **stored, **changes})


def compared(name, *sides):
    return COMPARED[name][0](*sides)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("apart", [0.0, 1e-12])
def test_what_agrees_in_float64_is_the_same_function(name, apart):
    assert compared(name, record(name), record(name, apart=apart)) is None


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize(("apart", "certain"), [(1e-9, False), (1e-7, True), (1e-2, True)])
def test_what_does_not_is_another_one(name, apart, certain):
    _, tensors, quantity, words = COMPARED[name]
    found = compared(name, record(name), record(name, apart=apart))
    assert (found.quantity, found.tensor, found.certain) == (quantity, tensors[0], certain)
    assert words in found.why and f"by {apart:.3g} of the whole" in found.why
    assert found.elsewhere == (name == "elsewhere")
    assert ("rounds to float32 explains as well" in found.why) is not certain


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize(
    "changes",
    [
        {"elsewhere_sketches": None, "buffer_added_sketches": None},
        {"initial_digests": None},
        {"initial_digests": [8, *[7] * (len(TENSORS) - 1)]},
        {"first_step": 10},
    ],
)
def test_of_other_starts_nothing_is_known(name, changes):
    for pair in (
        (record(name), record(name, apart=0.1, **changes)),
        (record(name, **changes), record(name, apart=0.1)),
    ):
        assert compared(name, *pair) is None


@pytest.mark.parametrize(
    "changes",
    [{"initial_buffer_digests": None}, {"initial_buffer_digests": [8] * len(BUFFERS)}, {"buffer_names": ["b"]}],
)
def test_of_other_buffers_nothing_is_known(changes):
    for pair in (
        (record("buffer_added"), record("buffer_added", apart=0.1, **changes)),
        (record("buffer_added", **changes), record("buffer_added", apart=0.1)),
    ):
        assert compare_buffers(*pair) is None


def test_rounding_in_float64_explains_as_much_as_it_moves():
    """Small additions to large buffers."""
    size = len(BUFFERS) ** 0.5
    for sides in ((1e-3 * size, 0.0), (0.0, 1e-3 * size)):
        one, other = (
            record("buffer_added", apart=apart, buffer_added_inexact=inexact)
            for apart, inexact in zip((0.0, 9e-4), sides, strict=True)
        )
        assert compare_buffers(one, other) is None
        assert compare_buffers(one, replace(other, buffer_added_sketches=[1.0] * len(BUFFERS) * SKETCH_SUMS)).certain


def test_buffers_that_the_baseline_leaves_as_they_are_are_other_ones_for_certain():
    assert compare_buffers(record("buffer_added", norm=0.0), record("buffer_added", apart=1e-6)).certain


def test_a_gradient_of_nothing_says_nothing():
    assert compare_elsewhere(record("elsewhere", norm=0.0), record("elsewhere", apart=1e-6)) is None
