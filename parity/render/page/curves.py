"""The plots of both sides over the steps: the loss, and the norms of gradients.

Letters: S is the number of steps of the pair.
"""

import numpy as np

from parity.ground.percent import percent
from parity.judge.verdict import PairVerdict
from parity.render.page.figures import Frame, Json, figure, not_finite, series, short
from parity.render.page.plots import Plot, thinned
from parity.render.page.thinning import thin
from parity.store.trace import NORMED_QUANTITIES, TENSOR_QUANTITIES

# The words for the quantities that have a stored norm.
_NORMS = {"output_grad": "gradient of the output", "param_grad": "gradient of the parameters"}
# Most tensors of a pair that have curves of their own.
_MOST_TENSORS = 3


def curves(frame: Frame) -> list[Plot]:
    """A plot of both sides for the loss, for each stored norm, and for the tensors that the verdict names.

    A quantity without a single finite number has no plot.

    Args:
        frame: The pair, and how many points a series may have.

    Raises:
        Trouble: A trace is damaged.
    """
    verdict = frame.verdict
    found = [_curve(frame, "losses", "loss", verdict.comparison.both("loss"), digits=_digits(verdict))]
    for quantity in NORMED_QUANTITIES:
        sides = verdict.comparison.both(f"{quantity}_norm")
        found.append(_curve(frame, f"{quantity}-norm", f"norm of the {_NORMS[quantity]}", sides, digits=6))
    found += [_tensor(frame, number, name) for number, name in enumerate(_named_tensors(verdict))]
    return [plot for plot in found if plot]


def _named_tensors(verdict: PairVerdict) -> list[str]:
    """The tensors that the verdict names."""
    marked = (verdict.onset, verdict.first)
    names = [each.tensor for each in marked if each and each.tensor and each.quantity in TENSOR_QUANTITIES]
    return list(dict.fromkeys(names))[:_MOST_TENSORS]


def _tensor(frame: Frame, number: int, tensor: str) -> Plot | None:
    """The curves of the norm of one tensor's gradient; None where it is not stored."""
    comparison = frame.verdict.comparison
    distances, names = comparison.distances("param_grad"), comparison.baseline.record.param_names
    if distances is None or tensor not in names:
        return None
    place = names.index(tensor)
    parts = [(part.norms[:, place].copy(), part.other_norms[:, place].copy()) for _, part in distances.each_part()]
    sides = tuple(map(np.concatenate, zip(*parts, strict=True)))
    return _curve(frame, f"tensor-{number}", f"norm of the gradient of {short(tensor)}", sides, digits=6)


def _curve(frame: Frame, name: str, what: str, sides: tuple[np.ndarray, ...], *, digits: int) -> Plot | None:
    """The plot of both sides of a quantity; None where neither has a finite number.

    Args:
        frame: The pair, and how many points a series may have.
        name: Name of the plot in the anchors of the page.
        what: The quantity in words.
        sides: Baseline and candidate; float64[S] each.
        digits: Significant digits that identify a number.
    """
    if not any(np.isfinite(values).any() for values in sides):
        return None
    traces: list[Json] = []
    # Both sides have the same steps, so that hovering shows both, and their difference.
    kept = [thin(values, most=frame.most, always=frame.always) for values in sides]
    steps = np.unique(np.concatenate(kept))
    numbers = steps + frame.first
    for role, values in zip(("baseline", "candidate"), sides, strict=True):
        shown = values[steps]
        # An infinity has no place on the axis; as a NaN it is a gap, and its mark is in the band.
        finite = np.where(np.isfinite(shown), shown, np.nan)
        traces.append(series(numbers, finite, role, name=role, hover=f"{role} %{{y:.{digits}g}}"))
        traces += not_finite(numbers, shown, role, name=role)
    # Only its role: report.js takes the numbers of both sides, which the page has already.
    traces.append({"type": "scatter", "meta": "between", "name": "difference", "showlegend": False})
    pair = frame.verdict.pair
    far = f" {_how_far(frame.verdict)}" if name == "losses" else ""
    return Plot(
        name,
        f"{what[:1].upper()}{what[1:]}",
        f"The {what} of {short(pair.baseline.trial)} (baseline, solid) and of {short(pair.candidate.trial)} "
        f"(candidate, dashed) at each step.{far}{borders(frame)}{thinned(frame)}",
        figure(frame, traces, title=what if len(what) < 40 else "norm"),
    )


def _digits(verdict: PairVerdict) -> int:
    # 9 significant digits identify a float32, 17 a float64.
    return 17 if verdict.pair.baseline.loss_dtype == "float64" else 9


def _how_far(verdict: PairVerdict) -> str:
    """How far the losses differ at most, in a sentence; empty where there is no common step."""
    largest = verdict.largest
    if largest.step is None:
        return ""
    if not largest.rel:
        somewhere = verdict.comparison.differs["loss"].any()
        return f"They are equal at every step{' at which both are numbers' if somewhere else ''}."
    return f"They differ most at step {largest.step:,}, by {percent(largest.rel)} of the baseline."


def borders(frame: Frame) -> str:
    """What the vertical lines of a plot mean, in sentences; empty where there are none."""
    epochs = " Dashed lines mark the beginnings of epochs." if len(frame.epochs) else ""
    partial = " Dotted lines mark partial batches." if len(frame.partial) else ""
    return epochs + partial
