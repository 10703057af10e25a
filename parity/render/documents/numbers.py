"""Numbers as a reader can use them."""

import math
from decimal import ROUND_CEILING, Context, Decimal


def rounded_up(value: float) -> str:
    """The shortest number of three digits that is at least the value, so that a tolerance copied from it passes.

    >>> rounded_up(1.23401e-05), rounded_up(0.5), rounded_up(0.0)
    ('1.24e-05', '0.5', '0')
    """
    if not value or not math.isfinite(value):
        return f"{value:g}"
    number = float(Context(prec=3, rounding=ROUND_CEILING).create_decimal(Decimal(value)))
    return f"{number:.3g}" if math.isfinite(number) else repr(value)
