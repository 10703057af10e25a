"""How often the documents read the traces of long runs, of which the judge keeps nothing."""

import io

import pytest
from rich.console import Console
from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge import differences
from parity.judge.judging import judge
from parity.render import junit, markdown, terminal
from parity.render.page import html


@pytest.fixture
def measured(monkeypatch):
    """What was measured, as a list that grows; every trace is long."""
    found, measure = [], differences.measure
    monkeypatch.setattr(differences, "is_long", lambda record: True)
    monkeypatch.setattr(
        differences, "measure", lambda both, quantity: found.append(quantity) or measure(both, quantity)
    )
    return found


def long_pairs():
    plain = {"differs": ROUNDING, "distances": {"output_grad": {2: 1e-7}}}
    return make_run(*(Planted(name, **plain) for name in ("a", "b")), Planted("c", **plain, grad_errors={7: 1e6}))


def test_text_is_written_without_measuring_again(measured):
    run = long_pairs()
    judgement = judge(run)
    assert measured and all(verdict.first_apart for verdict in judgement.pairs)
    measured.clear()
    terminal.render(run, judgement, Console(file=io.StringIO(), width=80))
    markdown.render(run, judgement)
    junit.render(run, judgement)
    assert measured == []


def test_a_page_keeps_the_distances_of_no_pair(measured):
    run = long_pairs()
    judgement = judge(run)
    measured.clear()
    assert html.render(run, judgement)
    assert measured and not any(verdict.comparison._distances for verdict in judgement.pairs)
    # Each quantity of each pair once.
    assert len(measured) == len({*measured}) * len(judgement.pairs)
