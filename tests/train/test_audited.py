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
        (tasks.squares_back_in_bfloat16, tasks.Bfloat16, 24),
        (tasks.squares_in_float32, tasks.Bfloat16, 24),
        (tasks.squares_in_float32, tasks.Mixed, 24),
        (tasks.squares, tasks.Scalar, 24),
        (tasks.cross_entropy, tasks.LogProbabilities, 24),
        (tasks.noisy_by_hand, tasks.Noisy, 24),
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
        (tasks.scaled_in_float32, tasks.Plain),
        (tasks.softmax_again, tasks.LogProbabilities),
        (tasks.noisy_and_doubled, tasks.Noisy),
    ],
)
def test_a_wrong_loss_is_caught_at_the_first_step(candidate, task):
    result = check(candidate, task)
    assert (result.verdict, result.onset.step, result.onset.quantity) == ("diverged", 0, "output_grad"), result.line


def test_five_percent_in_bfloat16_are_named():
    assert "scaled by 1.05" in check(tasks.five_percent_in_bfloat16, tasks.Bfloat16).worst.cause


def test_what_the_model_takes_away_is_rounding_and_said():
    verdict = check(tasks.cross_entropy, tasks.LogProbabilities).worst
    assert verdict.verdict == "rounding" and verdict.audit.grad_error_u > 1e6
    assert verdict.cause == (
        "the gradients differ in a direction that the model takes away: what its backward makes of the difference is "
        "rounding"
    )
