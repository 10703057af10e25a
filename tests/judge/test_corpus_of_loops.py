"""The corpus of loops: wrong pairs are caught where they part and their causes named, and right ones are not flagged.

`benchmarks/verdicts.py --corpus loops` prints the same as a table, with all steps and beside what people use instead.
"""

import re
import sys
from dataclasses import replace

import pytest

sys.path.insert(0, "tests/corpus")

from loops import PAIRS
from loops.pair import Answer, ask, named, placed
from loops.recording import Recordings
from loops.truth import parting

pytestmark = pytest.mark.slow
SOURCE = re.compile(r"made for this corpus: |[\w.-]+/[\w.-]+(?: #\d+|, [\w./]+)")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return Recordings(tmp_path_factory.mktemp("loops"))


@pytest.fixture(scope="module")
def answers(recordings):
    """What parity says of a pair, asked once."""
    known = {}

    def answer(pair):
        if pair.missing:
            pytest.skip(f"parity.Recorder has no keyword {pair.missing}")
        if pair.name not in known:
            known[pair.name] = ask(*(recorded.path for recorded in recordings.of(pair)))
        return known[pair.name]

    return answer


def names(pairs):
    return [pair.name for pair in pairs]


def shortened(pair):
    """The pair without most of the steps after those at which it may be caught; a right one goes on past step 10."""
    loops = {side: getattr(pair, side) for side in ("baseline", "candidate")}
    parts = {(loop.first_step, loop.steps) for loop in loops.values()}
    # Of a pair that is inexact, nobody knows when it is beyond rounding.
    if pair.ranked or pair.inexact or parts != {(0, 16)}:
        return pair
    most = 11 if not pair.wrong else 6 if pair.steps and pair.steps[-1] < 4 else 16
    return replace(pair, **{side: replace(loop, steps=most) for side, loop in loops.items()})


PAIRS = [*map(shortened, PAIRS)]
WRONG = [pair for pair in PAIRS if pair.wrong]
RIGHT = [pair for pair in PAIRS if not pair.wrong]


@pytest.mark.parametrize("pair", WRONG, ids=names(WRONG))
def test_a_wrong_loop_is_caught_where_it_parts(pair, answers):
    answer = answers(pair)
    assert answer.verdict in pair.verdicts, str(answer)
    assert placed(pair, answer), f"{answer} | right: step {pair.steps}, {sorted(pair.quantities)}"


@pytest.mark.parametrize("pair", RIGHT, ids=names(RIGHT))
def test_a_right_loop_is_not_flagged(pair, answers):
    assert answers(pair).verdict in {*pair.verdicts, "inconclusive"}, str(answers(pair))


def test_at_least_nine_in_ten_causes_are_named(answers):
    wrong = [pair for pair in WRONG if not pair.missing]
    missed = [f"{pair.name}: {answers(pair)}" for pair in wrong if not named(pair, answers(pair))]
    assert len(missed) <= len(wrong) / 10, "\n".join(missed)


def test_at_most_one_in_twenty_is_undecided(answers):
    pairs = [pair for pair in PAIRS if not pair.missing]
    undecided = [
        f"{pair.name}: {answers(pair)}"
        for pair in pairs
        if answers(pair).undecided and "inconclusive" not in pair.verdicts
    ]
    assert len(undecided) <= len(pairs) / 20, "\n".join(undecided)


EXACT = [pair for pair in PAIRS if pair.inexact is None]


@pytest.mark.parametrize("pair", EXACT, ids=names(EXACT))
def test_in_float64_wrong_loops_part_at_their_step_and_right_ones_never(pair, recordings):
    assert parting(*recordings.in_float64(pair)) == (pair.steps[0] if pair.wrong else None)


def test_there_are_enough_of_both_each_with_a_source_and_a_name_of_its_own():
    assert len(WRONG) >= 60 and len(RIGHT) >= 40
    assert len(set(names(PAIRS))) == len(PAIRS)
    assert [pair.name for pair in PAIRS if not SOURCE.match(pair.source)] == []
    assert [pair.name for pair in WRONG if not any(pair.words)] == []


def test_these_checks_can_fail():
    pair = next(pair for pair in WRONG if pair.name == "learning_rate_tenth")
    right = Answer("diverged", 12, "state", None, "the learning rates are 0.001 and 0.0001")
    assert placed(pair, right) and named(pair, right) and right.flagged
    assert not placed(pair, Answer("diverged", 13, "state", None, right.cause))
    assert not placed(pair, Answer("diverged", 12, "param", None, right.cause))
    assert not named(pair, Answer("diverged", 12, "state", None, "the weights differ"))
