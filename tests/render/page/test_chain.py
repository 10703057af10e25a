from synthetic_runs import ROUNDING, TENSORS, Planted, make_run

import parity
from parity.judge.judging import judge
from parity.render.differing import make_rows
from parity.render.page.chain import make_chains


def _half(output, target):
    return ((output - target) ** 2).mean() / 2


def chains(planted):
    verdict = judge(make_run(planted)).pairs[0]
    return make_chains(verdict, make_rows(verdict))


def test_the_first_broken_link_is_marked():
    (chain,) = chains(Planted(differs=ROUNDING))
    assert [link.state for link in chain.links] == [
        *4 * ["equal"],
        "first",
        "equal",
        "differs",
        "equal",
        "differs",
        "equal",
    ]
    assert chain.title == "Step 2, the first difference" and not chain.open


def test_what_is_beyond_rounding_has_a_chain_of_its_own():
    first, onset = chains(Planted(differs={"output": 3, "loss": 5, **ROUNDING}, grad_errors={7: 1e6}))
    assert [link.state for link in first.links][4] == "first"
    assert onset.title == "Step 7, the first difference beyond rounding"
    assert [link.state for link in onset.links] == [
        *("equal", "equal", "within", "within", "beyond", "equal", "differs", "equal", "differs", "equal"),
    ]


def test_a_loss_whose_own_error_is_beyond_rounding_does_not_differ_by_rounding():
    (verdict,) = parity.check(_half, steps=2, batch_size=64, progress=False).judgement.pairs
    assert verdict.onset.quantity == "output_grad"
    (chain,) = make_chains(verdict, make_rows(verdict))
    assert [link.state for link in chain.links][3:5] == ["differs", "beyond"]


def test_the_first_differing_layer_is_marked():
    (chain,) = chains(Planted(differs={"param_grad": 4, "param": 4}, tensors=(2, 5)))
    assert chain.open and chain.differing == {"param_grad": 2, "param": 2}
    assert [name for name, states in chain.layers if "first" in states] == [TENSORS[5]]  # backward: the last layer's


def test_equal_traces_have_no_chain():
    assert chains(Planted()) == ()
