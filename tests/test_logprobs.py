"""Log-probabilities of a trainer and a sampler: noise of a dtype is told from planted faults."""

import numpy as np
import pytest
import torch

import parity
from parity.logprobs import compare_logprobs


@pytest.fixture(scope="module")
def model():
    """Log-probabilities of 4 x 60 tokens, from a layer that is computed in a dtype, at a temperature."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 60, 64, dtype=torch.float64, generator=generator).bfloat16().double()
    weight = (0.3 * torch.randn(64, 500, dtype=torch.float64, generator=generator)).bfloat16().double()
    tokens = torch.randint(0, 500, (4, 60, 1), generator=generator)

    def logprobs(dtype=torch.float64, *, temperature=1.0):
        logits = (hidden.to(dtype) @ weight.to(dtype)) / temperature
        logits = logits if dtype == torch.float64 else logits.float()
        return torch.log_softmax(logits, -1).gather(-1, tokens)[..., 0]

    return logprobs


def test_noise_of_the_dtype_is_the_floor(model):
    found = compare_logprobs(model(torch.bfloat16), model(torch.bfloat16) + 1e-3, model(), dtype="bfloat16")
    assert (found.word, found.passed) == ("floor", True)
    assert found.reason == "Both sides are at the noise floor of bfloat16."
    mixed = compare_logprobs(model(torch.float32), model(torch.bfloat16), model(), dtype=("float32", "bfloat16"))
    assert mixed.word == "floor" and mixed.train.units < 8 and mixed.rollout.units < 8


@pytest.mark.parametrize("side", ["train", "rollout"])
def test_a_temperature_on_one_side_is_a_fault_of_that_side(model, side):
    wrong, right = model(torch.bfloat16, temperature=1.1), model(torch.bfloat16)
    pair = (wrong, right) if side == "train" else (right, wrong)
    found = compare_logprobs(*pair, model(), dtype="bfloat16")
    assert found.word == "fault" and found.reason.startswith(f"The fault is in {side}: ")
    assert found.reason.endswith("unlike noise; a temperature of about 1.10 times the right one would do that.")


@pytest.mark.parametrize("temperature", [0.97, 1.02, 1.03])
def test_a_temperature_that_moves_a_token_less_than_noise_may_is_a_fault(model, temperature):
    wrong = model(torch.bfloat16, temperature=temperature)
    found = compare_logprobs(model(torch.bfloat16), wrong, model(), dtype="bfloat16")
    assert found.rollout.units < 8 and found.word == "fault"
    assert found.reason.startswith("The fault is in rollout: ")
    assert f"a temperature of about {temperature:.2f} times the right one" in found.reason


def test_errors_of_which_only_some_are_on_a_line_are_not_said_to_be_those_of_a_temperature(model):
    scattered = 0.1 * torch.randn(4, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stretched = model() + 0.04 * (model() - model().mean())
    found = compare_logprobs(model(torch.bfloat16), (stretched + scattered).clamp(max=0), model(), dtype="bfloat16")
    assert 0.25 < found.rollout.line.share < 0.8 and found.word == "fault"
    assert "its errors follow the log-probability" in found.reason and "temperature" not in found.reason


def test_tokens_that_are_all_a_little_too_likely_are_a_fault(model):
    noisy = model(torch.bfloat16)
    found = compare_logprobs(noisy, (noisy + 0.02).clamp(max=0), model(), dtype="bfloat16")
    assert found.word == "fault" and "its tokens are off in one direction, by +0.01" in found.reason
    both = compare_logprobs(noisy + 0.02, noisy + 0.02, model(), dtype="bfloat16")
    assert both.word == "identical"  # perhaps it is the reference that is off


def test_tokens_that_one_side_is_certain_of_are_a_fault_and_no_temperature(model):
    found = compare_logprobs(model(torch.float32), torch.zeros(4, 60), model())
    assert found.rollout.line.slope == pytest.approx(-1) and found.word == "fault"
    assert "a slope of -1, unlike noise." in found.reason


def test_much_more_noise_than_on_the_other_side_is_no_answer(model):
    scattered = torch.randn(4, 60, generator=torch.Generator().manual_seed(1)) * 2.0**-8 * (1 - model())
    for factor, word in ((1, "floor"), (5, "undecided"), (12, "fault")):
        found = compare_logprobs(model(torch.bfloat16), model() + factor * scattered, model(), dtype="bfloat16")
        assert found.word == word, found
    assert "noise rarely differs so much in size" in str(
        compare_logprobs(model() + 5 * scattered, model(torch.bfloat16), model(), dtype="bfloat16").reason
    )


def test_results_of_a_narrower_dtype_ask_for_it(model):
    found = compare_logprobs(model(torch.float32), model(torch.bfloat16), model())
    assert found.word == "undecided" and "dtype=('float32', 'bfloat16')" in found.reason


def test_both_sides_far_from_the_reference_are_a_fault(model):
    wrong = model(torch.float32, temperature=2.0)
    found = compare_logprobs(wrong, wrong, model(), dtype="float32")
    assert found.word == "fault" and "either the reference or both of them" in found.reason


def test_without_a_reference_nothing_is_decided_but_equality(model):
    assert compare_logprobs(model(torch.float32), model(torch.float32)).word == "identical"
    found = compare_logprobs(model(torch.float32), model(torch.bfloat16))
    assert (found.word, found.train, found.passed) == ("undecided", None, False)


def test_figures_and_the_estimates_of_schulman():
    train, rollout = np.array([-1.0, -2.0, -3.0, -0.5]), np.array([-1.5, -2.0, -2.0, -0.5])
    found = compare_logprobs(train, rollout)
    ratio = train - rollout
    assert (found.tokens, found.different, found.largest, found.largest_at) == (4, 2, 1.0, (2,))
    assert found.mean == np.abs(ratio).mean() and found.k1 == pytest.approx(-ratio.mean())
    assert found.k3 == pytest.approx((np.exp(ratio) - 1 - ratio).mean()) and found.k3 > 0


def test_padding_on_both_sides_and_masks_are_left_out(model):
    train, rollout = model(torch.float32), model(torch.float32).clone()
    train, exact = train.clone(), model()
    train[:, 50:], rollout[:, 50:], exact[:, 50:] = -torch.inf, -torch.inf, 0
    found = compare_logprobs(train, rollout, exact)
    assert (found.word, found.tokens, found.masked) == ("identical", 200, 40)
    rollout[0, 0] -= 1
    mask = torch.ones(4, 60)
    mask[:, 50:] = mask[0, 0] = 0
    assert compare_logprobs(train, rollout, exact, mask=mask).word == "identical"


def test_a_nan_beside_an_infinity_is_no_padding():
    found = compare_logprobs([-1.0, np.nan], [-1.0, -np.inf])
    assert (found.word, found.tokens, found.passed) == ("fault", 2, False)


@pytest.mark.parametrize("side", ["train", "rollout"])
def test_one_wrong_token_does_not_disappear_in_the_mean(side):
    rng = np.random.default_rng(0)
    exact = -np.abs(rng.normal(1, 1, 10_000)) - 1
    pair = {name: exact + rng.normal(0, 1, 10_000) * 2.0**-8 * (1 - exact) for name in ("train", "rollout")}
    assert compare_logprobs(**pair, reference=exact, dtype="bfloat16").word == "floor"
    pair[side][1234] -= 20
    found = compare_logprobs(**pair, reference=exact, dtype="bfloat16")
    assert found.word == "fault" and found.reason.startswith(f"The fault is in {side}: single tokens are up to ")


def test_numbers_that_are_equal_are_not_called_equal_bits():
    found = compare_logprobs(np.array([-0.0, -1.0]), np.array([0.0, -1.0]))
    assert (found.word, found.reason) == ("identical", "All numbers are equal.")


def test_a_nan_on_one_side_or_within_the_mask_is_a_fault(model):
    train, rollout = model(torch.float32), model(torch.float32).clone()
    rollout[2, 3] = torch.nan
    found = compare_logprobs(train, rollout, model())
    assert (found.word, found.largest_at) == ("fault", (2, 3))
    assert found.reason == "1 tokens are NaN or infinite on one side only."
    found = compare_logprobs(rollout, rollout, mask=torch.ones(4, 60))
    assert found.word == "fault" and "that count are NaN" in found.reason


def test_tensors_arrays_and_lists_are_the_same(model):
    values = model(torch.float32)
    forms = [values, values.numpy(), values.double().tolist(), values.requires_grad_()]
    assert {compare_logprobs(each, values).word for each in forms} == {"identical"}
    assert compare_logprobs(values.bfloat16(), values).dtypes == ("bfloat16", "float32")


def test_it_reads_well(model):
    text = str(
        parity.compare_logprobs(model(torch.float32), model(torch.bfloat16), model(), dtype=("float32", "bfloat16"))
    )
    lines = text.splitlines()
    assert lines[0] == "log-probabilities: floor" and all(len(line) <= 80 for line in lines)
    assert lines[2] == "tokens      240 compared, 240 differ, 0 masked or padding"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([-1.0], [-1.0, -2.0]), {}, "rollout has the shape [2] and train has [1]. Give the same tokens"),
        (([-1.0], [-1.0], [-1.0, -2.0]), {}, "reference has the shape [2] and train has [1]."),
        (([-1.0], [-1.0], np.array([-1.0], np.float32)), {}, "reference has the dtype float32, and has to be float64"),
        (([-1.0], [-1.0], [np.nan]), {}, "reference is not finite at a token that counts."),
        (([0.5], [-1.0]), {}, "train has 0.5, and a log-probability is at most 0."),
        (([-1], [-1.0]), {}, "train has the dtype int64, and log-probabilities are one of float64, float32, "),
        (([[-1.0], [-1.0, 2.0]], [-1.0]), {}, "train is not an array: "),
        (([], []), {}, "No token is left to compare: the mask or padding takes all 0."),
        (([np.nan], [np.nan]), {}, "No token is left to compare: the mask or padding takes all 1."),
        (([-1.0], [-1.0]), {"mask": [2]}, "mask has other values than 0 and 1."),
        (([-1.0], [-1.0]), {"mask": [True, True]}, "mask has the shape [2] and train has [1]."),
        (
            ([-1.0], [-1.0]),
            {"dtype": "bf16"},
            "dtype is 'bf16', and has to be one of float64, float32, float16, bfloat16",
        ),
    ],
)
def test_wrong_arguments_are_explained(arguments, options, message):
    with pytest.raises(ValueError) as raised:
        compare_logprobs(*arguments, **options)
    assert message in str(raised.value)
