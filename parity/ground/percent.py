"""Relative differences as people read them: in percent, or as a power of ten where percent would have many zeros."""

import math
from decimal import Decimal

# From here on in percent: 0.00005 % can still be read, 0.000005 % is counted.
_LEAST = 5e-7
# The same of a number that is read beside others in percent.
LEAST_BESIDE = 1e-10
# From here on without percent: nobody reads 1,000,000 %.
_MOST = 1e4


def percent(share: float, *, least: float = _LEAST) -> str:
    """A relative difference, with two digits.

    Args:
        share: The difference over what it is relative to; its sign is dropped.
        least: The least that is given in percent, where a number is read beside others in percent.

    >>> percent(0.25), percent(1.0), percent(3.0517e-4), percent(9.5e-7), percent(5.9e-8)
    ('25 %', '100 %', '0.031 %', '0.000095 %', '5.9e-08')
    >>> percent(0.0), percent(11.2), percent(float("inf")), percent(float("nan"))
    ('0 %', '1,120 %', 'more than any number', 'NaN')
    """
    size = abs(share)
    if math.isnan(size):
        return "NaN"
    if math.isinf(size):
        return "more than any number"
    if size >= _MOST:
        return f"{size:.2g} times"
    if 0 < size < least:
        return f"{size:.2g}"
    # `f` of a Decimal has no exponent, and no zeros that the rounding did not leave.
    digits = 3 if size >= 1 else 2
    return f"{Decimal(f'{100 * size:.{digits}g}'):,f} %"


def percent_at_most(limit: float, *, least: float = _LEAST) -> str:
    """The same of a limit, as in "rounding explains 0.0001 %".

    >>> percent_at_most(0.25), percent_at_most(float("inf"))
    ('25 %', 'any amount')
    """
    return "any amount" if math.isinf(limit) else percent(limit, least=least)


def percent_off(share: float, *, zero: str = "it should be") -> str:
    """The same as a predicate, as in "25 % off".

    Args:
        share: The difference; infinite where what it is relative to is zero.
        zero: What is zero then, with its verb.

    >>> percent_off(0.25), percent_off(2e5), percent_off(float("nan"))
    ('25 % off', 'off by 2e+05 times its size', 'NaN')
    >>> percent_off(float("inf")), percent_off(float("inf"), zero="the baseline's is")
    ('not zero, as it should be', "not zero, as the baseline's is")
    """
    text = percent(share)
    if math.isinf(share):
        return f"not zero, as {zero}"
    if text.endswith(" times"):
        return f"off by {text} its size"
    return text if text == "NaN" else f"{text} off"


def times(factor: float) -> str:
    """By how much something is too large or too small, of what is `factor` times the right one; its sign is dropped.

    >>> times(2.0), times(1.00001), times(0.75), times(3.5)
    ('2× too large', '0.001 % too large', '25 % too small', '3.5× too large')
    >>> times(0.5), times(0.375)
    ('half of what it should be', '0.375 of what it should be')
    >>> times(-0.0), times(float("-inf"))
    ('0.0 times the right one', 'inf times the right one')
    """
    size = abs(factor)
    if not math.isfinite(size) or size == 0:
        return f"{size} times the right one"
    word, many = ("large", size) if size > 1 else ("small", 1 / size)
    if many < 1.9:
        return f"{percent(size - 1)} too {word}"
    if size < 1:
        # "2× too small" is ambiguous.
        return f"{'half' if size == 0.5 else f'{size:.4g}'} of what it should be"
    # Whole numbers with their separators, others with four digits.
    number = f"{many:,.0f}" if 1e3 <= many < 1e7 else f"{many:.4g}"
    return f"{number}× too large"
