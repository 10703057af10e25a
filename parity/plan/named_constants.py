"""Names for the factor by which a gradient is wrong: the batch size, the number of features, 2, 1/2, and so on."""

from collections.abc import Sequence

from parity.plan import lines

# Plain numbers that a loss may be wrong by. Chosen, not measured: small factors and their inverses, and the range of
# a pixel.
PLAIN = {2.0: "2", 0.5: "1/2", 4.0: "4", 0.25: "1/4", 3.0: "3", 10.0: "10", 255.0: "255", 1 / 255.0: "1/255"}


def name_constant(factors: Sequence[float], *, rows: Sequence[int], elements: Sequence[int]) -> str | None:
    """Names the constant that the factors of several steps have in common.

    Args:
        factors: One factor of each step, greater than 0.
        rows: Number of rows in each step's batch; where one is 0, no size is named.
        elements: Number of elements in each step's output, as for rows.

    Returns:
        The name, such as "the batch size", "1/batch size" or "2", or None if no constant fits all steps. If several
        fit, a size goes before a plain number.

    >>> name_constant([256.0, 96.0], rows=[256, 96], elements=[512, 192])
    'the batch size'
    """
    sizes: dict[str, list[float]] = {}
    if all(count > 0 for count in (*rows, *elements)):  # an empty batch has no gradient: such a trace is damaged
        sizes = {
            "the batch size": [float(count) for count in rows],
            "elements of a row (features, classes)": [size / count for size, count in zip(elements, rows, strict=True)],
            "numel, the elements of the batch": [float(size) for size in elements],
        }
    for name, values in sizes.items():
        # "1/batch size", "1/elements of a row (1/features, 1/classes)" and so on.
        inverse = f"1/{name.removeprefix('the ').replace('(', '(1/').replace(', c', ', 1/c')}"
        for text, powers in ((name, values), (inverse, [1 / value for value in values])):
            # A size of 1 fits every gradient that is right, and explains nothing.
            if all(value != 1 and _near(factor, value) for factor, value in zip(factors, powers, strict=True)):
                return text
    for value, text in PLAIN.items():
        if all(_near(factor, value) for factor in factors):
            return text
    return None


def _near(factor: float, value: float) -> bool:
    """Whether a measured factor is the constant, but for rounding."""
    return abs(factor - value) <= lines.CONSTANT_FIT.value * value
