"""The audit of losses that are hard to judge, in trainings: right ones pass, and the least wrong ones are caught."""

import audited_tasks as tasks
import pytest

import parity


def check(candidate, task, *, baseline="builtin", steps=24, **options):
    return parity.check(candidate, baseline=baseline, task=task, steps=steps, batch_size=64, epochs=99, **options)


@pytest.mark.parametrize(
    ("candidate", "task", "steps"),
    [
        (tasks.cross_entropy_by_hand, tasks.Clusters, 120),
        (tasks.cross_entropy_by_log_softmax, tasks.Clusters, 40),
        (tasks.squares_back_in_bfloat16, tasks.Bfloat16, 24),
        (tasks.squares_in_float32, tasks.Bfloat16, 24),
        (tasks.squares_in_float32, tasks.Mixed, 24),
        (tasks.squares, tasks.Scalar, 24),
        (tasks.cross_entropy, tasks.LogProbabilities, 24),
        (tasks.noisy_by_hand, tasks.Noisy, 24),
        (tasks.marked_sum, tasks.Marked, 8),
        (tasks.marked_branches, tasks.Marked, 8),
        (tasks.clamped_huber, tasks.Huber, 8),
        (tasks.huber_by_numpy, tasks.Huber, 8),
    ],
)
def test_a_right_loss_passes_and_is_audited(candidate, task, steps):
    result = check(candidate, task, steps=steps)
    assert result.passed, result.line
    assert result.worst.decision.audited == steps


@pytest.mark.parametrize(
    ("candidate", "task"),
    [
        (tasks.cross_entropy_scaled, tasks.Clusters),
        (tasks.five_percent_in_bfloat16, tasks.Bfloat16),
        (tasks.last_row_left_out_in_bfloat16, tasks.Bfloat16),
        (tasks.scaled_in_float32, tasks.Plain),
        (tasks.softmax_again, tasks.LogProbabilities),
        (tasks.noisy_and_doubled, tasks.Noisy),
        (tasks.marked_mean, tasks.Marked),
        (tasks.marked_as_zero, tasks.Marked),
        (tasks.signed_huber, tasks.Huber),
        (tasks.huber_of_signed_slope, tasks.Huber),
    ],
)
def test_a_wrong_loss_is_caught_at_the_first_step(candidate, task):
    result = check(candidate, task, steps=6)
    assert (result.verdict, result.onset.step, result.onset.quantity) == ("diverged", 0, "output_grad"), result.line


@pytest.mark.parametrize(
    ("candidate", "task", "factor"),
    [(tasks.five_percent_in_bfloat16, tasks.Bfloat16, "1.05"), (tasks.smooth_l1, tasks.Huber, "10")],
)
def test_a_factor_is_named(candidate, task, factor):
    result = check(candidate, task, steps=6)
    assert result.verdict == "diverged"
    assert f"the gradient is scaled by {factor};" in result.worst.cause


def test_a_fault_between_audited_steps_is_found_by_outputs_that_are_equal():
    assert check(tasks.squares, tasks.OneMark, steps=8, audit_every=4).passed
    result = check(tasks.fifty_times_at_the_mark, tasks.OneMark, steps=8, audit_every=4)
    assert (result.verdict, result.onset.step, result.onset.quantity) == ("diverged", 5, "output_grad"), result.line
    assert "after outputs and targets that are equal to the bit" in result.worst.cause


def test_what_the_model_takes_away_is_rounding_and_said():
    verdict = check(tasks.cross_entropy, tasks.LogProbabilities).worst
    assert verdict.verdict == "rounding" and verdict.audit.grad_error_u > 1e6
    assert verdict.cause == (
        "the gradients differ in a direction that the model takes away: what its backward makes of the difference is "
        "rounding"
    )


@pytest.mark.parametrize("every", [1, 5])
def test_a_baseline_that_keeps_state_is_audited_from_the_state_that_it_had(every):
    audit = check(tasks.CentredByHand, tasks.Plain, baseline=tasks.Centred, audit_every=every).worst.loss_audit
    assert not audit.beyond()["output_grad"].any() and audit.off_oracle is None
    assert audit.decision.grad_error_u < 4 and audit.decision.baseline_grad_error_u < 4


def test_a_state_that_follows_too_slowly_is_caught():
    wrong = check(tasks.CentredTooSlowly, tasks.Plain, baseline=tasks.Centred)
    assert (wrong.verdict, wrong.onset.step) == ("diverged", 0)


def test_a_loss_that_draws_other_numbers_than_the_baseline_is_not_audited():
    result = check(tasks.squares, tasks.Noisy)
    assert not result.passed and result.worst.decision is None
    assert "the loss did not draw as many from the same generators" in str(result.worst.pair.candidate.audit_error)


def test_an_audit_that_repeats_draws_changes_no_bit_of_the_training():
    with_audit, without = (
        check(tasks.noisy_by_hand, tasks.Noisy, steps=8, audit_every=every).traces.loss for every in (1, 0)
    )
    assert with_audit.equals(without)
