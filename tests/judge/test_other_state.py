"""Trainings that go on from checkpoints of their own, which rounding has driven apart, with a state that is damaged."""

import pytest
import torch
import torch.nn.functional as F
from small_loops import data
from torch import nn

import parity
from parity.judge import evidence, other_state
from parity.judge.judging import judge
from parity.judge.several_runs import join
from parity.report import report
from parity.store.storage import parse_path

BEGIN, END = 40, 52

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Sums in one order or in another; with `norm`, the gradient of a bias is nothing but rounding."""

    def __init__(self, *, halves, norm):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.halves = nn.Linear(8, 32), nn.Linear(32, 4), halves
        self.norm = nn.BatchNorm1d(32) if norm else nn.Identity()

    def forward(self, inputs):
        rows = F.gelu(self.norm(self.first(inputs)))
        if not self.halves:
            return self.last(rows)
        (left, right), weights = rows.split(16, dim=1), self.last.weight.split(16, dim=1)
        return left @ weights[0].T + right @ weights[1].T + self.last.bias


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-3)


def momentum(parameters):
    return torch.optim.SGD(parameters, 0.05, momentum=0.9)


def change(key, function):
    def damage(optimizer):
        for state in optimizer.state.values():
            state[key] = function(state[key])

    return damage


def swap(optimizer):
    states = [*optimizer.state.values()]
    states[0]["exp_avg"], states[2]["exp_avg"] = (
        states[2]["exp_avg"].reshape(-1).repeat(2).reshape(32, 8),
        states[0]["exp_avg"].reshape(-1)[:128].reshape(4, 32),
    )


def train(out, *, optimizer, halves=False, norm=False, nudge=0.0, damage=None, harm=None, first=BEGIN, decay=1.0):
    """Trains, and records the steps from `first` on, after some harm to the optimizer's state or the model at BEGIN.

    `nudge` moves the parameters before: what rounding grows to in a longer training.
    """
    model = Net(halves=halves, norm=norm)
    stepper, recorder = optimizer(model.parameters()), None
    schedule = torch.optim.lr_scheduler.ExponentialLR(stepper, decay)
    for step, (inputs, target) in enumerate(data(END)):
        if step == BEGIN - 20 and nudge:
            for number, parameter in enumerate(model.parameters()):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter.data += nudge * noise * parameter.data.std()
        if step == BEGIN and damage:
            damage(stepper)
        if step == BEGIN and harm:
            harm(model)
        if step == first:
            recorder = parity.Recorder(out, model, optimizers=stepper, criterion=F.cross_entropy, first_step=first)
        stepper.zero_grad()
        output = model(inputs)
        loss = F.cross_entropy(output, target)
        if recorder:
            recorder.forward(inputs, output=output, target=target, loss=loss)
        loss.backward()
        if recorder:
            recorder.backward()
        stepper.step()
        schedule.step()
        if recorder:
            recorder.step()
    recorder.close()
    return out


def ask(folder, *, damage=None, harm=None, nudge=0.0, first=BEGIN, **options):
    """The verdict on two trainings, the second of which is recorded from BEGIN on."""
    runs = [
        train(folder / "a", first=first, **options),
        train(folder / "b", halves=True, nudge=nudge, damage=damage, harm=harm, **options),
    ]
    joined = join(runs, across=False)
    (pair,) = judge(joined.run, joined.pairs).pairs
    return pair


@pytest.mark.parametrize("optimizer", [adam, momentum])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("first", [0, BEGIN])
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_own_checkpoints_that_rounding_has_driven_apart_are_rounding(tmp_path, optimizer, norm, first, decay):
    """With a batch norm, Adam has moved the bias before it by whole steps in random directions, and its mean with it.

    Of a rate that has decayed, the updates say nothing about how far these steps have led.
    """
    assert ask(tmp_path, optimizer=optimizer, norm=norm, first=first, decay=decay).verdict == "rounding"


DAMAGED = [
    (adam, change("exp_avg", torch.zeros_like)),
    (adam, change("exp_avg", lambda each: 0.98 * each)),
    (adam, change("exp_avg_sq", lambda each: 0.9 * each)),
    (adam, swap),
    (momentum, change("momentum_buffer", lambda each: 0.98 * each)),
    (momentum, change("momentum_buffer", torch.zeros_like)),
]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("optimizer", "damage"), DAMAGED)
def test_a_damaged_state_is_the_onset_beside_an_uninterrupted_training(tmp_path, optimizer, damage, norm):
    """Of which nobody has asked the optimizer at that step."""
    pair = ask(tmp_path, optimizer=optimizer, damage=damage, norm=norm, first=0)
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", BEGIN, "state")
    assert "the states of the optimizers differ (momentum, averages of gradients): what their first step adds is" in (
        pair.cause
    )


@pytest.mark.parametrize(
    ("optimizer", "damage"), [*DAMAGED, (adam, change("exp_avg_sq", lambda each: each.half().float()))]
)
def test_a_damaged_state_is_the_onset(tmp_path, optimizer, damage):
    pair = ask(tmp_path, optimizer=optimizer, damage=damage)
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", BEGIN, "state")
    assert "the states of the optimizers differ" in pair.cause


def test_a_bias_before_a_batch_norm_hides_no_damage(tmp_path):
    pair = ask(tmp_path, optimizer=adam, norm=True, damage=change("exp_avg_sq", lambda each: 0.9 * each))
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", BEGIN, "state")


@pytest.mark.parametrize("optimizer", [adam, momentum])
def test_states_may_be_as_far_apart_as_what_they_were_made_of(tmp_path, monkeypatch, optimizer):
    found = []
    # The updates of the first step say so as well.
    monkeypatch.setattr(other_state, "updates_part", lambda _: True)
    monkeypatch.setattr(evidence, "find_other_state", lambda each: found.append(other_state.find_other_state(each)))
    ask(tmp_path, optimizer=optimizer, nudge=3e-5)
    assert found == [None]


@pytest.mark.parametrize(("optimizer", "key"), [(adam, "exp_avg"), (momentum, "momentum_buffer")])
def test_a_state_in_float16_is_not_rounding(tmp_path, optimizer, key):
    pair = ask(tmp_path, optimizer=optimizer, damage=change(key, lambda each: each.half().float()))
    assert pair.verdict == "inconclusive"
    assert pair.cause.startswith(f"at step {BEGIN} the states of the optimizers differ")


@pytest.mark.parametrize("first", [0, BEGIN])
def test_updates_no_further_apart_than_turned_signs_make_them_are_not_certain(tmp_path, first):
    """An optimizer that takes signs turns those that are within rounding of zero."""
    pair = ask(tmp_path, optimizer=momentum, damage=change("momentum_buffer", lambda each: 0.9985 * each), first=first)
    assert pair.verdict == "inconclusive"
    assert pair.cause.startswith(f"at step {BEGIN} the states of the optimizers differ")


def test_the_report_says_where_to_look(tmp_path, capsys):
    damage = change("exp_avg_sq", lambda each: 0.9 * each)
    runs = [train(tmp_path / "a", optimizer=adam), train(tmp_path / "b", optimizer=adam, halves=True, damage=damage)]
    assert report([*map(parse_path, map(str, runs))]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "start from different optimizer states, from step 40 on" in said
    assert "Compare how both runs save and restore the optimizer's state" in said


@pytest.mark.parametrize("optimizer", [adam, momentum])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("first", [0, BEGIN])
def test_whether_rounding_has_driven_starts_far_apart_is_not_known(tmp_path, optimizer, norm, first):
    """Where a training is chaotic, rounding grows to any size, and all states with it."""
    pair = ask(tmp_path, optimizer=optimizer, norm=norm, first=first, nudge=0.03)
    assert pair.verdict == "inconclusive"
    assert f"at step {BEGIN} the parameters from which both continue are" in pair.cause
    assert "record both from their first step" in pair.cause


def in_bfloat16(model):
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()


def without_a_layer(model):
    model.last.reset_parameters()


@pytest.mark.parametrize("optimizer", [adam, momentum])
@pytest.mark.parametrize("first", [0, BEGIN])
def test_rounding_drives_no_layer_apart_alone(tmp_path, optimizer, first):
    pair = ask(tmp_path, optimizer=optimizer, harm=without_a_layer, first=first)
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", BEGIN, "state")
    assert "parameters of" in pair.cause


def test_equal_states_of_optimizers_show_that_parameters_were_changed(tmp_path):
    """The training of the second recording is that of the first up to there, to the bit."""
    runs = [train(tmp_path / "a", optimizer=adam, first=0), train(tmp_path / "b", optimizer=adam, harm=in_bfloat16)]
    joined = join(runs, across=False)
    (pair,) = judge(joined.run, joined.pairs).pairs
    assert (pair.verdict, pair.onset.step, pair.onset.quantity) == ("diverged", BEGIN, "state")


@pytest.mark.parametrize("optimizer", [adam, momentum])
def test_rounding_does_not_lead_back_to_an_earlier_step(tmp_path, optimizer):
    """Parameters of an older checkpoint, in a training whose optimizer has another state."""
    model = Net(halves=False, norm=False)
    stepper = optimizer(model.parameters())
    for inputs, target in data(BEGIN - 5):
        stepper.zero_grad()
        F.cross_entropy(model(inputs), target).backward()
        stepper.step()
    key = "exp_avg" if optimizer is adam else "momentum_buffer"
    runs = [
        train(tmp_path / "a", optimizer=optimizer, first=0),
        train(
            tmp_path / "b",
            optimizer=optimizer,
            damage=change(key, lambda each: 1.0001 * each),
            harm=lambda resumed: resumed.load_state_dict(model.state_dict()),
        ),
    ]
    joined = join(runs, across=False)
    (pair,) = judge(joined.run, joined.pairs).pairs
    assert pair.verdict == "diverged"
    assert (
        f"parameters before step {BEGIN}: those after step {BEGIN - 1} and those after step {BEGIN - 6}" in pair.cause
    )
