"""Log-probabilities of the same tokens from a trainer and from a sampler: is their difference the noise of a dtype?

A sampler (vLLM, SGLang) and a trainer compute the log-probability of each token with other kernels. Reinforcement
learning takes the ratio of the two as the weight of a sample, so a difference beyond noise is a fault of the training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.judge.straight_line import straight_line
from parity.logprob_comparison import FLOOR, LogprobComparison, SideError, Word

# Unit roundoffs: half the distance from 1 to the next number.
_UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# Mean error of a side over that of the other one, in the same units, that counts as a fault of the worse side.
APART = 8.0
# The same within the noise of a 16-bit dtype that counts as no answer, from so many units on. Seen in right pairs of 2
# to 48 layers, of which one side keeps its residual stream in float32: at most 4.3, with 1.1 units.
LOUDER, LOUD = 6.0, 2.0
# Share of the errors on a line from which on they are said to be those of a temperature. Seen with one that is 5 % off:
# at least 0.9 where the tokens' probabilities differ much; with capped logits and tokens of other places: at most 0.72.
SURE = 0.8


def compare_logprobs(
    train: Any,
    rollout: Any,
    reference: Any = None,
    *,
    mask: Any = None,
    dtype: str | tuple[str, str] | None = None,
) -> LogprobComparison:
    """Compares the log-probabilities that a trainer and a sampler give to the same tokens.

    With a reference in float64, it says whether the difference is the noise of the dtype ("floor") or not ("fault").
    Without one, nothing says which of two numbers is right: "undecided", with the figures, unless they are identical.

    Args:
        train: The trainer's log-probabilities, of any shape: a torch tensor, an array or lists.
        rollout: The sampler's, of the same shape.
        reference: The same from the model in float64, of the same shape, or None.
        mask: True for tokens that count, of the same shape; None for all but padding, which is what is NaN on both
            sides, or the same infinity.
        dtype: The dtype that the models compute in, or that of the trainer and that of the sampler: "bfloat16",
            "float16", "float32" or "float64". Without it, that of the arrays, which are often wider than the models.

    Returns:
        What was found; printing it shows all of it.

    Raises:
        ValueError: Shapes differ, the reference is not float64, a dtype is not known, a value is greater than 0, or
            nothing is left to compare.

    Source:
        John Schulman, "Approximating KL Divergence" (2020), for k1 and k3, with samples of the rollout.
    """
    left, left_dtype = _array("train", train)
    right, right_dtype = _array("rollout", rollout)
    dtypes = _dtypes(dtype, left_dtype, right_dtype)
    _check_shape("rollout", right, left)
    counted = _counted(mask, left, right)
    exact = _reference(reference, left)
    places = np.flatnonzero(counted)
    if not len(places):
        raise ValueError(f"No token is left to compare: the mask or padding takes all {counted.size:,}.")
    mine, other = left.reshape(-1)[places], right.reshape(-1)[places]
    for name, side in (("train", mine), ("rollout", other)):
        if (side > 0).any():
            raise ValueError(
                f"{name} has {side.max():g}, and a log-probability is at most 0. Give logarithms of probabilities."
            )
    with np.errstate(invalid="ignore", over="ignore"):
        signed = np.where(mine == other, 0.0, mine - other)
        difference = np.where(np.isfinite(signed), np.abs(signed), np.inf)
        unit = max(_UNITS[each] for each in dtypes)
        scaled = difference / (unit * (1 + np.abs(other)))
        k1, k3 = float(np.mean(-signed)), float(np.mean(np.expm1(signed) - signed))
    at = int(np.argmax(difference))
    sides = None if exact is None else _errors(exact[places], mine, other, dtypes)
    word, reason = _decide(mine, other, difference, dtypes, sides, given=dtype is not None)
    return LogprobComparison(
        word=word,
        reason=reason,
        tokens=len(places),
        masked=counted.size - len(places),
        different=int(np.count_nonzero(difference)),
        mean=float(difference.mean()),
        p99=float(np.quantile(difference, 0.99, method="higher")),
        largest=float(difference[at]),
        largest_at=tuple(int(each) for each in np.unravel_index(places[at], left.shape)),
        bias=float(np.mean(signed)),
        k1=k1,
        k3=k3,
        dtypes=dtypes,
        units=float(scaled.mean()),
        train=sides[0] if sides else None,
        rollout=sides[1] if sides else None,
    )


def _array(name: str, values: Any) -> tuple[np.ndarray, str]:
    """float64 of the same numbers, and the name of the dtype that they had."""
    if hasattr(values, "detach"):  # a torch tensor; torch itself is not needed
        dtype = str(values.dtype).removeprefix("torch.")
        values = values.detach().cpu().double().numpy()
    else:
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise ValueError(f"{name} is not an array: {error}. Pad its rows to one length, with nan.") from error
        dtype = str(values.dtype)
    if dtype not in _UNITS:
        raise ValueError(f"{name} has the dtype {dtype}, and log-probabilities are one of {', '.join(_UNITS)}.")
    return values.astype(np.float64), dtype


def _dtypes(given: str | tuple[str, str] | None, train: str, rollout: str) -> tuple[str, str]:
    found = (train, rollout) if given is None else (given, given) if isinstance(given, str) else tuple(given)
    if len(found) != 2 or any(each not in _UNITS for each in found):
        raise ValueError(f"dtype is {given!r}, and has to be one of {', '.join(_UNITS)}, or two of them in a tuple.")
    return found[0], found[1]


def _check_shape(name: str, values: np.ndarray, train: np.ndarray) -> None:
    if values.shape != train.shape:
        raise ValueError(
            f"{name} has the shape {[*values.shape]} and train has {[*train.shape]}. "
            "Give the same tokens in the same places."
        )


def _counted(mask: Any, train: np.ndarray, rollout: np.ndarray) -> np.ndarray:
    """Which places are compared; bool of their shape."""
    if mask is None:
        # NaN on one side and an infinity on the other is no padding.
        alike = (train == rollout) | (np.isnan(train) & np.isnan(rollout))
        found: np.ndarray = np.isfinite(train) | np.isfinite(rollout) | ~alike
        return found
    values = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
    _check_shape("mask", values, train)
    if not np.isin(values, (0, 1)).all():
        raise ValueError("mask has other values than 0 and 1. Give True for tokens that count.")
    return values.astype(bool)


def _reference(reference: Any, train: np.ndarray) -> np.ndarray | None:
    if reference is None:
        return None
    exact, dtype = _array("reference", reference)
    if dtype != "float64":
        raise ValueError(f"reference has the dtype {dtype}, and has to be float64: run the model in float64 for it.")
    _check_shape("reference", exact, train)
    return exact.reshape(-1)


def _errors(
    exact: np.ndarray, train: np.ndarray, rollout: np.ndarray, dtypes: tuple[str, str]
) -> tuple[SideError, SideError]:
    if not np.isfinite(exact).all():
        raise ValueError("reference is not finite at a token that counts. Mask it, or pad all three arrays alike.")
    first, second = (_error(exact, side, dtype) for side, dtype in zip((train, rollout), dtypes, strict=True))
    return first, second


def _error(exact: np.ndarray, side: np.ndarray, dtype: str) -> SideError:
    with np.errstate(invalid="ignore"):
        error = side - exact
    absolute = np.where(np.isfinite(error), np.abs(error), np.inf)
    unit = _UNITS[dtype] * (1 + np.abs(exact))
    bias = float(np.mean(error))
    p99 = float(np.quantile(absolute, 0.99, method="higher"))
    with np.errstate(over="ignore"):
        units = absolute / unit
    mean, most = float(units.mean()), float(units.max())
    line = straight_line(exact, error, unit)
    return SideError(dtype, len(error), float(absolute.mean()), p99, bias, mean, most, line)


def _decide(
    train: np.ndarray,
    rollout: np.ndarray,
    difference: np.ndarray,
    dtypes: Sequence[str],
    sides: tuple[SideError, SideError] | None,
    *,
    given: bool,
) -> tuple[Word, str]:
    """The word, and why."""
    one_sided = np.isfinite(train) != np.isfinite(rollout)
    if one_sided.any():
        return "fault", f"{int(one_sided.sum()):,} tokens are NaN or infinite on one side only."
    if not np.isfinite(train).all():
        count = int(np.count_nonzero(~np.isfinite(train)))
        return "fault", f"{count:,} tokens that count are NaN or infinite on both sides. Mask what is padding."
    if sides is None:
        if not difference.any():
            return "identical", "All numbers are equal."
        return "undecided", "Without a reference nothing says which side is right. Give the same from float64."
    (name, high), (_, low) = sorted(zip(("train", "rollout"), sides, strict=True), key=lambda side: -side[1].units)
    outlying = [(name, side) for name, side in zip(("train", "rollout"), sides, strict=True) if side.outlier]
    if high.units <= FLOOR and outlying:
        name, side = max(outlying, key=lambda each: each[1].largest)
        return "fault", (
            f"The fault is in {name}: single tokens are up to {side.largest:.3g} units of {side.dtype} from the "
            f"reference, and noise of {side.tokens:,} tokens reaches {side.reach:.3g}."
        )
    if high.systematic and not _alike(high, low):
        return "fault", (
            f"The fault is in {name}: it is {high.units:.3g} units of {high.dtype} from the reference, and the other "
            f"side {low.units:.3g}; {_pattern(high)}."
        )
    if high.units <= FLOOR:
        if high.dtype in ("bfloat16", "float16") and high.units > max(LOUD, LOUDER * low.units):
            return "undecided", (
                f"{name} is {high.units:.3g} units of {high.dtype} from the reference, and the other side "
                f"{low.units:.3g}: noise rarely differs so much in size, and a small fault would look the same. "
                "Compare the weights and settings of both sides."
            )
        word: Word = "floor" if difference.any() else "identical"
        return word, f"Both sides are at the noise floor of {' and '.join(dict.fromkeys(dtypes))}."
    in_bfloat16 = high.units * _UNITS[high.dtype] / _UNITS["bfloat16"]
    if not given and high.dtype in ("float32", "float64") and in_bfloat16 <= FLOOR / 4:
        return "undecided", (
            f"{name} is {high.units:.3g} units of {high.dtype} from the reference, the other side {low.units:.3g}: a "
            "model that computes in a narrower dtype than its results have would be. Say the dtypes of trainer and "
            "sampler, such as dtype=('float32', 'bfloat16')."
        )
    if high.units > APART * low.units:
        return "fault", (
            f"The fault is in {name}: it is {high.units:.3g} units of {high.dtype} from the reference, and the other "
            f"side {low.units:.3g}."
        )
    return "fault", (
        f"Both sides are beyond the noise of their dtype ({sides[0].units:.3g} and {sides[1].units:.3g} units), "
        "alike: either the reference or both of them compute something else."
    )


def _alike(high: SideError, low: SideError) -> bool:
    """Whether both sides are off in the same way, so that it may be the reference that is."""
    if not high.line or not low.line or not low.systematic:
        return False
    same_sign = (high.line.offset > 0) == (low.line.offset > 0) and (high.line.slope > 0) == (low.line.slope > 0)
    return same_sign and low.line.size * 2 > high.line.size


def _pattern(side: SideError) -> str:
    """What systematic errors look like, in words."""
    if not side.line or not side.line.sloping:
        return f"its tokens are off in one direction, by {side.bias:+.3g} on average, unlike noise"
    slope = side.line.slope
    found = f"its errors follow the log-probability with a slope of {slope:+.3g}, unlike noise"
    # Further away, the errors of a temperature are on no straight line.
    if side.line.share >= SURE and abs(slope) <= 0.5:
        found += f"; a temperature of about {1 / (1 + slope):.2f} times the right one would do that"
    return found
