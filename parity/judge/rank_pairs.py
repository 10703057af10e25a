"""Pairs of a distributed training: each rank with one process that has the whole batch, or with the first rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from parity.ground.errors import Trouble
from parity.judge.between import pair_across_runs
from parity.judge.columns import Columns
from parity.judge.pairs import Pair
from parity.judge.ranks import RankFinding, Ranks, RankTraces
from parity.judge.sides import ComparedRun
from parity.judge.trial_trace import TrialTrace

# Settings in which ranks differ from one process, and from each other, by nature.
_OF_RANKS = ("batch size", "seed")


def is_distributed(runs: Mapping[str, ComparedRun]) -> bool:
    """Whether these are the ranks of a training, rather than one process."""
    return "" not in runs


def with_mean_losses(runs: Mapping[str, ComparedRun]) -> dict[str, ComparedRun]:
    """The ranks, each with the mean of their losses in place of its own."""
    ranks = _ranks(runs)
    return {
        name: replace(side, run=replace(side.run, traces=RankTraces(side.run.traces, ranks)))
        for name, side in runs.items()
    }


def pairs_with_one_process(single: ComparedRun, runs: Mapping[str, ComparedRun]) -> Iterator[Pair]:
    """Yields the pairs of one process and each rank.

    Args:
        single: The run of one process, which has the whole batch.
        runs: The ranks, as they are stored.

    Raises:
        Trouble: A trace is damaged; one of the runs has several trials; or the ranks hold parts of the parameters.
    """
    ranks = _ranks(runs)
    if ranks.sharded:
        name = next(iter(runs.values())).run.trials[0].run
        raise Trouble(
            f"The ranks of {name.rpartition('/')[0]} hold parts of the parameters, as FSDP gives them, and one process "
            "has all of them: they cannot be compared. Compare them with the ranks of another run."
        )
    (baseline,) = single.run.trials
    trace = TrialTrace(baseline, Columns(single.run.traces))
    finding = ranks.find(trace)
    # A rank that has all rows is compared as a whole.
    own = frozenset() if ranks.equal_rows(trace) else ranks.own
    for side in runs.values():
        (candidate,) = side.run.trials
        yield _of_ranks(pair_across_runs(single, side, baseline, candidate), own, finding, peers=False)


def pairs_of_ranks(runs: Mapping[str, ComparedRun]) -> Iterator[Pair]:
    """Yields the pairs of the first rank and each other one; none where the ranks hold parts of the parameters.

    Raises:
        Trouble: A trace is damaged.
    """
    ranks = _ranks(runs)
    if ranks.sharded:
        return
    finding = ranks.find(None)
    first, *others = runs.values()
    for side in others:
        pair = pair_across_runs(first, side, first.run.trials[0], side.run.trials[0])
        yield _of_ranks(pair, ranks.own, finding, peers=True)


def note_on(runs: Mapping[str, ComparedRun], *, alone: bool) -> str:
    """A sentence on what is compared of ranks.

    Args:
        runs: The ranks.
        alone: Whether they are compared with each other.
    """
    ranks = _ranks(runs)
    if ranks.sharded:
        return "Each rank holds parts of the parameters, as FSDP gives them: ranks are not compared with each other."
    beside = " The loss is the mean over the ranks." if not alone else ""
    same = " Ranks were given the same rows at each step." if alone and ranks.same_inputs() else ""
    buffers = " Their buffers differ from the first step on, and are not compared." if "buffer" in ranks.own else ""
    return (
        "Each rank has rows of its own: gradients and parameters are compared, inputs, outputs and losses are not."
        f"{beside}{buffers}{same}"
    )


def _ranks(runs: Mapping[str, ComparedRun]) -> Ranks:
    """The ranks of a training.

    Raises:
        Trouble: One of them has several trials.
    """
    for side in runs.values():
        if len(side.run.trials) != 1:
            raise Trouble(f"{side.run.directory} has {len(side.run.trials)} trials, and a rank has one.")
    trials = {name: side.run.trials[0] for name, side in runs.items()}
    return Ranks(trials, {name: side.run.traces for name, side in runs.items()})


def _of_ranks(pair: Pair, own: frozenset[str], finding: RankFinding | None, *, peers: bool) -> Pair:
    """The pair, with the facts of its ranks; what differs between ranks by design does not count."""
    between = pair.between
    assert between is not None, "the pair is of two runs"
    differ = tuple(each for each in between.differ if each[0] not in _OF_RANKS)
    return replace(
        pair,
        axis=", ".join(name for name, *_ in differ) or "ranks",
        between=replace(
            between,
            differ=differ,
            owed=False,
            apart="each rank has rows of its own, so no step is the same in float64" if own else between.apart,
            other=None if own else between.other,
            own=own,
            ranks=finding,
            peers=peers,
        ),
    )
