"""Devices decided from shared states: planted faults are found where they are, and rounding is no fault."""

import json

import pytest

from parity import run

SMALL = ("--batch-size", 64)


def pairs(out, *arguments):
    run.main(["--inline", "--loss", "builtin", "--out", str(out), *map(str, arguments)])
    return {pair["candidate_device"]: pair for pair in json.loads((out / "summary.json").read_text())["pairs"]}


@pytest.mark.parametrize("task", ["mnist-autoencoder", "mnist-classifier"])
def test_rounded_products_diverge_at_the_output_and_threads_do_not(task, tmp_path):
    devices = ("cpu", "cpu:threads=2", "cpu:plant=bfloat16", "cpu:plant=tf32")
    found = pairs(tmp_path / "run", *SMALL, "--task", task, "--steps", 2, "--device", *devices)
    assert found["cpu:threads=2"]["verdict"] in ("rounding", "identical")
    for precision in ("bfloat16", "tf32"):
        pair = found[f"cpu:plant={precision}"]
        assert (pair["verdict"], pair["onset"]["step"], pair["onset"]["quantity"]) == ("diverged", 0, "output")
        assert f"matrix products in {precision}" in pair["cause"]


def test_one_wrong_element_is_found_at_its_step_in_its_tensor(tmp_path):
    arguments = (*SMALL, "--steps", 19, "--device", "cpu", "cpu:plant=element-17")
    pair = pairs(tmp_path / "run", *arguments)["cpu:plant=element-17"]
    onset = pair["onset"]
    assert (pair["verdict"], onset["step"], onset["quantity"], onset["tensor"]) == (
        "diverged",
        17,
        "param_grad",
        "1.0.weight",
    )


def test_a_noisy_device_is_never_identical_and_a_wrong_loss_on_it_is_found(tmp_path):
    out = tmp_path / "run"
    losses = ("builtin", "tests/right_losses.py:functional", "tests/corpus/wrong_mse.py:SlightlyScaled")
    arguments = ["--inline", "--steps", "4", "--replicas", "4", "--device", "cpu:plant=noise", "--loss", *losses]
    assert run.main([*arguments, "--out", str(out)]) == 1
    found = json.loads((out / "summary.json").read_text())["pairs"]
    assert "identical" not in {pair["verdict"] for pair in found}
    by_loss = {pair["candidate_loss"]: pair for pair in found if pair["axis"] == "loss"}
    assert by_loss["SlightlyScaled"]["verdict"] == "diverged"  # 168 u, ten times the floor of 16 u
    assert by_loss["functional"]["verdict"] == "inconclusive"
    assert "the baseline's replicas disagree: 4 candidate and 4 baseline replicas" in by_loss["functional"]["cause"]


def test_noise_is_rounding_and_drawn_beside_the_candidates(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--inline", "--task", "mnist-classifier", "--device", "cpu", "--noise", "2", "--steps", "20"]
    assert run.main([*arguments, "--out", str(out)]) == 0
    found = json.loads((out / "summary.json").read_text())["pairs"]
    assert [pair["verdict"] for pair in found if pair["axis"] in ("noise", "loss")] == ["rounding"] * 3
    assert "Noise band: under random rounding of 1 ulp (2 trials)" in capsys.readouterr().out
