"""Faults are planted in curves, and found where they are; what a log cannot show is not said."""

import numpy as np
import pytest

from parity.ground.errors import Trouble
from parity.plan.tolerance import Tolerance
from parity.scalars.choosing import compare_logs
from parity.scalars.comparing import compare_series
from parity.scalars.log import Log, make_series
from parity.scalars.precision import Precision
from parity.scalars.scale import Scale

FLOAT32 = Precision("float32")
LOSS = np.float32(8.0407)
NONE = np.array([], np.int64)


def curve(values, *, steps=None, precision=FLOAT32, blank=NONE):
    numbers = np.array(values, np.float64)
    return make_series(
        np.arange(len(numbers)) if steps is None else np.array(steps), numbers, precision, np.array(blank)
    )


def compare(baseline, candidate, **tolerance):
    return compare_series(("loss", "loss"), baseline, candidate, tolerance=Tolerance(**tolerance))


def falling(count=200):
    return (LOSS / (1 + np.arange(count, dtype=np.float32) / 50)).astype(np.float32)


@pytest.mark.parametrize("step", [0, 1, 199])
def test_one_ulp_at_8_0407_is_one_ulp(step):
    values = np.full(200, LOSS)
    planted = values.copy()
    planted[step] = np.nextafter(LOSS, np.float32(9))
    found = compare(curve(values), curve(planted))
    assert (found.word, found.different, found.first.step, found.first.units) == ("differ", 1, step, 1)
    assert (found.unit, found.growth.kind) == ("ulp of float32", "gradual")
    assert compare(curve(values), curve(planted), rtol=found.rtol).word == "within"
    assert compare(curve(values), curve(planted), atol=found.atol).word == "within"
    assert compare(curve(values), curve(planted), atol=np.nextafter(found.atol, 0)).word == "differ"


def test_drift_grows_like_rounding_and_a_planted_fault_jumps():
    values = falling()
    drift = values.astype(np.float64) * (1 + 2.0**-23 * 1.03 ** np.arange(200))
    drifting = drift.astype(np.float32)
    found = compare(curve(values), curve(drifting))
    assert (found.growth.kind, found.growth.step) == ("gradual", found.first.step)
    drifting[120:] *= np.float32(1.01)
    found = compare(curve(values), curve(drifting))
    assert (found.growth.kind, found.growth.step) == ("jump", 120) and found.growth.factor > 100


def test_a_difference_that_is_large_at_once_is_no_rounding_of_a_step():
    values = falling()
    found = compare(curve(values), curve(values * np.where(np.arange(200) >= 50, 1.001, 1.0)))
    assert (found.growth.kind, found.growth.step) == ("large", 50)


@pytest.mark.parametrize(
    ("kept", "first", "found"),
    [
        (slice(None), 1, (0, 1)),
        (slice(1, None), 0, (1, 0)),
        (slice(120, None), 0, (120, 0)),  # a training that was resumed, and counts anew
        (slice(50), 1_000, (0, 1_000)),
    ],
)
def test_a_curve_whose_steps_are_counted_differently_is_recognized(kept, first, found):
    values = falling()
    rounded = (values * (1 + 2.0**-23 * np.sin(np.arange(200)))).astype(np.float32)[kept]
    renumbered = curve(rounded, steps=np.arange(first, first + len(rounded)))
    there = compare(curve(values), renumbered).renumbering
    assert (there.baseline, there.candidate) == found
    back = compare(renumbered, curve(values)).renumbering
    assert (back.candidate, back.baseline) == found


def test_a_curve_that_lags_by_a_step_is_recognized():
    values = falling()
    lagging = curve(np.append(np.float32(9), values[:-1]))
    for one, other, found in ((curve(values), lagging, (0, 1)), (lagging, curve(values), (1, 0))):
        there = compare(one, other).renumbering
        assert (there.baseline, there.candidate) == found


def test_other_curves_are_not_taken_for_one_whose_steps_are_counted_differently():
    values = falling()
    shorter = curve(values[1:8], steps=np.arange(7))
    ulps = np.arange(200, dtype=np.float32) * np.spacing(LOSS)
    for baseline, candidate in [
        (curve(values), curve(values * np.float32(1.001))),
        (curve(values), curve(np.random.default_rng(0).permutation(values))),
        (curve(np.repeat([1.0, 2.0], 50)), curve(np.repeat([1.0, 2.0], [49, 51]))),  # flat
        (curve(values), shorter),
        (curve(values), curve(values * np.float32(1 + 2e-7))),  # which differ by rounding as they are
        (curve(LOSS + ulps), curve(LOSS + ulps + ulps[1])),  # so slow that rounding is as large as a step
    ]:
        assert compare(baseline, candidate).renumbering is None


def test_a_nan_on_one_side_differs_and_no_tolerance_passes():
    values, planted = falling(), falling()
    planted[7] = np.nan
    for found in (compare(curve(values), curve(planted), rtol=1e9), compare(curve(planted), curve(values), atol=1e9)):
        assert (found.word, found.first.step, found.first.units, found.growth.kind) == ("differ", 7, -1, "not finite")
        assert found.rtol == found.atol == np.inf


def test_a_nan_on_both_sides_is_equal_and_counted():
    values = falling()
    values[[3, 9]] = np.nan
    found = compare(curve(values), curve(values))
    assert (found.word, found.not_numbers) == ("identical", (2, 3))


def test_infinities_of_other_signs_differ_and_equal_ones_do_not():
    assert compare(curve([np.inf, -np.inf]), curve([np.inf, -np.inf])).word == "identical"
    assert compare(curve([np.inf]), curve([-np.inf]), atol=1e300).word == "differ"


def test_zeros_of_other_signs_are_not_identical():
    found = compare(curve([0.0]), curve([-0.0]))
    assert (found.word, found.first.units, found.atol) == ("differ", 0, 0.0)


def test_missing_steps_on_either_side_and_places_without_a_number_are_undecided():
    values = falling()
    shorter = compare(curve(values), curve(values[:150]))
    assert shorter.word == "undecided" and (shorter.only_baseline.count, shorter.only_baseline.first) == (50, 150)
    steps = [step for step in range(200) if step != 17]
    missing = compare(curve(values[steps], steps=steps), curve(values))
    assert missing.word == "undecided" and missing.only_candidate.first == missing.only_candidate.last == 17
    blank = compare(curve(values[steps], steps=steps, blank=[17]), curve(values[steps], steps=steps, blank=[17]))
    assert (blank.word, blank.blank) == ("undecided", (1, 17))
    apart = compare(curve(values), curve(values, steps=range(1000, 1200)))
    assert (apart.word, apart.steps) == ("undecided", 0)


def test_a_difference_counts_more_than_a_missing_step():
    values = falling()
    assert compare(curve(values), curve(values[:100] * np.float32(2))).word == "differ"


def test_of_repeated_steps_the_last_counts_and_unsorted_steps_are_sorted():
    found = compare(curve([1.0, 2.0, 3.0, 3.0], steps=[0, 1, 2, 2]), curve([3.0, 1.0, 2.0], steps=[2, 0, 1]))
    assert found.word == "identical" and found.notes == (
        "baseline: 1 steps are logged more than once, with the same numbers; the last number of each counts",
        "candidate: its steps are not in order: 0 comes after 2",
    )


def test_repeats_that_are_not_the_same_are_undecided():
    once, twice = curve([1.0, 3.0]), curve([1.0, 9.0, 3.0], steps=[0, 1, 1])
    other = curve([1.0, 8.0, 3.0], steps=[0, 1, 1])
    assert [compare(twice, each).word for each in (once, other, twice)] == ["undecided", "undecided", "identical"]
    assert compare(once, twice).repeats and compare(twice, other, atol=1.0).word == "identical"


def test_printed_numbers_are_compared_as_printed():
    four = Precision("printed", 4)
    found = compare(curve([8.0407, 7.5], precision=four), curve([8.0407, 7.5001], precision=four))
    assert (found.first.step, found.first.units, found.unit) == (1, 1, "in the last decimal")
    assert (
        found.weak == "the logs have these numbers with at most 4 decimals, so a difference below 5e-05 would not show"
    )
    assert compare(curve([8.0407], precision=four), curve([8.0407], precision=four)).word == "identical"
    assert "a difference below 5e-324 would" in Scale.of(*[Precision("printed", 400)] * 2).weak


def test_an_exact_log_is_rounded_to_what_the_other_one_prints():
    exact = curve([np.float32(8.0407), np.float32(7.5)])
    assert compare(exact, curve([8.0407, 7.5], precision=Precision("printed", 4))).word == "identical"
    found = compare(exact, curve([8.0409, 7.5], precision=Precision("printed", 4)))
    assert (found.word, found.first.units) == ("differ", 2)
    doubles = curve([8.0407, 1 / 3], precision=Precision("float64"))
    found = compare(curve([np.float32(8.0407), np.float32(1 / 3)]), doubles)
    assert (found.word, found.different, found.hidden) == ("undecided", 0, (2, 0)) and "rounded to it" in found.weak


def log(path="a.csv", **names):
    return Log(path, "CSV", {name.replace("__", "/"): curve(values) for name, values in names.items()})


def test_all_in_common_are_compared_without_those_about_speed():
    found = compare_logs(
        log(loss=[1.0], lr=[0.5], tps=[7.0], time__step=[1.0]), log(loss=[1.0], lr=[0.5], tps=[8.0], time__step=[2.0])
    )
    assert [each.name for each in found.scalars] == ["loss", "lr"] and found.speed == ("tps", "time/step")
    assert (found.word, found.exit_status) == ("identical", 0)
    chosen = compare_logs(log(tps=[7.0]), log(tps=[8.0]), chosen=["tps"])
    assert (chosen.word, chosen.exit_status) == ("differ", 1)


@pytest.mark.parametrize(
    ("name", "speed"),
    [
        *((name, True) for name in ("step_time", "time/step", "train_samples_per_second", "memory/max_reserved(GiB)")),
        *((name, True) for name in ("time_per_step", "gpu_mem_gb", "train_runtime", "perf/mfu", "iteration-time")),
        *((name, False) for name in ("time_loss", "loss/time", "mem_acc", "time_embedding_norm", "throughput_loss")),
    ],
)
def test_what_measures_speed(name, speed):
    one, other = log(**{name: [1.0], "lr": [1.0]}), log(**{name: [2.0], "lr": [1.0]})
    assert compare_logs(one, other).word == ("identical" if speed else "differ")


def test_a_scalar_of_one_side_is_not_passed_over():
    found = compare_logs(log(loss=[1.0], lr=[0.5]), log(lr=[0.5]))
    assert (found.word, found.exit_status, found.only_baseline) == ("undecided", 3, ("loss",))
    assert compare_logs(log(loss=[1.0], lr=[0.5]), log(lr=[0.5]), chosen=["lr"]).word == "identical"


def test_scalars_of_other_names_are_paired():
    found = compare_logs(log(loss=[1.0]), log(train__loss=[1.0]), chosen=["loss=train/loss"])
    assert (found.scalars[0].candidate_name, found.word) == ("train/loss", "identical")


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (
            ["los"],
            "a.csv has no scalar 'los'. Did you mean 'loss'? Where the logs have different names, give --scalar ",
        ),
        (["loss"], "b.csv has no scalar 'loss'. Did you mean 'train/loss'? "),
        (["zzz"], "a.csv has no scalar 'zzz'. Its scalars: loss."),
        (
            [],
            "a.csv and b.csv have no scalar in common that could be compared. The baseline has loss; the candidate ",
        ),
    ],
)
def test_wrong_names_are_explained(chosen, text):
    with pytest.raises(Trouble) as raised:
        compare_logs(log(loss=[1.0]), log("b.csv", train__loss=[1.0]), chosen=chosen)
    assert str(raised.value).startswith(text)
