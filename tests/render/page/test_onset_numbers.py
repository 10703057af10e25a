from synthetic_runs import ROUNDING, TENSORS, Planted, make_run

from parity.judge.judging import judge
from parity.render.page.onset_numbers import onset_numbers


def numbers_of(planted, **options):
    return onset_numbers(judge(make_run(planted, **options)).pairs[0])


def test_the_numbers_are_those_of_the_onset_and_not_of_the_first_difference():
    found = numbers_of(Planted(differs={"loss": 3, **ROUNDING}, losses={7: 0.25}, grad_errors={7: 2.0**24}))
    assert found.what == "output_grad"
    assert found.table.headings == ("side", "loss", "norm of output_grad", "distance of output_grad from float64")
    baseline, candidate = found.table.rows
    assert candidate == ("candidate", "0.25", "0.002", "100 %") and baseline[2] == "0.002"
    assert found.apart == "Rounding explains 0.000095 %."


def test_a_nan_has_no_distance():
    found = numbers_of(Planted(losses={5: float("nan")}))
    assert found.table.headings[:2] == ("side", "loss") and found.table.rows[1][1] == "nan"


def test_a_tensor_has_its_own_norm():
    planted = Planted(
        differs={"param_grad": 4}, tensors=(2,), distances={"param_grad": {4: 0.5}}, lengths={"param_grad": {4: 1.5}}
    )
    found = numbers_of(planted)
    assert found.what == f"param_grad {TENSORS[2]}"
    assert [row[2] for row in found.table.rows] == ["1", "1.5"]


def test_what_passes_has_no_onset():
    assert numbers_of(Planted(differs=ROUNDING)) is None
