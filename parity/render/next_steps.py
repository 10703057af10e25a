"""What to do after a run: how to fix a cause, and the command that goes to the step where it shows."""

import shlex
from dataclasses import dataclass
from pathlib import PurePath

from parity.ground.listing import listed
from parity.ground.quoting import MOST_SHOWN
from parity.judge.causes import CAUSES
from parity.judge.verdict import Judgement, PairVerdict
from parity.judge.votes import OddDevice
from parity.render.odd_devices import odd_devices
from parity.render.phrases import equal_runs
from parity.render.story import pairs_in_question, severity
from parity.render.user_error import run_folder, user_error
from parity.store.stored_run import StoredRun
from parity.store.trials import TrialRecord

# Most odd devices that have advice of their own.
MOST_ODD = 5
# Where to look, by the quantity of the onset, if no cause has a name.
_WHERE = {
    "state": "Compare how both runs save and restore the optimizer's state: what is left out, its dtype, its order.",
    "input": "Give both runs the same data, in the same order.",
    "output": "Compare the forward passes: what the model computes before this step's loss differs.",
    "output_grad": "Compare the backward passes of the two losses.",
    "target_grad": "Compare the gradients that the two losses return for their target.",
    "param_grad": "Compare the backward passes of the two models, and what is done to the gradients in them.",
    "step_grad": "Look between backward and the optimizer's step: clipping, unscaling, accumulation, synchronisation.",
    "update": "Compare the optimizers: their class, their options, and which parameters they update.",
    "buffer": "Look at what updates this buffer, such as batch statistics or a moving average.",
}
# What to do about a device, whose loss and model are those of the others.
_DEVICE = (
    "Check what computes this on {device}: its switches and libraries first, then the hardware. --replicas 3 shows "
    "whether it recurs."
)
_UNREPEATED = (
    "Choose deterministic kernels, as torch.use_deterministic_algorithms(True) does; --replicas 5 measures how far the "
    "results are spread."
)
# What ended a trial without a traceback, and what to do about it.
_ENDED = {
    "result": "Return one scalar tensor with a gradient, as loss.mean() is.",
    "died": "Run it in this process, with --inline, to see where it ends.",
    "hung": "Look for a loop or a lock that does not end, or raise --step-timeout.",
    "memory": "Give it more memory, or a smaller --batch-size.",
}
# Options of the run that the command for stepping through it replaces or leaves out.
_OPTIONS = ("--out", "--steps", "--resume", "--epochs", "--save-every", "--format")
_RESUME = ("parity", "run", "--resume")
# Options that only make sense on a cluster, where a run cannot be stepped through.
_CLUSTER = ("--address", "--each", "--wait-for-nodes", "--wait-limit", "--step-timeout")


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Attributes:
        text: What to do, in a sentence.
        command: The command that does it, or None.
    """

    text: str
    command: str | None = None


def next_steps(run: StoredRun, judgement: Judgement, *, where: str = "below") -> list[Advice]:
    """What to do after a run, the most important first.

    Args:
        run: The stored run.
        judgement: Its judgement.
        where: Where the reader finds the tables of contract and attempts, as in "below".
    """
    # First what makes everything else pointless: a failed baseline, then nothing to compare, then odd devices.
    if judgement.trouble:
        return [
            Advice(f"Fix the baseline first: without it there is nothing to compare. See Attempts and faults, {where}.")
        ]
    pairs = pairs_in_question(judgement)
    if not pairs and (run.info.get("recorded") or run.info.get("runs")):
        return [Advice("Compare it with another recording or run:", "parity report A B")]
    if not pairs:
        return [Advice("Add a --loss, a --device or --replicas.")]
    odd = odd_devices(judgement)
    # An odd device explains the divergence of its pairs, so its advice replaces theirs.
    if odd:
        return [Advice(f"Inspect {unit.device}, or take it out of service. {_often(unit)}") for unit in odd[:MOST_ODD]]
    worst = min(pairs, key=severity)
    # Advice about the worst pair only; the report has the causes of the others.
    if worst.meaning.tone == "bad":
        return _fixes(run, worst, where)
    if (
        worst.meaning.tone == "doubt"
        and not (worst.pair.between or run.info.get("recorded"))
        and any(record.status in ("interrupted", "planned") for record in run.trials)
    ):
        return [Advice("Continue the trials that did not finish:", shlex.join([*_RESUME, str(run.directory)]))]
    if worst.meaning.tone == "doubt" and judgement.fleet.code.differs:
        return [Advice("Give all nodes the same code, named above, and run again.")]
    if worst.meaning.tone == "doubt" and worst.pair.axis == "loss" and run.info.get("quick"):
        return [Advice("Compare the losses without --quick, which has no audit. One device is enough.")]
    if worst.meaning.tone == "doubt":
        return [Advice("Resolve the doubt described above, and run again.")]
    first = run.trials[0]
    if (nan := next((each.both_nan for each in pairs if each.both_nan is not None), None)) is not None:
        return [
            Advice(f"Find out why both losses are NaN at step {nan:,}: equal NaNs do not show that a loss is right.")
        ]
    if equal_runs(pairs):
        # Both may have the same fault.
        return [Advice("Nothing differs. To check that the runs are right, compare them with one that is known to be.")]
    # Everything passes. What could make that surer is optional.
    found = [Advice("No action needed.")]
    if worst.pair.between:
        return found
    if first.batches and first.steps < first.batches:
        found.append(Advice(f"To be surer, train a whole epoch, including its last batch: --steps {first.batches}."))
    if len({record.seed for record in run.trials}) == 1:
        seeds = f"{first.seed} {first.seed + 1} {first.seed + 2}"
        found.append(Advice(f"Only one seed was tried; --seed {seeds} tries three."))
    return found


def _fixes(run: StoredRun, verdict: PairVerdict, where: str) -> list[Advice]:
    """How to fix the causes of a pair, and the command that steps through its training up to where they show."""
    record = verdict.pair.candidate
    ended = verdict.verdict == "failed" and record.status == "failed"
    advice = [_after_error(run, record, where)] if ended and record.failure not in ("detached", "mutates") else []
    # Causes of different kinds may have the same advice. Of a trial that ended, the others are no reason.
    reasons = [cause for cause in verdict.causes if not (cause.kind == "random" and verdict.not_finite)]
    causes = [] if advice else reasons
    texts = dict.fromkeys(CAUSES[cause.kind].advice for cause in causes)
    advice += [Advice(text.format(where=where)) for text in texts if text][:3]
    if not advice and verdict.settings:
        named = listed([each.of_what for each in verdict.settings])
        advice.append(Advice(f"Make these equal in both runs: {named}."))
    if not advice and verdict.device_audit and verdict.device_audit.unrepeated is not None:
        advice.append(Advice(_UNREPEATED))
    if not advice and verdict.pair.axis == "device" and not verdict.pair.between:
        advice.append(Advice(_DEVICE.format(device=record.device)))
    if not advice and verdict.onset and verdict.onset.quantity in _WHERE:
        advice.append(Advice(_WHERE[verdict.onset.quantity]))
    step = verdict.onset.step if verdict.onset else record.failed_step
    # A breakpoint in the loss helps only where the loss is in question.
    command = (
        narrowed_command(run, step, record.loss_name) if step is not None and verdict.pair.axis == "loss" else None
    )
    if command:
        advice.append(Advice(f"Step through the training up to step {step}, with a breakpoint() in the loss:", command))
    return advice or [Advice("Fix the cause, and run again.")]


def _after_error(run: StoredRun, record: TrialRecord, where: str) -> Advice:
    """What to do about a trial that ended before its last step."""
    error = user_error(record, run_folder(run))
    whole = f"the whole traceback is {where}, under Attempts and faults"
    if error and error.own and error.frames:
        return Advice(f"Fix the {error.exception} at {error.frames[-1].place}; {whole}.")
    # No line of the loss has run, so it does not take what it is called with.
    if error and not error.frames and (record.error or "").startswith("the loss raised TypeError"):
        return Advice(f"Make the loss a function of two arguments, (output, target); {whole}.")
    return Advice(_ENDED.get(record.failure or "", f"Read what happened {where}, under Attempts and faults."))


def _often(unit: OddDevice) -> str:
    return f"How often it differs: {unit.recurrence}."


def narrowed_command(run: StoredRun, step: int, loss: str | None = None) -> str | None:
    """The command that trains up to a step in one process; None where there is none, as for a run on a cluster.

    None, too, for a command that a terminal cannot show as it is: it would have to be copied.

    Args:
        run: The stored run.
        step: The last step to train, from 0.
        loss: Name of the only loss that is trained beside the baseline; None for all.
    """
    given = run.info.get("arguments")
    if not isinstance(given, list) or any(str(each).split("=")[0] in _CLUSTER for each in given):
        return None
    # Only arguments that were given are repeated, so that defaults stay defaults.
    kept: list[str] = []
    skip = False
    for each in map(str, given):
        if skip or each == "--inline" or each.split("=")[0] in _OPTIONS:
            # The value of `--out DIR` is the next argument, that of `--out=DIR` is part of this one.
            skip = not skip and each in _OPTIONS
            continue
        kept.append(each)
    # Steps count from 0, so step N is part of N + 1 steps.
    kept = _with_one_loss(kept, loss) if loss else kept
    command = shlex.join(["parity", "run", *kept, "--inline", "--steps", str(step + 1)])
    # A shell reads a line break inside a word as it is.
    printable = all(line.isprintable() for line in command.split("\n"))
    return command if printable and len(command) <= MOST_SHOWN else None


def _with_one_loss(arguments: list[str], loss: str) -> list[str]:
    """The arguments with the baseline and one other loss; as they are where it is not among them.

    >>> _with_one_loss(["--loss", "builtin", "numpy", "mine.py:mine", "--lr", "1"], "mine")
    ['--loss', 'builtin', 'mine.py:mine', '--lr', '1']
    """
    if arguments.count("--loss") != 1:
        return arguments
    begin = arguments.index("--loss") + 1
    end = next((place for place in range(begin, len(arguments)) if arguments[place].startswith("--")), len(arguments))
    # Losses of one name have that of their file or module before it, as in old.mse.
    others = [each for each in arguments[begin + 1 : end] if loss in (each, each.rpartition(":")[2], _qualified(each))]
    return [*arguments[: begin + 1], *others, *arguments[end:]] if len(others) == 1 else arguments


def _qualified(text: str) -> str:
    origin, _, attr = text.rpartition(":")
    return f"{PurePath(origin).stem if origin.endswith('.py') else origin}.{attr}"
