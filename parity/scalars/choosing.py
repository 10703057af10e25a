"""Which scalars of two logs are compared."""

import difflib
import re
from collections.abc import Iterator, Sequence

from parity.ground.errors import Trouble
from parity.ground.listing import listed
from parity.plan.tolerance import EXACT, Tolerance
from parity.scalars.comparing import LogComparison, compare_series
from parity.scalars.log import Log

# Most scalars that a message names.
_MOST_NAMED = 12
# Say how fast or large a training was, and differ in every repetition.
_SPEED = re.compile(
    r"^(?!.*loss).*?("
    r"(^|[/_. -])(tps|wps|mfu|tflops?|flops|runtime|elapsed|throughput|timestamp)([/_. -]|$)"
    # At the end or before a unit: time_embedding_norm is no time.
    r"|(^|[/_. -])(memory|mem|time|seconds?)(/|$|[_. -](s|ms|secs?|seconds|[mg]i?b|per|used|usage|alloc|allocated"
    r"|reserved|peak|max|total|ratio|percent)([/_. -]|$))"
    r"|per[_ -]second|iteration-time|total_flos|tokens_per_sec|max_mem)",
    re.IGNORECASE,
)


def compare_logs(
    baseline: Log, candidate: Log, *, chosen: Sequence[str] = (), tolerance: Tolerance = EXACT
) -> LogComparison:
    """Compares the chosen scalars of two logs, or all that both have, without those about speed.

    Args:
        baseline: The log that the other one is compared with.
        candidate: The other log.
        chosen: Names, or BASELINE=CANDIDATE where the logs call a scalar differently; all in common if empty.
        tolerance: What is allowed.

    Raises:
        Trouble: A name is in neither log or only in one, or the logs have no scalar in common.
    """
    pairs = [_pair(text, baseline, candidate) for text in chosen]
    in_common = [name for name in baseline.series if name in candidate.series]
    speed = [name for name in in_common if _SPEED.search(name)]
    if not chosen:
        pairs = [(name, name) for name in in_common if name not in speed]
        if not pairs:
            raise _nothing_in_common(baseline, candidate)
    return LogComparison(
        baseline,
        candidate,
        tuple(
            compare_series(names, baseline.series[names[0]], candidate.series[names[1]], tolerance=tolerance)
            for names in dict.fromkeys(pairs)
        ),
        only_baseline=_only(baseline, candidate),
        only_candidate=_only(candidate, baseline),
        speed=() if chosen else tuple(speed),
        chosen=bool(chosen),
        tolerance=tolerance,
        doubts=(*_doubts(baseline, candidate, chosen=bool(chosen)),),
    )


def _doubts(baseline: Log, candidate: Log, *, chosen: bool) -> Iterator[str]:
    """What was not compared as numbers, and is not the same, or was not read."""
    for side, log in (("baseline", baseline), ("candidate", candidate)):
        for doubt in log.doubts:
            yield f"{side}: {doubt}"
    if [*baseline.aside] != [*candidate.aside]:
        yield (
            f"rows without a step belong to no place in the training, and are not the same: the baseline has "
            f"{len(baseline.aside):,}, the candidate {len(candidate.aside):,}"
        )
    names = [] if chosen else [name for name in {**baseline.texts, **candidate.texts} if not _SPEED.search(name)]
    unequal = [name for name in names if baseline.texts.get(name) != candidate.texts.get(name)]
    if unequal:
        found = listed(unequal, most=_MOST_NAMED)
        yield f"what could only be compared as text, or by its bytes, is not the same: {found}"


def _only(log: Log, other: Log) -> tuple[str, ...]:
    return tuple(name for name in log.series if name not in other.series and not _SPEED.search(name))


def _pair(text: str, baseline: Log, candidate: Log) -> tuple[str, str]:
    """The names of a chosen scalar on both sides."""
    left, equals, right = text.partition("=")
    if not equals or text in baseline.series:
        left = right = text
    for name, log in ((left, baseline), (right, candidate)):
        if name not in log.series:
            raise Trouble(f"{log.path} has no scalar {name!r}. {_suggestion(name, log)}")
    return left, right


def _suggestion(name: str, log: Log) -> str:
    """What was meant, perhaps, and what there is."""
    by_lower = {each.lower(): each for each in log.series}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    # `loss` for `train/loss`.
    ends = [each for each in log.series if re.split(r"[/. ]", each)[-1].lower() == name.lower()]
    meant = [by_lower[close[0]]] if close else ends[:1]
    words = f"Did you mean {meant[0]!r}? " if meant else ""
    renamed = "" if not meant else "Where the logs have different names, give --scalar BASELINE=CANDIDATE. "
    return f"{words}{renamed}Its scalars: {listed([*log.series], most=_MOST_NAMED)}."


def _nothing_in_common(baseline: Log, candidate: Log) -> Trouble:
    left, right = (listed([*log.series], most=_MOST_NAMED) for log in (baseline, candidate))
    return Trouble(
        f"{baseline.path} and {candidate.path} have no scalar in common that could be compared. The baseline has "
        f"{left}; the candidate has {right}. Where they have different "
        "names for the same scalar, give --scalar BASELINE=CANDIDATE, such as --scalar loss=train/loss."
    )
