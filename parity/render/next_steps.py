"""What to do after a run: what mends a cause, and the command that goes to where it shows."""

import shlex
from dataclasses import dataclass

from parity.judge.causes import CAUSES
from parity.judge.fleet import OddDevice
from parity.judge.verdict import Judgement, PairVerdict, rank
from parity.store.stored_run import StoredRun

# Odd devices that are told one by one.
MOST_ODD = 5
_OPTIONS = ("--out", "--steps", "--resume", "--epochs", "--save-every", "--format")
_RESUME = ("-m", "parity.run", "--resume")
_CLUSTER = ("--address", "--each", "--wait-for-nodes", "--wait-limit", "--step-timeout")


@dataclass(frozen=True)
class Advice:
    """What to do, and the command that does it, if there is one."""

    text: str
    command: str | None = None


def next_steps(run: StoredRun, judgement: Judgement, *, where: str = "below") -> list[Advice]:
    """What to do now.

    Args:
        run: As it was read.
        judgement: Of the same run.
        where: The tables of the contract and of attempts are.
    """
    if judgement.trouble:
        return [
            Advice(f"Mend the baseline first: nothing can be held against it. See Attempts and faults, {where}."),
        ]
    pairs = [verdict for verdict in judgement.pairs if verdict.pair.axis != "noise"]
    if not pairs and (run.info.get("recorded") or run.info.get("runs")):
        return [Advice("Compare it with another recording, or with a run:", "python -m parity.report A B")]
    if not pairs:
        return [Advice("Add a --loss, a --device or --replicas.")]
    odd = [unit for each in judgement.fleet.classes for unit in each.odd]
    if odd:
        return [Advice(f"Look at {unit.device}, or take it out of use. {_often(unit)}") for unit in odd[:MOST_ODD]]
    worst = max(pairs, key=lambda verdict: rank(verdict.verdict))
    if worst.meaning.tone == "bad":
        return _mending(run, worst, where)
    if (
        worst.meaning.tone == "doubt"
        and not worst.pair.between
        and any(record.status in ("interrupted", "planned") for record in run.trials)
    ):
        return [Advice("Go on with what did not end:", shlex.join(["python", *_RESUME, str(run.directory)]))]
    if worst.meaning.tone == "doubt":
        return [Advice("Remove the doubt that is told above, and run again.")]
    first = run.trials[0]
    told = [Advice("Nothing has to be mended.")]
    if worst.pair.between:
        return told
    if first.batches and first.steps < first.batches:
        told.append(Advice(f"To be surer, pass a whole epoch with its last batch: --steps {first.batches}."))
    if len({record.seed for record in run.trials}) == 1:
        seeds = f"{first.seed} {first.seed + 1} {first.seed + 2}"
        told.append(Advice(f"One seed was tried; --seed {seeds} tries three."))
    return told


def _mending(run: StoredRun, verdict: PairVerdict, where: str) -> list[Advice]:
    advice = dict.fromkeys(CAUSES[cause.kind].advice for cause in verdict.causes)
    told = [Advice(text.format(where=where)) for text in advice if text][:3]
    step = verdict.onset.step if verdict.onset else verdict.pair.candidate.failed_step
    command = narrowed_command(run, step) if step is not None and verdict.pair.axis == "loss" else None
    if command:
        told.append(Advice(f"Step through it up to step {step}, with a breakpoint() in the loss:", command))
    return told or [Advice("Mend the cause, and run again.")]


def _often(unit: OddDevice) -> str:
    return f"How often it parts: {unit.recurrence}."


def narrowed_command(run: StoredRun, step: int) -> str | None:
    """The command that trains up to the step in one process; None where there is none, as on a cluster."""
    given = run.info.get("arguments")
    if not isinstance(given, list) or any(str(each).split("=")[0] in _CLUSTER for each in given):
        return None
    kept: list[str] = []
    skip = False
    for each in map(str, given):
        if skip or each == "--inline" or each.split("=")[0] in _OPTIONS:
            skip = not skip and each in _OPTIONS
            continue
        kept.append(each)
    return shlex.join(["python", "-m", "parity.run", *kept, "--inline", "--steps", str(step + 1)])
