"""How far parameters are apart: what their updates add up to, however the steps are parted."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_loops import data, logsumexp_loss
from synthetic_runs import Planted, make_run
from torch import nn

import parity
from parity.judge import judge
from parity.judge.drift import Drift
from parity.judge.segments import Segment, Span
from parity.judge.several_runs import join
from parity.store.trace import SKETCH_SUMS

PLACE, STEPS = 5, 20


@pytest.fixture(scope="module")
def run():
    planted = Planted(differs={"param": 4}, tensors=(PLACE,), distances={"update": {4: 0.1, 9: 0.3}})
    return make_run(planted, steps=STEPS)


@pytest.fixture(scope="module")
def common(run):
    (pair,) = judge(run).pairs
    return pair.comparison.common


def expected(run):
    """The distances of two parameters after each step; float64[S, 2]."""
    sides = [
        np.array(run.traces[trial]["update_sketches"].to_pylist(), np.float64).reshape(STEPS, -1, SKETCH_SUMS)
        for trial in ("builtin@cpu-s0", "mine@cpu-s0")
    ]
    return np.linalg.norm((sides[1] - sides[0]).cumsum(axis=0)[:, [PLACE, 0]], axis=2)


def test_updates_add_up(run, common):
    found = Drift(common, [PLACE, 0]).between(0, STEPS)
    np.testing.assert_allclose(found, expected(run), rtol=1e-12)
    assert not found[:4].any() and found[4:, 0].all() and not found[:, 1].any()


@pytest.mark.parametrize("asked", [[(0, 20)], [(3, 9), (8, 20)], [(17, 20), (0, 8)]])
def test_it_does_not_depend_on_how_the_steps_are_parted_and_asked_for(run, common, monkeypatch, asked):
    places = (0, 6, 7, 15, STEPS)
    spans = [Span(None, begin, end - begin) for begin, end in pairwise(places)]
    monkeypatch.setattr(
        "parity.judge.drift.segments", lambda *_: iter([Segment(span.begin, span, span) for span in spans])
    )
    drift = Drift(common, [PLACE, 0])
    for begin, end in asked:
        np.testing.assert_allclose(drift.between(begin, end), expected(run)[begin:end], rtol=1e-12)


def recorded_from(first, out, loss):
    """A training of 24 steps, recorded from one of them on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    batches = [*data(24)]
    for inputs, target in batches[:first]:
        optimizer.zero_grad()
        loss(model(inputs), target).backward()
        optimizer.step()
    with parity.Recorder(out, model, optimizers=optimizer, criterion=F.cross_entropy, first_step=first) as recorder:
        for inputs, target in batches[first:]:
            optimizer.zero_grad()
            output = model(inputs)
            value = loss(output, target)
            recorder.forward(inputs, output=output, target=target, loss=value)
            value.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
    return out


def test_buffers_may_have_parted_before_a_recording_begins(tmp_path):
    """The bias before the batch norm is nothing but noise, and each step before has added to it."""
    runs = [recorded_from(0, tmp_path / "a", F.cross_entropy), recorded_from(12, tmp_path / "b", logsumexp_loss)]
    joined = join(runs, across=False)
    (pair,) = judge(joined.run, joined.pairs).pairs
    assert (pair.verdict, pair.onset) == ("rounding", None)
