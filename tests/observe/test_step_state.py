"""What a step starts from: settings, counters and tensors of the optimizers, modes, generators; and its buffers."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from parity.observe.optimizer_state import IMPLEMENTATION
from parity.observe.step_state import StepState
from parity.store.trace import GENERATORS


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 2))


def train(net, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.linspace(-1, 1, 15).reshape(5, 3)).square().sum().backward()
        optimizer.step()


def seen(net, *optimizers, state=None, **taken):
    """The state of one step, with its settings as they are read back."""
    state = state or StepState(net, optimizers)
    state.begin()
    state.modes()
    for optimizer in optimizers:
        state.before_update(optimizer)
    found = state.take(**taken)
    return found | {"settings": json.loads(found["settings"])}


def adam(net, **options):
    return torch.optim.Adam(net.parameters(), **{"lr": 1e-3, **options})


def test_equal_states_leave_equal_columns():
    one, other = (seen(net, adam(net)) for net in (model(), model()))
    assert one == other
    assert len(one["generator_digests"]) == len(GENERATORS)


def test_a_learning_rate_is_a_setting():
    net = model()
    optimizer = adam(net)
    before = seen(net, optimizer)
    optimizer.param_groups[0]["lr"] = 5e-4
    after = seen(net, optimizer)
    assert before["state_digest"] == after["state_digest"]
    assert [each["settings"]["optimizers"][0]["groups"][0]["lr"] for each in (before, after)] == [1e-3, 5e-4]


def test_a_learning_rate_that_is_a_tensor_is_a_number():
    net = model()
    found = seen(net, adam(net, lr=torch.tensor(0.5), foreach=False, capturable=False))
    assert found["settings"]["optimizers"][0]["groups"][0]["lr"] == 0.5


def test_how_an_optimizer_computes_is_not_a_setting():
    net = model()
    one, other = (seen(net, adam(net, foreach=foreach))["settings"] for foreach in (True, False))
    assert one == other
    assert IMPLEMENTATION.isdisjoint(set(one["optimizers"][0]["groups"][0]) - {"params"})


def test_groups_are_told_by_the_numbers_of_their_parameters():
    net = model()
    parameters = list(net.parameters())
    outside = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD(
        [{"params": [*parameters[:2], parameters[4]]}, {"params": [parameters[5], outside], "lr": 0.2}], lr=0.1
    )
    groups = seen(net, optimizer)["settings"]["optimizers"][0]["groups"]
    assert [(group["params"], group["lr"]) for group in groups] == [("0-1 4", 0.1), ("5 -1", 0.2)]


def test_counters_and_tensors_of_the_optimizer_are_seen():
    net = model()
    optimizer = adam(net)
    fresh = seen(net, optimizer)
    train(net, optimizer, steps=2)
    trained = seen(net, optimizer)
    assert (fresh["state_counts"], trained["state_counts"]) == ([0, 0, 0], [6, 2, 2])
    assert fresh["state_digest"] != trained["state_digest"]
    optimizer.state[net[0].weight]["exp_avg"][0, 0] += 1e-3
    assert seen(net, optimizer)["state_digest"] != trained["state_digest"]


def test_a_state_that_was_lost_is_seen():
    net = model()
    optimizer = adam(net)
    train(net, optimizer)
    optimizer.state.clear()
    assert seen(net, optimizer)["state_counts"] == [0, 0, 0]


def test_the_step_counter_of_one_parameter_is_seen():
    net = model()
    optimizer = adam(net)
    train(net, optimizer)
    optimizer.state[net[0].weight]["step"] += 5
    assert seen(net, optimizer)["state_counts"] == [6, 1, 6]


def test_an_optimizer_that_does_not_step_is_no_fresh_one():
    net = model()
    one, other = adam(net), torch.optim.SGD(net.parameters(), lr=1.0)
    state = StepState(net, [one, other])
    found = seen(net, one, state=state)
    assert found["settings"]["optimizers"][1] is None
    assert found["state_counts"] == [0, 0, 0, -1, -1, -1]
    # What was seen is forgotten with its step.
    assert json.loads(state.take()["settings"])["optimizers"] == [None, None]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda net: net.eval(), ("all", [])),
        (lambda net: net[1].eval(), (["1"], [])),
        (lambda net: net[2].eval(), (["2"], [])),
        (lambda net: net[0].weight.requires_grad_(False), ([], ["0.weight"])),
        (lambda net: net, ([], [])),
    ],
)
def test_modes_are_seen(change, told):
    net = model()
    change(net)
    settings = seen(net, adam(net))["settings"]
    assert (settings["evaluating"], settings["frozen"]) == told


def test_scale_and_factors_are_seen():
    net = model()
    settings = seen(net, adam(net), scale=1024.0, factors=[0.5, 0.5])["settings"]
    assert (settings["scale"], settings["factors"]) == (1024.0, [0.5, 0.5])


def test_a_draw_before_the_step_is_seen_and_nothing_is_drawn():
    net = model()
    before = torch.get_rng_state()
    one = seen(net, adam(net))["generator_digests"]
    assert torch.equal(before, torch.get_rng_state())
    np.random.default_rng()
    torch.rand(1)
    other = seen(net, adam(net))["generator_digests"]
    assert [left == right for left, right in zip(one, other, strict=True)] == [False, True, True, True, True]


def test_buffers_are_seen_by_name_even_if_a_module_replaces_them():
    net = model()
    state = StepState(net, [])
    assert state.buffer_names == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    before = state.buffers()
    net[1].running_mean = torch.full((4,), 2.0)
    after = state.buffers()
    assert list(before.digests != after.digests) == [True, False, False]
    assert after.norms[0] == pytest.approx(4.0)


def test_other_models_are_compared_as_buffers_are():
    net, average = model(), model()
    state = StepState(net, [], {"ema": average})
    assert "ema.0.weight" in state.buffer_names and "ema.1.running_mean" in state.buffer_names
    before = state.buffers()
    with torch.no_grad():
        average[0].weight[0, 0] += 1
    changed = np.flatnonzero(before.digests != state.buffers().digests)
    assert [state.buffer_names[index] for index in changed] == ["ema.0.weight"]


def test_a_model_without_buffers_has_an_empty_fingerprint():
    found = StepState(nn.Linear(2, 2), []).buffers()
    assert found.digests.size == 0 and found.digest == StepState(nn.Linear(2, 2), []).buffers().digest


def halve_a_momentum(net, optimizer):
    optimizer.state[net[0].weight]["exp_avg"] *= 0.5


def move_a_momentum(net, optimizer):
    momentum = optimizer.state[net[0].weight]["exp_avg"]
    momentum.data = momentum * 0.5


def replace_a_momentum(net, optimizer):
    optimizer.state[net[0].weight]["exp_avg"] = optimizer.state[net[0].weight]["exp_avg"] * 0.5


def fold_a_momentum(net, optimizer):
    momentum = optimizer.state[net[0].weight]["exp_avg"]
    momentum.data = momentum.data.reshape(2, 6)  # other numbers are in the same memory


def load_a_state(net, optimizer):
    state = optimizer.state_dict()
    state["state"] = {
        number: {name: value * 0.5 if name == "exp_avg" else value for name, value in entry.items()}
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict(state)


def lose_an_entry(net, optimizer):
    del optimizer.state[net[0].weight]


def gain_a_tensor(net, optimizer):
    optimizer.state[net[0].weight]["more"] = torch.ones(2)


@pytest.mark.parametrize(
    "change",
    [
        halve_a_momentum,
        move_a_momentum,
        replace_a_momentum,
        fold_a_momentum,
        load_a_state,
        lose_an_entry,
        gain_a_tensor,
    ],
)
def test_what_is_looked_up_once_is_seen_to_change(change):
    net = model()
    optimizer = adam(net)
    train(net, optimizer)
    state = StepState(net, [optimizer])
    before = [seen(net, optimizer, state=state) for _ in range(3)]
    assert before[0] == before[1] == before[2]
    change(net, optimizer)
    after = seen(net, optimizer, state=state)
    assert after["state_digest"] != before[0]["state_digest"]
    assert after == seen(net, optimizer)


@pytest.mark.parametrize(
    ("made", "change", "told"),
    [
        (lambda: 0.5, lambda group: group.update(rates=0.25), 0.25),
        (lambda: torch.tensor(0.5), lambda group: group["rates"].mul_(0.5), 0.25),
        (lambda: [0.5, 0.25], lambda group: group["rates"].reverse(), [0.25, 0.5]),
        (lambda: (torch.tensor(0.5), 1), lambda group: group["rates"][0].mul_(0.5), [0.25, 1]),
    ],
)
def test_a_setting_that_changes_in_place_is_seen(made, change, told):
    net = model()
    optimizer = adam(net)
    optimizer.param_groups[0]["rates"] = made()
    state = StepState(net, [optimizer])
    for _ in range(3):
        before = seen(net, optimizer, state=state)
    change(optimizer.param_groups[0])
    after = seen(net, optimizer, state=state)
    assert before["settings"] != after["settings"]
    assert after["settings"]["optimizers"][0]["groups"][0]["rates"] == told


def test_a_group_that_gets_parameters_is_seen():
    net = model()
    optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
    state = StepState(net, [optimizer])
    for _ in range(3):
        before = seen(net, optimizer, state=state)
    optimizer.param_groups[0]["params"].append(net[3].weight)
    after = seen(net, optimizer, state=state)
    groups = [each["settings"]["optimizers"][0]["groups"][0]["params"] for each in (before, after)]
    assert groups == ["0-1", "0-1 4"]
