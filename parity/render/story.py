"""What happened, in plain words: the verdict in a sentence, why, and what was compared."""

from collections.abc import Sequence

from parity.judge.fleet import software_differences
from parity.judge.verdict import VERDICTS, Judgement, PairVerdict
from parity.judge.verdict import rank as rank_of
from parity.plan.device import parse_device
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES
from parity.store.trials import TrialRecord

# Trials that a note names.
MOST_NAMED = 5


def notes(run: StoredRun) -> list[str]:
    """What a reader has to know before the verdict."""
    told = []
    if run.altered:
        told.append(f"Altered since the run was stored: {', '.join(run.altered)}. What is there now is judged.")
    partial = [record.trial for record in run.trials if record.status in ("interrupted", "planned")]
    if partial:
        more = f" and {len(partial) - MOST_NAMED} more" if len(partial) > MOST_NAMED else ""
        told.append(
            f"This run is partial: {', '.join(partial[:MOST_NAMED])}{more} did not end. What is stored is judged."
        )
    return [*told, *run.info.get("notes", ()), *software_differences(run.trials), *moved_lines(run)]


def nothing(run: StoredRun) -> str:
    """Why there is no pair, and what makes one."""
    if run.info.get("recorded") or run.info.get("runs"):
        return "Nothing to compare in one recording. To compare two: python -m parity.report A B."
    return "Nothing to compare: one trial makes no pair. Add a --loss, a --device or --replicas."


def moved_lines(run: StoredRun) -> list[str]:
    """Trials that did not run where their device's name says."""
    return [
        f"Node {device.node} left the cluster: {record.trial} was trained on {record.node}, which says nothing of "
        f"{device.node}."
        for record in run.trials
        if (device := parse_device(record.device)).node and record.node not in (None, device.node)
    ]


def rank(verdict: PairVerdict) -> tuple[bool, int]:
    """A key to sort pairs by: the worst first, and noise last."""
    return verdict.pair.axis == "noise", -rank_of(verdict.verdict)


def headline(judgement: Judgement) -> str:
    """The verdict in one sentence."""
    if judgement.trouble:
        return judgement.trouble
    pairs = [verdict for verdict in judgement.pairs if verdict.pair.axis != "noise"] or [*judgement.pairs]
    if not pairs:
        return "There is nothing to compare: one trial makes no pair."
    odd = [unit for each in judgement.fleet.classes for unit in each.odd]
    if odd:
        devices = {device for each in judgement.fleet.classes for device in each.devices}
        named = _listed([unit.device for unit in odd])
        told = "does not compute what its" if len(odd) == 1 else "do not compute what their"
        return f"{len(odd)} of {len(devices)} devices {told} equals compute: {named}."
    worst = max(pairs, key=lambda verdict: rank_of(verdict.verdict))
    alike = [verdict for verdict in pairs if verdict.verdict == worst.verdict]
    if len(alike) == len(pairs) > 1 and worst.meaning.of_all:
        return worst.meaning.of_all.format(count=len(pairs))
    return pair_headline(worst)


def pair_headline(verdict: PairVerdict) -> str:
    """What was found of a pair, in one sentence."""
    candidate, baseline = subjects(verdict)
    if verdict.onset and (role := verdict.nan_side):
        who, other = (candidate, baseline) if role == "candidate" else (baseline, candidate)
        where = f"at step {verdict.onset.step} the {verdict.onset.quantity} of {who} is NaN, that of {other} is not"
        return f"{candidate} does not train as {baseline}: {where}."
    if verdict.onset:
        return f"{candidate} does not train as {baseline}: from step {verdict.onset.step} on they part beyond rounding."
    if verdict.verdict == "failed" and verdict.pair.candidate.status == "failed":
        return f"{candidate} failed{_at(verdict.pair.candidate)}: {verdict.pair.candidate.error}."
    return verdict.meaning.sentence.format(candidate=candidate, baseline=baseline)


def subjects(verdict: PairVerdict) -> tuple[str, str]:
    """Candidate and baseline, named by what they differ in."""
    pair = verdict.pair
    if pair.axis == "loss" and not pair.between:
        return pair.candidate.loss_name, pair.baseline.loss_name
    if pair.axis == "device" and not pair.between:
        return pair.candidate.device, pair.baseline.device
    return pair.candidate.trial, pair.baseline.trial


def reason(verdict: PairVerdict) -> str | None:
    """Why, in a sentence; None where the headline says it all."""
    if not verdict.meaning.explained or not verdict.cause:
        return None
    if verdict.pair.candidate.status == "failed" and verdict.verdict == "failed":
        return None
    told = "; ".join(cause.text for cause in verdict.causes) or verdict.cause
    return f"{told[:1].upper()}{told[1:].rstrip('.')}."


def tally(judgement: Judgement) -> str:
    """How many pairs have which verdict; empty for one pair."""
    found = [verdict.verdict for verdict in judgement.pairs if verdict.pair.axis != "noise"]
    if len(found) < 2:
        return ""
    told = [f"{found.count(word)} {word}" for word in reversed(VERDICTS) if word in found]
    return f"Of {len(found)} pairs: {', '.join(told)}."


def compared(run: StoredRun, judgement: Judgement) -> list[tuple[str, str]]:
    """What was compared: term and words."""
    first = run.trials[0]
    losses = list(dict.fromkeys(record.loss_name for record in run.trials))
    devices = list(dict.fromkeys(record.device for record in run.trials))
    seeds = sorted({record.seed for record in run.trials})
    replicas = len({record.replica for record in run.trials})
    noise = len({record.noise for record in run.trials if record.noise})
    audited = [verdict.decision.audited for verdict in judgement.pairs if verdict.decision]
    epochs = f"in epochs of {first.batches:,} batches " if first.batches else ""
    told = [
        ("Losses", f"{losses[0]} (baseline) and {_listed(losses[1:])}" if losses[1:] else losses[0]),
        ("Devices", f"{devices[0]} (baseline) and {_listed(devices[1:])}" if devices[1:] else devices[0]),
        ("Steps", f"{first.steps:,}, {epochs}of {first.batch_size:,} rows"),
        ("Quantities", f"{len(QUANTITIES)} in each step, bit for bit: {', '.join(QUANTITIES)}"),
        ("Trials", f"{len(run.trials):,}; seed{'s' * (len(seeds) > 1)} {_listed([str(seed) for seed in seeds])}"),
    ]
    if replicas > 1:
        told.append(("Replicas", f"{replicas} of each trial"))
    if noise:
        told.append(("Noise", f"{noise} trials of the baseline under random rounding"))
    if audited:
        told.append(("Audit", f"{max(audited):,} steps of a pair held against float64"))
    return told


def _at(record: TrialRecord) -> str:
    return f" at step {record.failed_step}" if record.failed_step is not None else ""


def _listed(names: Sequence[str], most: int = 4) -> str:
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
