"""What differs in the states from which steps are taken: each planted difference by name, and silence without one."""

import json

import pytest
import torch
import torch.nn.functional as F
from small_loops import ask, logsumexp_loss, net
from synthetic_runs import Planted, make_run, nothing, with_column
from torch import nn

from parity.judge import judge
from parity.judge.state_settings import numbers_by_name, settings_that_differ

GROUP = {"params": "0-15", "betas": [0.9, 0.999], "lr": 1e-3, "weight_decay": 0.0}


def with_settings(run, settings, *, trial=1):
    """The run with other settings in each step of a trial."""
    return with_column(
        run, trial, "settings", lambda texts: [json.dumps(json.loads(text) | settings) for text in texts]
    )


def states(**planted):
    (pair,) = judge(make_run(Planted(**planted))).pairs
    return pair.comparison.state


def told(state, index):
    return [each.explain() for each in state.at(index)]


def test_equal_states_differ_in_nothing():
    state = states()
    assert state.known and state.comparable
    assert not state.differs.any()
    assert state.first_at(0) is None


@pytest.mark.parametrize(
    ("planted", "told_as"),
    [
        ({"settings": {7: {"lr": 5e-4}}}, "learning rate: 0.001 and 0.0005"),
        ({"settings": {7: {"betas": [0.9, 0.99]}}}, "betas: 0.9, 0.999 and 0.9, 0.99"),
        ({"settings": {7: {"weight_decay": 1e-4}}}, "weight_decay: 0 and 0.0001"),
        ({"modes": {7: {"evaluating": "all"}}}, "modules in evaluation mode: none and all"),
        ({"modes": {7: {"evaluating": ["1", "3"]}}}, "modules in evaluation mode: none and 1, 3"),
        ({"modes": {7: {"frozen": ["0.weight"]}}}, "frozen parameters: none and 0.weight"),
        ({"counts": {7: [0, 0, 0]}}, "optimizer's state: of 16 parameters after 7 steps and none"),
        (
            {"counts": {7: [16, 6, 6]}},
            "optimizer's state: of 16 parameters after 7 steps and of 16 parameters after 6 steps",
        ),
        ({"counts": {7: [-1, -1, -1]}}, "optimizer's step: taken and skipped"),
    ],
)
def test_a_planted_difference_is_named_at_its_step(planted, told_as):
    state = states(**planted)
    named = state.named
    assert not named[:7].any() and named[7]
    assert told(state, 7) == [told_as]
    shown = state.first_at(7)
    assert told_as == f"{shown.of_what}: {shown.baseline} and {shown.candidate}"


def test_settings_of_some_parameters_name_them():
    groups = [{**GROUP, "params": "0-13"}, {**GROUP, "params": "14-15", "weight_decay": 0.1}]
    run = make_run(Planted())
    run = with_settings(run, {"optimizers": [{"class": "Adam", "groups": groups}]})
    (pair,) = judge(run).pairs
    assert told(pair.comparison.state, 3) == ["weight_decay of parameters 14, 15: 0 and 0.1"]


def test_groups_that_are_cut_otherwise_are_the_same_settings():
    groups = [{**GROUP, "params": "0-7"}, {**GROUP, "params": "8 9-15"}]
    (pair,) = judge(with_settings(make_run(Planted()), {"optimizers": [{"class": "Adam", "groups": groups}]})).pairs
    assert not pair.comparison.state.differs.any()
    assert pair.verdict == "identical"


def test_a_rate_that_is_a_float32_tensor_is_the_same_rate():
    assert not states(settings={0: {"lr": 0.0010000000474974513}}).differs.any()


def test_settings_that_only_one_optimizer_has_are_not_compared():
    assert not states(settings={0: {"amsgrad": False}}).named.any()


def test_dampening_of_no_momentum_changes_nothing():
    for momentum, differs in ((0.0, False), (0.9, True)):
        one = {0: {"momentum": momentum, "dampening": 0.0}}
        group = {**GROUP, "momentum": momentum, "dampening": 0.1}
        run = with_settings(make_run(Planted(settings=one)), {"optimizers": [{"class": "Adam", "groups": [group]}]})
        run = with_settings(run, {"optimizers": [{"class": "Adam", "groups": [{**group, "dampening": 0.0}]}]}, trial=0)
        (pair,) = judge(run).pairs
        assert pair.comparison.state.named.any() == differs


def test_tensors_of_the_optimizer_differ_without_a_name():
    state = states(differs={"state": 7})
    assert list(state.tensors) == [step >= 7 for step in range(20)]
    assert not state.named.any() and state.at(7) == []
    assert state.first_at(7) is None


def test_states_of_other_optimizers_are_not_compared():
    state = states(settings={0: {"class": "Mine"}}, differs={"state": 0}, counts={0: [0, 0, 0]})
    assert not state.comparable and not state.differs.any()
    (pair,) = judge(make_run(Planted(settings={0: {"class": "Mine"}}))).pairs
    assert (pair.verdict, pair.first) == ("rounding", None)
    assert pair.cause == (
        "every tensor is equal to the bit at each step; the state of the optimizer is kept in different forms"
    )


def test_a_generator_that_is_drawn_from_counts():
    state = states(generators=7)
    assert list(state.generators) == ["torch"]  # nobody draws from the others
    assert list(state.generators["torch"]) == [step >= 7 for step in range(20)]
    assert state.first_at(7).of_what == "generator of torch"
    assert state.at(7) == []


@pytest.mark.parametrize("column", ["settings", "state_counts", "state_digest", "generator_digests"])
@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_states_of_which_a_part_is_not_stored_are_not_known(column, sides):
    run = make_run(Planted())
    for side in sides:
        run = with_column(run, side, column, nothing)
    (pair,) = judge(run).pairs
    assert not pair.comparison.state.known
    assert pair.verdict != "identical"


class InOrder(nn.Module):
    """Two layers that are registered in either order, and applied in one."""

    def __init__(self, names):
        super().__init__()
        first, _, last = net()
        for name in names:
            setattr(self, name, {"first": first, "last": last}[name])

    def forward(self, inputs):
        return self.last(F.gelu(self.first(inputs)))


def rates(first, last):
    return lambda model: torch.optim.SGD(
        [{"params": model.first.parameters(), "lr": first}, {"params": model.last.parameters(), "lr": last}], 0.1
    )


@pytest.mark.parametrize(
    ("optimizer", "verdict", "said"),
    [
        (rates(0.01, 0.1), "rounding", "as near to float64 as rounding allows"),
        (rates(0.1, 0.01), "diverged", "learning rate of parameters 0, 1: 0.01 and 0.1"),
    ],
)
def test_settings_belong_to_names_where_models_have_them_in_another_order(tmp_path, optimizer, verdict, said):
    pair = ask(
        tmp_path,
        {"model": lambda: InOrder(["first", "last"]), "optimizer": rates(0.01, 0.1), "steps": 12},
        {
            "model": lambda: InOrder(["last", "first"]),
            "optimizer": optimizer,
            "loss": logsumexp_loss,
            "steps": 12,
        },
    )
    assert pair.verdict == verdict, pair.cause
    assert said in pair.cause


def test_the_same_names_in_another_order_are_paired_by_name():
    assert numbers_by_name(["a", "b", "c"], ["c", "a", "b"]) == (2, 0, 1)
    assert numbers_by_name(["a", "b"], ["a", "b"]) is None
    assert numbers_by_name(["a", "b"], ["x", "y"]) is None


def test_modes_of_models_in_another_order_are_the_same():
    one, other = ({"optimizers": [], "frozen": names, "evaluating": names} for names in (["a", "b"], ["b", "a"]))
    assert settings_that_differ(json.dumps(one), json.dumps(other), (1, 0)) == ()
    assert len(settings_that_differ(json.dumps(one), json.dumps(other))) == 2


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (("0-3", "-1"), "parameters outside of the model"),
        (("2-3", "-1-1"), "parameters 0, 1 and parameters outside of the model"),
    ],
)
def test_parameters_outside_of_the_model_are_not_taken_for_others(params, said):
    inside, outside = ({"params": text, "lr": 0.1} for text in params)
    texts = [
        json.dumps({"optimizers": [{"class": "Adam", "groups": [inside, outside | {"lr": rate}]}]})
        for rate in (0.1, 0.2)
    ]
    assert [each.explain() for each in settings_that_differ(*texts)] == [f"learning rate of {said}: 0.1 and 0.2"]
