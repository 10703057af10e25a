"""What a loss keeps between calls is put back after extra calls: each kind of state, planted, and nothing else."""

import functools
import random
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from parity.observe.loss_state import LARGEST, TooLarge, state_restored
from parity.observe.settings import settings_restored

CALLS = 0
SEEN = []
LATEST = torch.zeros(2)


def counting_in_a_global():
    global CALLS
    CALLS += 1
    SEEN.append(CALLS)
    LATEST.add_(1)
    return CALLS, list(SEEN), LATEST.tolist()


def through_a_helper():
    return counting_in_a_global()


def made_global():
    global MADE
    MADE = globals().get("MADE", 0) + 1
    return MADE


def counting_in_an_attribute():
    counting_in_an_attribute.calls = getattr(counting_in_an_attribute, "calls", 0) + 1
    return counting_in_an_attribute.calls


def counting_in_a_default(calls={"n": 0}):  # noqa: B006 - the state that is meant
    calls["n"] += 1
    return calls["n"]


def counting_in_a_keyword(*, calls=[]):  # noqa: B006 - the state that is meant
    calls.append(1)
    return len(calls)


def closure():
    calls, kept = 0, {"latest": torch.zeros(2), "seen": OrderedDict(), "queue": deque(), "set": set()}

    def loss():
        nonlocal calls
        calls += 1
        kept["latest"].mul_(0.5).add_(1)
        kept["seen"][calls] = True
        kept["queue"].append(calls)
        kept["set"].add(calls)
        kept["new"] = calls
        return calls, kept["latest"].tolist(), len(kept["seen"]), list(kept["queue"]), kept["set"] | set(), kept["new"]

    return loss


class Counting:
    in_class = 0

    def __init__(self):
        self.calls, self.nested = 0, SimpleNamespace(value=[0])
        self.array, self.by_name = np.zeros(2), defaultdict(int)

    def __call__(self):
        self.calls += 1
        self.nested.value[0] += 1
        self.array += 1
        self.by_name["n"] += 1
        type(self).in_class += 1
        type(self).added = self.calls
        return self.calls, list(self.nested.value), self.array.tolist(), dict(self.by_name), type(self).in_class


class Slots:
    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.calls


@dataclass(frozen=True, slots=True)
class Frozen:
    settings: dict[str, int]

    def __call__(self):
        self.settings["calls"] += 1
        return dict(self.settings)


class OnClass(torch.autograd.Function):
    calls = 0

    @staticmethod
    def forward(ctx, output):
        OnClass.calls += 1
        return output * 0 + OnClass.calls


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.weight, self.calls = nn.BatchNorm1d(3), nn.Parameter(torch.ones(2)), 0

    def forward(self):
        self.calls += 1
        self.norm(torch.ones(4, 3))
        self.train(not self.training)
        with torch.no_grad():
            self.weight.mul_(2)
        return self.calls, self.norm.running_mean.tolist(), self.training, self.weight.tolist()


def drawing():
    own = torch.Generator(), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
    own[0].manual_seed(0)
    return lambda: (
        float(torch.rand((), generator=own[0])),
        float(own[1].random()),
        float(own[2].random()),
        own[3].random(),
    )


def accumulating():
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)

    def loss():
        weight.square().sum().backward()
        return weight.grad.tolist()

    return loss


KINDS = {
    "global": counting_in_a_global,
    "global of a helper": through_a_helper,
    "global that is made": made_global,
    "attribute of a function": counting_in_an_attribute,
    "default argument": counting_in_a_default,
    "keyword's default": counting_in_a_keyword,
    "closure": closure(),
    "object": Counting(),
    "bound method": Counting().__call__,
    "slots": Slots(),
    "frozen": Frozen({"calls": 0}),
    "partial": functools.partial(closure()),
    "class of an autograd.Function": lambda: float(OnClass.apply(torch.ones(()))),
    "apply": functools.partial(OnClass.apply, torch.ones(())),
    "module": Norm(),
    "module in a closure": (lambda module: lambda: module())(Norm()),
    "generators of its own": drawing(),
    "gradients": accumulating(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_as_before_the_calls(kind):
    loss = KINDS[kind]
    with state_restored(loss):
        first, second = loss(), loss()
        assert repr(first) != repr(second), "no state is planted"
    with state_restored(loss):
        assert repr(loss()) == repr(first)
    assert repr(loss()) == repr(first)
    assert repr(loss()) == repr(second)


def test_what_has_not_changed_is_not_touched():
    tensor, entries = torch.arange(3.0), {"a": [1]}
    version, expanded, before = tensor._version, tensor[:1].expand(4), dict(entries)

    def loss():
        return tensor, entries, expanded

    with state_restored(loss):
        loss()
    assert tensor._version == version and entries == before and entries["a"] is before["a"]


def test_state_is_put_back_after_a_loss_that_raises():
    loss = Counting()
    with pytest.raises(ValueError, match="planted"), state_restored(loss):
        loss()
        raise ValueError("planted")
    assert loss.calls == 0


def test_a_large_tensor_that_is_written_to_is_named_and_one_that_is_read_is_not():
    large = torch.zeros(LARGEST + 1)
    with state_restored(lambda: large):
        large.sum()
    with pytest.raises(TooLarge) as error, state_restored(lambda: large):
        large.add_(1)
    assert str(error.value) == ("it wrote to a tensor of shape [1048577], too large to be put back after each call")


def test_settings_are_as_before_the_block():
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), np.geterr()
    with settings_restored():
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(before[2] + 1)
        np.seterr(all="raise")
    assert before == (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), np.geterr())
