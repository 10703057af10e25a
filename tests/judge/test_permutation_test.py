import itertools
import math

import numpy as np
import pytest

from parity.judge.permutation_test import (
    FEWEST_REPLICAS,
    MOST_LABELLINGS,
    describe,
    labellings,
    least_p,
    permutation_p_value,
    separation,
)
from parity.judge.spread import SpreadTest, compare_replicas
from parity.plan import lines

from conftest import Finished, command

STEPS = 60
FLOOR = 1e-5


def walks(rng, count, steps=STEPS, floor=FLOOR):
    """Loss curves of replicas: random walks about a falling loss, [count, steps]."""
    return 0.2 + 1 / np.arange(1, steps + 1) + floor * rng.standard_normal((count, steps)).cumsum(axis=1)


def heavy_tailed(rng, count):
    """Walks of t-distributed steps (2 degrees of freedom), each curve with a width of its own."""
    return (rng.standard_t(2, (count, STEPS)) * np.exp(rng.standard_normal((count, 1)))).cumsum(axis=1)


def few_outcomes(rng, count):
    """Replicas that take one of three courses, so that many are equal."""
    return np.outer(rng.integers(0, 3, count), np.linspace(0, 1, STEPS))


def with_nans(rng, count):
    """Walks of which some end in NaN or inf."""
    curves = walks(rng, count)
    for curve in curves:
        if rng.random() < 0.4:
            curve[rng.integers(STEPS) :] = rng.choice([np.nan, np.inf])
    return curves


NOISES = [walks, heavy_tailed, few_outcomes, with_nans]
SIZES = [(4, 4), (5, 5), (3, 6), (6, 2), (1, 20), (8, 8)]


def most_rejections(count, level=lines.TEST_LEVEL.value, doubt=1e-4):
    """The number of rejections that a test of this level exceeds with a probability of at most `doubt`; binomial."""
    below = 0.0
    for rejections in range(count + 1):
        below += math.comb(count, rejections) * level**rejections * (1 - level) ** (count - rejections)
        if below >= 1 - doubt:
            return rejections
    return count


def test_the_binomial_slack():
    assert most_rejections(200) == 23  # 10 are expected at 5 %


@pytest.mark.parametrize(("baseline", "candidate"), SIZES)
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.__name__)
def test_equal_distributions_are_rejected_at_the_level(noise, baseline, candidate):
    rng = np.random.default_rng(7)
    count = 200 if math.comb(baseline + candidate, baseline) < MOST_LABELLINGS else 60
    p_values = [permutation_p_value(noise(rng, baseline), noise(rng, candidate)) for _ in range(count)]
    assert sum(p is not None and p <= lines.TEST_LEVEL.value for p in p_values) <= most_rejections(count)


def p_values_of_all_labellings(curves, baseline):
    chosen = [list(found) for found in itertools.combinations(range(len(curves)), baseline)]
    return np.array([permutation_p_value(curves[one], np.delete(curves, one, axis=0)) for one in chosen])


def is_valid(p_values):
    """Whether at most a share p of equally likely p-values is p or below, for each of them and the level."""
    return all(np.mean(p_values <= p) <= p + 1e-12 for p in [*p_values, lines.TEST_LEVEL.value])


@pytest.mark.parametrize(("baseline", "candidate"), [(4, 4), (5, 5), (3, 6), (6, 2), (1, 20)])
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.__name__)
def test_level_holds_exactly_over_all_labellings(noise, baseline, candidate):
    p_values = p_values_of_all_labellings(noise(np.random.default_rng(3), baseline + candidate), baseline)
    assert is_valid(p_values)
    if noise in (walks, heavy_tailed):
        assert p_values.min() == least_p(baseline, candidate)


def test_this_check_can_fail():
    p_values = p_values_of_all_labellings(walks(np.random.default_rng(3), 8), 4)
    assert is_valid(p_values)
    assert not is_valid(p_values - 1 / 70)  # the observed labelling does not count itself
    assert not is_valid(p_values / 2)  # its mirror does not count


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("baseline", "candidate"), [(4, 4), (5, 5), (6, 3), (8, 8), (20, 1)])
def test_a_shift_of_ten_floors_is_rejected(baseline, candidate, seed):
    rng = np.random.default_rng(seed)
    sd = FLOOR * np.sqrt(np.arange(1, STEPS + 1))
    p = permutation_p_value(walks(rng, baseline), walks(rng, candidate) + 10 * sd)
    assert p <= lines.TEST_LEVEL.value
    if math.comb(baseline + candidate, baseline) <= MOST_LABELLINGS:
        assert p == least_p(baseline, candidate)


@pytest.mark.parametrize(
    ("replicas", "least_found"),
    [(4, 96), (5, 99), (6, 100)],
)
@pytest.mark.parametrize("widening", [10, 0.1])
def test_ten_times_the_spread_about_an_equal_mean_is_found(replicas, least_found, widening):
    rng = np.random.default_rng(11)
    found = 0
    for _ in range(100):
        baseline, candidate = walks(rng, replicas), walks(rng, replicas, floor=widening * FLOOR)
        found += permutation_p_value(baseline, candidate) <= lines.TEST_LEVEL.value
    assert found >= least_found


def energy(distances, members):
    """The energy distance of each labelling, from its definition (Szekely & Rizzo 2013, eq. 6.1)."""
    sides = [(side > 0, side == 0) for side in members]
    return np.array(
        [
            2 * distances[np.ix_(one, two)].mean()
            - distances[np.ix_(one, one)].mean()
            - distances[np.ix_(two, two)].mean()
            for one, two in sides
        ]
    )


def test_the_energy_distance_alone_would_miss_spread():
    rng = np.random.default_rng(11)
    members = labellings(4, 4)
    found = {energy: 0, separation: 0}
    for _ in range(100):
        curves = describe(np.vstack([walks(rng, 4), walks(rng, 4, floor=10 * FLOOR)]))[0]
        distances = np.linalg.norm(curves[:, None] - curves, axis=2)
        for statistic in found:
            separations = statistic(distances, members)
            found[statistic] += np.mean(separations >= separations[0] - 1e-9) <= lines.TEST_LEVEL.value
    assert found[energy] < 80 < 96 <= found[separation]


def test_separation_of_a_known_case():
    """Points 0, 1 against 10, 13 on a line: the mean distances are 1, 3, and 48/6 of all."""
    points = np.array([0.0, 1.0, 10.0, 13.0])
    found = separation(np.abs(points[:, None] - points), labellings(2, 2))
    assert found[0] == pytest.approx(-math.log(1 / 8 + 0.03) - math.log(3 / 8 + 0.03))
    assert found.argmax() == 0
    assert found == pytest.approx(found[::-1])  # mirrors


@pytest.mark.parametrize(
    ("baseline", "candidate", "expected"),
    [
        (1, 1, 1.0),
        (3, 3, 2 / 20),
        (4, 4, 2 / 70),
        (3, 4, 1 / 35),
        (1, 19, 1 / 20),
        (7, 7, 2 / 3432),
        (8, 8, 1 / MOST_LABELLINGS),
    ],
)
def test_least_p(baseline, candidate, expected):
    assert least_p(baseline, candidate) == expected


def test_four_on_each_side_are_the_fewest():
    assert (
        least_p(FEWEST_REPLICAS - 1, FEWEST_REPLICAS - 1)
        > lines.TEST_LEVEL.value
        >= least_p(FEWEST_REPLICAS, FEWEST_REPLICAS)
    )


@pytest.mark.parametrize(("baseline", "candidate"), [(1, 1), (2, 3), (4, 4), (7, 7), (8, 8), (30, 3)])
def test_labellings_begin_with_the_observed_one(baseline, candidate):
    members = labellings(baseline, candidate)
    assert members[0].tolist() == [1.0] * baseline + [0.0] * candidate
    assert (members.sum(axis=1) == baseline).all()
    every = math.comb(baseline + candidate, baseline)
    if every <= MOST_LABELLINGS:
        assert len(np.unique(members, axis=0)) == len(members) == every
    else:
        assert len(members) == MOST_LABELLINGS


@pytest.mark.parametrize(("baseline", "candidate"), [(1, 1), (2, 2), (3, 3), (1, 18)])
def test_too_few_replicas_say_how_many_are_needed(baseline, candidate):
    rng = np.random.default_rng(0)
    found = compare_replicas(walks(rng, baseline), walks(rng, candidate) + 1)
    assert (found.p_value, found.detectable, found.power) == (None, None, None)
    assert not found.rejected
    assert found.explain() == (
        f"{candidate} candidate and {baseline} baseline replicas are too few for a permutation test at level 0.05: the "
        f"smallest p-value they can give is {found.least_p:.2g}. Use --replicas 4 or more."
    )


@pytest.mark.parametrize("steps", [0, 1, STEPS])
@pytest.mark.parametrize("loss", [0.1, 0.0, 1e308, math.nan, -math.inf])
def test_equal_curves_have_nothing_to_test(steps, loss):
    found = compare_replicas(np.full((5, steps), loss), np.full((4, steps), loss))
    assert (found.p_value, found.detectable, found.power) == (None, None, None)
    assert (found.floor_rel, found.candidate_rel, found.rejected) == (0, 0, False)
    assert found.explain() == (
        "4 candidate and 5 baseline replicas have nothing to test: "
        "at no common step do their losses differ by more than rounding."
    )


@pytest.mark.parametrize(
    "loss",
    [0.1 + 1e-6, math.nan, math.inf, 1e308],
)
def test_sides_without_noise_that_differ_are_rejected(loss):
    candidate = np.full((5, STEPS), 0.1)
    candidate[:, 17] = loss
    found = compare_replicas(np.full((5, STEPS), 0.1), candidate)
    assert (found.p_value, found.detectable, found.power) == (least_p(5, 5), None, None)
    assert found.explain() == (
        "5 candidate and 5 baseline replicas are not spread alike (relative spread of the loss up to 0 and 0): "
        "permutation test of the distances between loss curves, level 0.05, p = 0.0079; "
        "its power is unknown, since the losses do not vary within the sides."
    )


def test_a_deterministic_candidate_of_a_noisy_baseline_is_rejected():
    rng = np.random.default_rng(0)
    assert compare_replicas(walks(rng, 5), np.repeat(walks(rng, 1), 5, axis=0)).rejected


def test_rounding_is_no_evidence():
    """A right candidate whose reported loss is always rounded otherwise than the baseline's, by up to 1 ulp."""
    rng = np.random.default_rng(6)
    baseline, candidate = walks(rng, 5, floor=1e-9), walks(rng, 5, floor=1e-9)
    candidate *= 1 + rng.integers(-1, 2, STEPS) * 2.0**-23
    assert compare_replicas(baseline, candidate, rounding_rel=0).rejected
    assert permutation_p_value(baseline, candidate, rounding_rel=0) == least_p(5, 5)
    assert compare_replicas(baseline, candidate).p_value is None
    candidate[:, 30] *= 1 + 2e-6
    assert compare_replicas(baseline, candidate).rejected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_candidate_that_alone_is_not_finite_is_rejected(value):
    rng = np.random.default_rng(2)
    baseline, candidate = walks(rng, 5), walks(rng, 5)
    assert permutation_p_value(baseline, candidate) > lines.TEST_LEVEL.value
    candidate[:, STEPS // 2 :] = value
    assert compare_replicas(baseline, candidate).p_value == least_p(5, 5)


def test_nan_and_inf_are_two_outcomes():
    rng = np.random.default_rng(2)
    baseline, candidate = walks(rng, 5), walks(rng, 5)
    baseline[:, STEPS // 2 :], candidate[:, STEPS // 2 :] = math.nan, math.inf
    assert compare_replicas(baseline, candidate).rejected


def test_what_is_nan_everywhere_is_dropped():
    rng = np.random.default_rng(2)
    baseline, candidate = walks(rng, 5), walks(rng, 5)
    more = np.full((5, 10), math.nan)
    assert compare_replicas(np.hstack([baseline, more]), np.hstack([candidate, more])) == (
        compare_replicas(baseline, candidate)
    )


def test_describe_by_hand():
    losses = np.array([[1.0, 5.0, 1.0], [3.0, 5.0, math.nan], [5.0, 5.0, 3.0]])
    columns, is_loss = describe(losses)
    third = math.sqrt(1.5)  # -1, 0, 1 at an sd of 1; the NaN is replaced by the mean of 1 and 3
    expected = [[-third, -third, -1 / math.sqrt(2)], [0, 0, math.sqrt(2)], [third, third, -1 / math.sqrt(2)]]
    assert columns == pytest.approx(np.array(expected))
    assert is_loss.tolist() == [True, True, False]


@pytest.mark.parametrize("factor", [1e-300, 1.0, 1e307])
def test_no_size_of_loss_warns_or_changes_the_answer(factor):
    rng = np.random.default_rng(5)
    baseline, candidate = walks(rng, 5, floor=1e-3), walks(rng, 5, floor=1e-3)
    expected = permutation_p_value(baseline, candidate)
    assert compare_replicas(factor * baseline, factor * candidate).p_value == expected


def test_relative_spread_of_the_loss():
    baseline = np.array([[1.0, 2.0, math.nan]] * 3 + [[3.0, 2.0, 4.0]])
    candidate = np.array([[-1.0, 2.0, math.inf]] * 3 + [[3.0, 2.5, 4.0]])
    found = compare_replicas(baseline, candidate)
    assert found.floor_rel == pytest.approx(2 / 1.5)
    assert found.candidate_rel == math.inf  # a mean of 0


@pytest.mark.parametrize("replicas", [4, 5, 8])
def test_equal_input_equal_answer(replicas):
    rng = np.random.default_rng(9)
    baseline, candidate = walks(rng, replicas), walks(rng, replicas)
    found = compare_replicas(baseline, candidate)
    assert found == compare_replicas(baseline.copy(), candidate.copy())
    if replicas < 8:  # where all labellings are there, the order of the curves and of the sides is no matter
        assert found.p_value == compare_replicas(candidate[::-1], baseline).p_value


def test_random_labellings_agree_with_all(monkeypatch):
    rng = np.random.default_rng(1)
    pairs = [(walks(rng, 6), walks(rng, 6)) for _ in range(5)]
    exact = [permutation_p_value(*pair) for pair in pairs]
    monkeypatch.setattr("parity.judge.permutation_test.MOST_LABELLINGS", 900)
    drawn = [permutation_p_value(*pair) for pair in pairs]
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.07)  # 4 sd of a share of 5000


def test_power_is_what_fresh_data_show():
    """Curves of one dimension, where the simulated process has the true covariance but for its size."""
    rng = np.random.default_rng(4)
    course = np.linspace(1, 2, STEPS)

    def draw(shift=0.0):
        return np.outer(rng.standard_normal(6) + shift, course)

    found = compare_replicas(draw(), draw())
    assert (found.detectable, found.power) == (3, pytest.approx(0.98, abs=0.03))
    fresh = [permutation_p_value(draw(), draw(3)) <= lines.TEST_LEVEL.value for _ in range(200)]
    assert np.mean(fresh) == pytest.approx(found.power, abs=0.05)


def test_more_replicas_detect_less():
    rng = np.random.default_rng(8)
    found = [compare_replicas(walks(rng, count), walks(rng, count)).detectable for count in (4, 8, 20)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            SpreadTest(5, 4, 1.24e-6, 3e-6, 1 / 126, 0.412, 3, 0.955),
            "4 candidate and 5 baseline replicas could not be distinguished (relative spread of the loss up to 3e-06 "
            "and 1.2e-06): permutation test of the distances between loss curves, level 0.05, p = 0.41; it detects a "
            "shift of 3 sd at each step in 96% of simulations.",
        ),
        (
            SpreadTest(4, 4, 0.5, 0.25, 2 / 70, 2 / 70, None, 0.61),
            "4 candidate and 4 baseline replicas are not spread alike (relative spread of the loss up to 0.25 and "
            "0.5): permutation test of the distances between loss curves, level 0.05, p = 0.029; it detects a shift of "
            "10 sd at each step in 61% of simulations only.",
        ),
    ],
)
def test_explain(found, expected):
    assert found.explain() == expected


def test_rejected_is_at_the_level_and_below():
    def rejected(p):
        return SpreadTest(5, 5, 0, 0, 2 / 252, p, None, None).rejected

    assert [rejected(p) for p in (None, lines.TEST_LEVEL.value, lines.TEST_LEVEL.value + 1e-9)] == [False, True, False]


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [((4, 3), (4, 2)), ((0, 3), (4, 3)), ((4, 3), (0, 3)), ((3,), (4, 3))],
)
def test_refuses_what_are_not_curves(baseline, candidate):
    with pytest.raises(ValueError) as caught:
        compare_replicas(np.zeros(baseline), np.zeros(candidate))
    assert str(caught.value) == (
        f"Replicas have losses of shape {list(baseline)} and {list(candidate)}. "
        "Give [curves, steps], one curve or more on each side, and the same steps."
    )


def test_the_module_loads_neither_torch_nor_ray_nor_scipy():
    code = "import parity.judge.spread, sys; print({'torch', 'ray', 'scipy'} & sys.modules.keys())"
    assert command("-c", code) == Finished(0, "set()\n", "")
