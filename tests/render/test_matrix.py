from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.judging import judge
from parity.render.matrix import make_matrix


def test_a_cell_has_the_worst_verdict_and_its_pair():
    run = make_run(
        Planted("one", differs=ROUNDING),
        Planted("one", replica=1, differs=ROUNDING, grad_errors={7: 1e6}),
        Planted("builtin", replica=1),
        Planted("builtin", device="cpu:threads=2"),
    )
    judgement = judge(run)
    matrix = make_matrix(run, judgement)
    assert matrix.devices == ("cpu", "cpu:threads=2")
    cell = matrix.rows["one"][0]
    assert (cell.text, cell.pair.pair.candidate.trial) == ("diverged", "one@cpu-s0-r1")
    assert [cell.text for cell in matrix.rows["builtin"]] == ["identical (by replica)", "identical (by device)"]
    assert matrix.rows["one"][1].pair is None


def test_a_fault_of_a_device_is_not_hidden_behind_a_loss_that_passes():
    run = make_run(
        Planted("mine", differs=ROUNDING),
        Planted("builtin", device="cpu:threads=2", differs={"input": 2}),
        Planted("mine", device="cpu:threads=2", differs={"input": 2, "output_grad": 2}),
    )
    judgement = judge(run)
    matrix = make_matrix(run, judgement)
    found = {
        verdict.pair.axis: verdict.verdict
        for verdict in judgement.pairs
        if verdict.pair.candidate.trial == "mine@cpu:threads=2-s0"
    }
    assert found["loss"] == "rounding" != found["device"]
    assert matrix.rows["mine"][1].text == f"{found['device']} (by device)"
