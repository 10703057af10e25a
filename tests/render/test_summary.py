import json
import math
from dataclasses import replace

from parity.judge.judging import judge
from parity.render.summary import summarize
from parity.store.stored_run import read_run

PAIR = {
    "axis", "baseline", "candidate", "baseline_loss", "candidate_loss", "baseline_device", "candidate_device", "seed",
    "verdict", "cause", "kind", "factor", "words", "first", "onset", "largest", "audit", "steps",
}  # fmt: skip


def test_a_summary_has_the_keys_that_scripts_rely_on(reference):
    summary = json.loads((reference / "summary.json").read_text())
    assert set(summary) == {"schema", "verdict", "exit_status", "pairs"}
    assert summary["schema"] == 1
    (pair,) = summary["pairs"]
    assert set(pair) == PAIR
    assert set(pair["first"]) == {
        "step", "epoch", "batch", "quantity", "tensor", "baseline", "candidate", "abs", "rel", "ulp",
    }  # fmt: skip
    assert set(pair["largest"]) == {"step", "abs", "rel", "ulp"}
    assert set(pair["audit"]) == {"step", "grad_error_u", "loss_error_u", "grad_ratio"}
    assert (pair["verdict"], pair["onset"], pair["steps"]) == ("rounding", None, 470)
    assert pair["first"]["step"] == 0


def test_the_summary_that_was_stored_is_the_one_that_is_judged_again(reference):
    assert summarize(judge(read_run(reference))) == json.loads((reference / "summary.json").read_text())


def test_a_number_that_is_not_finite_is_a_string(equal_pair):
    judgement = judge(read_run(equal_pair))
    largest = replace(judgement.pairs[0].largest, abs=math.inf, rel=math.nan)
    judgement = replace(judgement, pairs=(replace(judgement.pairs[0], largest=largest),))
    summary = summarize(judgement)
    assert (summary["pairs"][0]["largest"]["abs"], summary["pairs"][0]["largest"]["rel"]) == ("inf", "nan")
    json.dumps(summary, allow_nan=False)
