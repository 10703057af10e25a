"""What a factor may stand for: the batch size, the number of features, 2, 1/2, and so on."""

from collections.abc import Sequence

from parity.plan import lines

PLAIN = {2.0: "2", 0.5: "1/2", 4.0: "4", 0.25: "1/4", 3.0: "3", 10.0: "10", 255.0: "255", 1 / 255.0: "1/255"}


def name_constant(factors: Sequence[float], *, rows: Sequence[int], elements: Sequence[int]) -> str | None:
    """Names what all of the factors are, or None.

    Args:
        factors: Of some steps, above 0.
        rows: Of each step's batch.
        elements: Of each step's output.

    Returns:
        As in "the batch size", "1/numel", "2"; of several that fit the first, so that a size goes before a number.
    """
    sizes = {
        "the batch size": [float(count) for count in rows],
        "elements of a row (features, classes)": [size / count for size, count in zip(elements, rows, strict=True)],
        "numel, the elements of the batch": [float(size) for size in elements],
    }
    for name, values in sizes.items():
        inverse = f"1/{name.removeprefix('the ').replace('(', '(1/').replace(', c', ', 1/c')}"
        for text, powers in ((name, values), (inverse, [1 / value for value in values])):
            if all(value != 1 and _near(factor, value) for factor, value in zip(factors, powers, strict=True)):
                return text
    for value, text in PLAIN.items():
        if all(_near(factor, value) for factor in factors):
            return text
    return None


def _near(factor: float, value: float) -> bool:
    return abs(factor - value) <= lines.CONSTANT_FIT.value * value
