"""Whether two losses can both be right for one float64 loss."""

import numpy as np
from synthetic_runs import ROUNDING, Planted, make_run, with_column

from parity.judge import judge
from parity.judge.one_oracle import one_oracle

STEPS = 6


def near(run):
    (pair,) = judge(run).pairs
    return list(one_oracle(pair.comparison))


def test_losses_that_differ_by_rounding_have_one_oracle():
    assert near(make_run(Planted(differs={"loss": 2, **ROUNDING}), steps=STEPS)) == [True] * STEPS


def test_another_number_or_another_gradient_has_another_oracle():
    assert near(make_run(Planted(losses={3: 0.5}), steps=STEPS)) == [step != 3 for step in range(STEPS)]
    run = with_column(make_run(Planted(), steps=STEPS), 1, "output_grad_norm", lambda norms: [1.01 * n for n in norms])
    assert near(run) == [False] * STEPS


def test_a_gradient_that_is_wrong_for_its_own_oracle_says_nothing_about_the_oracle():
    run = make_run(Planted(grad_errors=dict.fromkeys(range(STEPS), 2.0**24)), steps=STEPS)
    assert near(with_column(run, 1, "output_grad_norm", lambda norms: [2 * norm for norm in norms])) == [True] * STEPS


def test_a_step_that_was_not_audited_is_no_evidence():
    run = make_run(Planted(grad_errors={4: np.nan}), steps=STEPS)
    assert near(run) == [step != 4 for step in range(STEPS)]
