"""The result in plain words: the verdict in a sentence, the reason, and what was compared."""

import math

from parity.ground.listing import listed
from parity.judge.node_code import NodeCode, software_differences
from parity.judge.verdict import VERDICTS, Judgement, PairVerdict, rank
from parity.plan.device import parse_device
from parity.render.names import subjects
from parity.render.odd_devices import odd_devices, odd_headline
from parity.render.phrases import amount, counted, equal_runs, losses_differ, seen_by_audit, seen_without_audit
from parity.render.what import what_is_wrong
from parity.render.wrapping import clip, flat
from parity.store.stored_run import StoredRun
from parity.store.trace import QUANTITIES
from parity.store.trials import TrialRecord

# What each quantity is, in a clause; the update is not compared bit for bit, but may be the first beyond rounding.
MEANINGS = {
    "state": "what the step starts from: the optimizer's settings and state, modes, random generators",
    "input": "the batch and its target",
    "output": "what the model computes from the input",
    "loss": "the number that the loss reports",
    "output_grad": "the gradient of the loss with respect to the output",
    "target_grad": "the gradient of the loss with respect to a target that requires one",
    "param_grad": "the gradient of each parameter after the backward pass",
    "step_grad": "the gradient of each parameter that the optimizer received, after clipping or unscaling",
    "update": "what the step added to each parameter",
    "param": "each parameter after the step",
    "buffer": "each buffer of the model after the step, such as running statistics",
}
# Most characters of the headline: the error of a failed trial may be long, and the report of its pair has more of it.
_HEADLINE = 300
# Most trials that a note names.
_MOST_NAMED = 6


def altered(run: StoredRun) -> list[str]:
    """A sentence about the files that were altered since the run was stored, if any were."""
    if not run.altered:
        return []
    files = ", ".join(run.altered)
    return [f"Altered since the run was stored: {files}. The verdict is about the files as they are now."]


def notes(run: StoredRun) -> list[str]:
    """What a reader has to know before the verdict, in sentences."""
    found = altered(run)
    unfinished = [record for record in run.trials if record.status in ("interrupted", "planned")]
    # A recording that switched itself off says why.
    ended = [record for record in unfinished if record.error]
    found += [f"{record.trial} ended early: {str(record.error).rstrip('.')}." for record in ended[:_MOST_NAMED]]
    partial = [record.trial for record in unfinished if not record.error]
    if partial:
        names = listed(partial, most=_MOST_NAMED)
        found.append(f"This run is partial: {names} did not finish. The verdict is about the steps that are stored.")
    # Damage and missing trials first: they limit what every verdict below can mean.
    return [*found, *run.info.get("notes", ()), *_code_and_software(run), *moved_lines(run)]


def _code_and_software(run: StoredRun) -> list[str]:
    """Sentences on what differs between the nodes of a run."""
    return [*software_differences(run.trials), *NodeCode(run.trials).sentences()]


def nothing(run: StoredRun) -> str:
    """Why there is nothing to compare, and how to change that."""
    if run.info.get("recorded") or run.info.get("runs"):
        return "Nothing to compare in one recording. To compare two: parity report A B."
    return "Nothing to compare: a single trial is not a pair. Add a --loss, a --device or --replicas."


def moved_lines(run: StoredRun) -> list[str]:
    """Sentences about the trials that did not run on the node that their device names."""
    return [
        f"Node {device.node} left the cluster: {record.trial} was trained on {record.node}, so {device.node} was not "
        "tested."
        for record in run.trials
        if (device := parse_device(record.device)).node and record.node not in (None, device.node)
    ]


def worst_first(verdict: PairVerdict) -> tuple[bool, int]:
    """A key to sort pairs by: the worst verdict first, and the pairs of the noise band last."""
    # False sorts before True.
    return verdict.pair.axis == "noise", -rank(verdict.verdict)


def severity(verdict: PairVerdict) -> tuple[bool, int, bool, int, float]:
    """A key that sorts pairs of one verdict, too: training that ended first, then the earliest and largest fault."""
    step = verdict.onset.step if verdict.onset else verdict.pair.candidate.failed_step or 0
    off = verdict.onset_size.off if verdict.onset_size else verdict.largest.rel
    off = float(f"{off:.1g}")  # what differs by its digits only is in the order of the plan
    passing = verdict.meaning.passing
    # Of pairs that pass, and of one verdict, the first in the order of the plan is as good as any other.
    ended = verdict.pair.candidate.status == "failed"
    return *worst_first(verdict), not ended, 0 if passing else step, 0.0 if passing or math.isnan(off) else -off


def pairs_in_question(judgement: Judgement) -> list[PairVerdict]:
    """The pairs without those of the noise band, which only show what rounding does."""
    return [verdict for verdict in judgement.pairs if verdict.pair.axis != "noise"]


def worst_pair(judgement: Judgement) -> PairVerdict | None:
    """The pair that the headline is about: the first of the worst; None where there are no pairs.

    Args:
        judgement: The judgement of the run.
    """
    # A run of nothing but noise trials has only their pairs to speak of.
    pairs = pairs_in_question(judgement) or [*judgement.pairs]
    return min(pairs, key=severity, default=None)


def headline(judgement: Judgement) -> str:
    """What is wrong, or that nothing is, in one sentence."""
    return clip(_headline(judgement), _HEADLINE)


def _headline(judgement: Judgement) -> str:
    if judgement.trouble:
        return judgement.trouble
    worst = worst_pair(judgement)
    if worst is None:
        return "There is nothing to compare: a single trial is not a pair."
    # An odd device explains all its pairs at once, so the headline names devices instead of the worst pair.
    if odd := odd_devices(judgement):
        return odd_headline(judgement, odd)
    pairs = pairs_in_question(judgement) or [*judgement.pairs]
    # A sentence about all pairs is true only if they have the same verdict.
    if len(pairs) > 1 and worst.meaning.of_all and all(each.verdict == worst.verdict for each in pairs):
        if equal_runs(pairs):
            return (
                f"The runs are equal to the bit, in {'both pairs' if len(pairs) == 2 else f'all {len(pairs)} pairs'}."
            )
        most = max(each.largest.rel for each in pairs)
        upto = f" ({losses_differ(most)})" if worst.verdict == "rounding" and most else ""
        text = f"{worst.meaning.of_all.format(count=len(pairs)).rstrip('.')}{upto}."
        return text.replace("All 2 pairs", "Both pairs")
    return f"{_devices(judgement)}{pair_headline(worst)}" if worst.pair.axis == "loss" else pair_headline(worst)


def _devices(judgement: Judgement) -> str:
    """A sentence about the devices of a fleet that are as equal as they have to be, whatever its losses are."""
    fleet = judgement.fleet
    within = [
        verdict
        for verdict in judgement.pairs
        if verdict.pair.axis == "device" and fleet.alike(verdict.pair.baseline, verdict.pair.candidate)
    ]
    # Of devices of other code it is not known.
    if (
        not within
        or any(verdict.verdict != "identical" for verdict in within)
        or any(each.apart for each in fleet.classes)
    ):
        return ""
    count = sum(len(each.devices) for each in fleet.classes)
    as_others = "" if len(fleet.classes) == 1 else " as the others of their class"
    return f"All {count} devices train alike{as_others}, to the bit. "


def pair_headline(verdict: PairVerdict) -> str:
    """The verdict of a pair in one sentence: what is wrong, or that nothing is."""
    candidate, baseline = subjects(verdict)
    if verdict.verdict in ("diverged", "failed"):
        return what_is_wrong(verdict)
    if verdict.verdict == "inconclusive":
        return _inconclusive(verdict, candidate, baseline)
    sentence = verdict.meaning.sentence.format(candidate=candidate, baseline=baseline).rstrip(".")
    if verdict.largest.rel:
        far = losses_differ(verdict.largest.rel)
        sentence += f" ({far.removeprefix('losses differ ') if verdict.verdict == 'report-only' else far})"
    return f"{sentence}."


def _inconclusive(verdict: PairVerdict, candidate: str, baseline: str) -> str:
    if verdict.pair.axis == "replica":
        since = f", from step {verdict.first.step:,} on" if verdict.first else ""
        upto = f" ({losses_differ(verdict.largest.rel)})" if verdict.largest.rel else ""
        loss, device = flat(verdict.pair.candidate.loss_name), flat(verdict.pair.candidate.device)
        return f"{loss} on {device} is not deterministic: {candidate} and {baseline} differ{since}{upto}."
    sentence = verdict.meaning.sentence.format(candidate=candidate, baseline=baseline).rstrip(".")
    reason = flat(verdict.cause or "").rstrip(".")
    return f"{sentence}: {reason}." if reason else f"{sentence}."


def reason(verdict: PairVerdict) -> str | None:
    """The reason of the verdict in a sentence; None where the headline says it already."""
    if not verdict.meaning.explained or not verdict.cause:
        return None
    # The headline of a trial that failed is its error.
    if verdict.pair.candidate.status == "failed" and verdict.verdict == "failed":
        return None
    # The causes alone, without the numbers of the onset that `cause` ends with.
    text = "; ".join(cause.text for cause in verdict.causes) or verdict.cause
    # `capitalize` would turn the rest into lower case, names included.
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def tally(judgement: Judgement) -> str:
    """The number of pairs by verdict, in a sentence; empty for a single pair."""
    found = [verdict.verdict for verdict in pairs_in_question(judgement)]
    # Where all have one verdict, the headline says it.
    if len({*found}) < 2:
        return ""
    return f"Of {len(found)} pairs: {counted(found, reversed(VERDICTS))}."


def compared(run: StoredRun, judgement: Judgement) -> list[tuple[str, str]]:
    """What was compared, as terms and their descriptions.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    first = run.trials[0]
    losses = list(dict.fromkeys(record.loss_name for record in run.trials))
    devices = list(dict.fromkeys(record.device for record in run.trials))
    seeds = sorted({record.seed for record in run.trials})
    replicas = len({record.replica for record in run.trials})
    noise = len({record.noise for record in run.trials if record.noise})
    audited = [verdict.decision.audited for verdict in judgement.pairs if verdict.decision]
    # The number of batches is not known for every loop.
    batches = f", in epochs of {first.batches:,} batches of {first.batch_size:,} rows" if first.batches else ""
    terms = [
        ("Losses", _baseline_first(losses)),
        ("Devices", _baseline_first(devices)),
        ("Steps", f"{first.steps:,}{batches or f' of {first.batch_size:,} rows'}"),
        ("Quantities", _quantities(judgement)),
        ("Trials", f"{len(run.trials):,}; seed{'s' * (len(seeds) > 1)} {listed([str(seed) for seed in seeds])}"),
    ]
    if replicas > 1:
        terms.append(("Replicas", f"{replicas} of each trial"))
    if noise:
        terms.append(("Noise", f"{noise} trials of the baseline with random rounding"))
    if audited:
        # Pairs may have different numbers of audited steps.
        most = f"{'up to ' if len(set(audited)) > 1 else ''}{amount(max(audited), 'step')}"
        seen = seen_by_audit(judgement.pairs)
        checked = f"{most} of each pair checked against a float64 reference"
        terms.append(("Audit", f"{checked}; {seen}" if seen else checked))
    if unaudited := seen_unaudited(judgement):
        terms.append(("Seen", unaudited))
    if unasked := unasked_optimizers(judgement):
        terms.append(("Optimizers", unasked))
    return terms


def seen_unaudited(judgement: Judgement) -> str:
    """What would have been seen in the pairs that differ and have no audit; empty where there is no such pair.

    Args:
        judgement: The judgement of the run.
    """
    # Of pairs that are equal to the bit any other bit would have been seen.
    return seen_without_audit(verdict.seen for verdict in judgement.pairs if verdict.seen and verdict.first)


def unasked_optimizers(judgement: Judgement) -> str:
    """Why nothing but their updates shows what the optimizers of pairs compute that differ by rounding; empty for none.

    Args:
        judgement: The judgement of the run.
    """
    sides = [
        side
        for verdict in judgement.pairs
        if verdict.verdict == "rounding" and verdict.first
        for side in (verdict.pair.baseline, verdict.pair.candidate)
    ]
    reasons = list(dict.fromkeys(side.optimizer_error for side in sides if side.optimizer_error))
    if not reasons:
        return ""
    return f"not compared on gradients that both are given, only by the updates of the loops ({'; '.join(reasons)})"


def _quantities(judgement: Judgement) -> str:
    """The quantities that were compared in all pairs, and those that were not."""
    lacking = {quantity for verdict in judgement.pairs for quantity in verdict.comparison.lacking}
    compared = [quantity for quantity in QUANTITIES if quantity not in lacking]
    without = [quantity for quantity in QUANTITIES if quantity in lacking]
    text = f"{len(compared)} at each step, bit for bit: {', '.join(compared)}"
    unlike = any(verdict.comparison.unlike for verdict in judgement.pairs)
    why = "not comparable" if unlike else "not stored on both sides"
    return f"{text}; {why} in each pair: {', '.join(without)}" if without else text


def _baseline_first(names: list[str]) -> str:
    return listed([f"{names[0]} (baseline)", *names[1:]], most=5) if names[1:] else names[0]


def _at(record: TrialRecord) -> str:
    return f" at step {record.failed_step}" if record.failed_step is not None else ""
