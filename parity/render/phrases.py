"""Parts of sentences that several documents share."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from parity.ground.listing import listed
from parity.ground.percent import percent
from parity.judge.decide_device import DeviceError
from parity.judge.decide_loss import Decision
from parity.judge.seen import Seen
from parity.judge.verdict import PairVerdict
from parity.plan import lines
from parity.store.trace import QUANTITIES


def named(quantity: str, tensor: str | None) -> str:
    """A quantity, followed by the name of its tensor if it has several.

    >>> named("param_grad", "1.0.weight"), named("loss", None)
    ('param_grad 1.0.weight', 'loss')
    """
    return f"{quantity} {tensor}" if tensor else quantity


def counted(words: Sequence[str], order: Iterable[str]) -> str:
    """How often each word occurs, in the given order, without those that do not occur.

    >>> counted(["rounding", "failed", "rounding"], ("failed", "diverged", "rounding"))
    '1 failed, 2 rounding'
    """
    return ", ".join(f"{words.count(word)} {word}" for word in order if word in words)


def amount(count: int, one: str, several: str | None = None) -> str:
    """A number with its noun; `several` is the plural where that is not made with an s.

    >>> amount(1, "step"), amount(1200, "step"), amount(0, "quantity", "quantities")
    ('1 step', '1,200 steps', '0 quantities')
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def compared_count(verdict: PairVerdict) -> tuple[str, str, str]:
    """How many steps of a pair were compared, and which if not from the first on; how many quantities; which were not.

    Args:
        verdict: The pair and its verdict.
    """
    comparison = verdict.comparison
    first = comparison.first_step
    steps = amount(verdict.steps, "step") + (f" ({first} to {first + verdict.steps - 1})" if first else "")
    # Quantities that belong to each side alone, as the loss of a rank does, are not said to be missing.
    lacking = [each for each in comparison.lacking if each not in comparison.own]
    count = len([each for each in QUANTITIES if each not in (*comparison.own, *lacking)])
    return steps, amount(count, "quantity", "quantities"), listed(lacking, most=len(QUANTITIES))


def shortest(value: float, dtype: str) -> str:
    """A number with as many digits as distinguish it from its neighbours in its dtype.

    >>> shortest(0.10000000149011612, "float32"), shortest(0.1, "float32")
    ('0.1', '0.1')
    """
    # NumPy prints the shortest text that reads back as the same number; bfloat16 is no dtype of NumPy, and what the
    # dtype cannot hold is printed as stored.
    if dtype in ("float16", "float32"):
        with np.errstate(over="ignore"):
            narrow = np.dtype(dtype).type(value)
        if float(narrow) == value or math.isnan(value):
            return str(narrow)
    return repr(value)


def losses_differ(rel: float) -> str:
    """How far the losses of two trials are apart, in words.

    >>> losses_differ(0.25), losses_differ(float("inf"))
    ('losses differ by up to 25 %', 'one of the losses is infinite, or the baseline is 0')
    """
    if math.isnan(rel):
        return "losses are NaN"
    if math.isinf(rel):
        return "one of the losses is infinite, or the baseline is 0"
    return f"losses differ by up to {percent(rel)}"


def not_shown(count: int) -> str:
    """A sentence about the items that a list or table leaves out.

    >>> not_shown(1200)
    '1,200 more are not shown.'
    """
    return f"{count:,} more {'is' if count == 1 else 'are'} not shown."


def would_have_been_seen(decisions: Iterable[Decision]) -> str:
    """The least error of a gradient that the audit of these pairs would have seen; empty where it decided nothing."""
    deciding = [decision for decision in decisions if decision.seen]
    if not deciding:
        return ""
    least = min(decision.seen for decision in deciding if decision.seen)
    most = max(decision.seen_anywhere for decision in deciding)
    if math.isinf(least):
        return ""
    if math.isinf(most):
        return f"a gradient wrong by more than {percent(least)} would have been seen, at the most exact of them only"
    text = f"a gradient wrong by more than {percent(most)} would have been seen"
    # The lines of most runs differ little, and one number is read where two are passed over.
    if most > 2 * least:
        text += f" at each of them, by more than {percent(least)} at the most exact ones"
    scales = [decision.seen_scale for decision in deciding if decision.seen_scale]
    return f"{text}, and a wrong scale of more than {percent(max(scales))}" if scales else text


def closest_to_its_limit(what: str, error: DeviceError) -> str:
    """Which tensor came how close to its limit; empty where the limit is so large that this says nothing.

    Args:
        what: Name of the tensor.
        error: Its error, and the limit of it.
    """
    if error.line > 1:
        return ""
    return f"{what} comes closest to its limit ({percent(error.error)} of {percent(error.line)})"


def seen_by_audit(verdicts: Iterable[PairVerdict]) -> str:
    """The same of pairs, but for pairs of two runs that are equal, or whose baseline is itself beyond rounding.

    Two runs with one fault are equal: that says nothing of what would have been seen.

    Args:
        verdicts: The pairs and their verdicts; empty text where any of them is of that kind.
    """
    decided = [verdict for verdict in verdicts if verdict.decision]
    if any(beyond_itself(verdict) or (verdict.pair.between and verdict.first is None) for verdict in decided):
        return ""
    return would_have_been_seen(verdict.decision for verdict in decided if verdict.decision)


def beyond_itself(verdict: PairVerdict) -> bool:
    """Whether the baseline of a pair of two runs is itself further from float64 than rounding explains."""
    decision = verdict.decision
    return bool(verdict.pair.between and decision and decision.baseline_grad_error_u > lines.GRADIENT.value)


def equal_runs(verdicts: Sequence[PairVerdict]) -> bool:
    """Whether all pairs are of two runs, and identical."""
    return bool(verdicts) and all(each.pair.between and each.verdict == "identical" for each in verdicts)


def seen_without_audit(found: Iterable[Seen]) -> str:
    r"""The least differences of the outputs of these pairs that would not have passed as rounding; empty for none.

    >>> print(seen_without_audit([Seen(output=1.5e-5, jump=3e-3)]).replace(" and", "\n and"))
    a difference of more than 0.0015 % in an output would have been seen where the runs diverge,
     and a later jump of more than 0.3 %
    """
    pairs = [*found]
    if not pairs:
        return ""
    # The largest of each: what is said holds for all of the pairs.
    output, jump = max(seen.output for seen in pairs), max(seen.jump for seen in pairs)
    return (
        f"a difference of more than {percent(output)} in an output would have been seen where the runs diverge, "
        f"and a later jump of more than {percent(jump)}"
    )
