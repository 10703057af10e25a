"""Numbers as a reader can use them."""

import math


def rounded_up(value: float) -> str:
    """The shortest number of three digits that is at least the value, so that a tolerance copied from it passes.

    >>> rounded_up(1.23401e-05), rounded_up(0.5), rounded_up(0.0)
    ('1.24e-05', '0.5', '0')
    """
    if not value or not math.isfinite(value):
        return f"{value:g}"
    digits = 10.0 ** (2 - math.floor(math.log10(abs(value))))
    text = f"{math.ceil(value * digits) / digits:.3g}"
    while float(text) < value:  # the division has rounded down
        text = f"{float(text) + 1 / digits:.3g}"
    return text
