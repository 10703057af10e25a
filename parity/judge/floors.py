"""The least distances that can be a jump, and the tensors that are left out of them.

Letters: S steps that both traces have; T tensors of a quantity.
"""

from __future__ import annotations

import numpy as np

from parity.judge.differences import Comparison
from parity.judge.distances import Distances
from parity.judge.drift import Drift
from parity.judge.starts import parameters_apart
from parity.judge.window import MOST, largest_before
from parity.plan import lines
from parity.plan.lines import Line


def least_jump(quantity: str, unit: float) -> float:
    """The least relative distance of a quantity that can be a jump.

    Args:
        quantity: One of `trace.SKETCHED_QUANTITIES`.
        unit: The unit roundoff u.
    """
    line = lines.JUMP_GRADIENT if quantity == "param_grad" else lines.JUMP_FLOOR
    return max(line.value, lines.FAR_NARROW.value * unit)


def least_jumps(comparison: Comparison, quantity: str) -> np.ndarray:
    """The least relative distance that can be a jump at each step; float64[S].

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    floor = np.full(comparison.steps, least_jump(quantity, comparison.unit))
    if quantity not in ("update", "buffer"):
        return floor
    line = lines.JUMP_UPDATE if quantity == "update" else lines.JUMP_BUFFER
    quiet = np.full(comparison.steps, quiet_line(line, comparison.unit))
    if quantity == "buffer":
        quiet = np.maximum(quiet, _from_updates(comparison))
    return np.where(_quiet(comparison), np.minimum(quiet, floor), floor)


def judged_distance(comparison: Comparison, quantity: str) -> np.ndarray | None:
    """The relative distance of all tensors together in which a jump is looked for, float64[S]; None if it is not known.

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.

    Raises:
        Trouble: A trace is damaged.
    """
    distances = comparison.distances(quantity)
    if distances is None:
        return None
    parts = distances.each_part()
    return np.concatenate(
        [part.without(noise_of(comparison, quantity, begin, begin + part.steps)).whole for begin, part in parts]
    )


def quiet_line(line: Line, unit: float) -> float:
    """The least distance that can be a jump while the gradients are near each other."""
    return max(line.value, 64 * unit)


def _quiet(comparison: Comparison) -> np.ndarray:
    """Whether the gradients have been near each other for some steps, so that their updates must be, too; bool[S]."""
    gradients = comparison.distances("step_grad")
    if gradients is None:
        return np.zeros(comparison.steps, bool)
    whole = np.nan_to_num(gradients.whole, nan=np.inf)
    largest = np.maximum(whole, largest_before(np.minimum(whole, MOST)[:, None])[:, 0])
    quiet: np.ndarray = largest < lines.QUIET.value
    return quiet


def updates_in_buffers(comparison: Comparison, begin: int, end: int) -> np.ndarray:
    """What the updates of steps may have added to the distance of each buffer in those steps; float64[N, B].

    The average of a parameter contains the update of that parameter and of no other. If all updates counted, noise in
    one of them (of a bias before a batch norm, under Adam) would hide another decay of the average. What other buffers
    are computed from is not known, so all updates count for them.

    Args:
        comparison: The two traces.
        begin: Position of the first step.
        end: Position after the last.

    Raises:
        Trouble: A trace is damaged.
    """
    updates, buffers = comparison.distances("update"), comparison.distances("buffer")
    assert buffers is not None, "somebody asks for their distances"
    if updates is None:
        return np.zeros((end - begin, buffers.tensors))
    return _in_buffers(comparison, updates.between(begin, end).absolute, buffers.tensors)


def starts_in_buffers(comparison: Comparison) -> np.ndarray | None:
    """What the distances of the first parameters explain in the distance of each buffer; float64[B], None if not known.

    The mean that a batch norm keeps has the bias before it in it, and an average of the weights has the weights.

    Args:
        comparison: The two traces.

    Raises:
        Trouble: A trace is damaged.
    """
    apart, buffers = parameters_apart(comparison.common), comparison.distances("buffer")
    if apart is None or buffers is None or not comparison.paired or not np.isfinite(apart[0]).all():
        return None
    return np.asarray(lines.JUMP_FOLLOWS.value * _in_buffers(comparison, apart[0][None], buffers.tensors)[0])


def _in_buffers(comparison: Comparison, absolute: np.ndarray, buffers: int) -> np.ndarray:
    """What distances of the parameters, float64[N, T], may make of the distance of each of B buffers; float64[N, B]."""
    with np.errstate(over="ignore"):
        found = np.repeat(np.linalg.norm(absolute, axis=1)[:, None], buffers, axis=1)
    for buffer, parameter in _averages(comparison):
        # Both are estimated, from sums with other signs.
        own = lines.JUMP_UPDATE_FOLLOWS.value * absolute[:, parameter]
        found[:, buffer] = np.minimum(found[:, buffer], own)
    return found


class Averages:
    """The buffers that are averages of a parameter or a buffer, and how far off they may be because these are.

    Args:
        comparison: The two traces.
    """

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        parameters = _averages(comparison)
        self._parameters = [buffer for buffer, _ in parameters]
        copies = _copies(comparison)
        self._buffers, self._originals = [copy for copy, _ in copies], [original for _, original in copies]
        self._drift = Drift(comparison.common, [number for _, number in parameters]) if parameters else None

    def least(self, begin: int, end: int, least: np.ndarray, *, each: bool) -> np.ndarray:
        """The least distances that can be a jump.

        An average may be as far off as what it averages, and no further, however far off other tensors are. It may be
        so at once if it begins late, or if it is a copy that is made anew every few steps.

        Args:
            begin: Position of the first step.
            end: Position after the last.
            least: Those of all buffers together; float64[N, 1].
            each: Whether those of single buffers are asked for, and not of all together.

        Returns:
            float64[N, B], or float64[N, 1].

        Raises:
            Trouble: A trace is damaged.
        """
        buffers = self._comparison.distances("buffer")
        if self._drift is None or buffers is None:
            return least
        with np.errstate(divide="ignore", invalid="ignore"):
            own = self._explained(buffers, begin, end) / buffers.whole_norm[begin:end, None]
        own = np.where(np.isnan(own), np.inf, own)
        if not each:
            return np.asarray(np.maximum(least, np.linalg.norm(own, axis=1, keepdims=True)))
        found = np.repeat(least, buffers.tensors, axis=1)
        quiet = _quiet(self._comparison)[begin:end, None]
        line = np.where(quiet, quiet_line(lines.JUMP_BUFFER, self._comparison.unit), least)
        # Where `least` is infinite, another rule looks at the buffers.
        explained = np.where(np.isfinite(least), np.maximum(line, own), least)
        found[:, [*self._parameters, *self._buffers]] = explained
        return found

    def _explained(self, buffers: Distances, begin: int, end: int) -> np.ndarray:
        """The distance of each average that follows from those of its parameter or buffer; float64[N, A]."""
        assert self._drift is not None, "there are averages"
        first = max(0, begin - int(lines.JUMP_WINDOW.value))
        moved = updates_in_buffers(self._comparison, first, end)[:, self._parameters]
        moved[1:] = np.maximum(moved[1:], moved[:-1])
        drift = lines.JUMP_FOLLOWS.value * self._drift.between(begin, end)
        # An average of running statistics has those of the steps before in it.
        originals = np.minimum(buffers.between(first, end).absolute[:, self._originals], MOST)
        originals = lines.JUMP_FOLLOWS.value * np.maximum(originals, largest_before(originals))
        return np.concatenate([moved[begin - first :] + drift, originals[begin - first :]], axis=1)


def _copies(comparison: Comparison) -> list[tuple[int, int]]:
    """The numbers of the buffers that are averages or copies of another one, each with that of the other one."""
    names = comparison.baseline.record.buffer_names or []
    numbers = {name: number for number, name in enumerate(names)}
    originals = [numbers.get(_original(name)) for name in names]
    return [(buffer, original) for buffer, original in enumerate(originals) if original is not None]


def _original(name: str) -> str:
    """The name of what a buffer is an average of, if it is one of another model.

    >>> _original("ema.layer.weight"), _original("swa.module.layer.weight")
    ('layer.weight', 'layer.weight')
    """
    # torch's AveragedModel keeps its copy as "module".
    return name.partition(".")[2].removeprefix("module.")


def _averages(comparison: Comparison) -> list[tuple[int, int]]:
    """The numbers of the buffers that are averages of a parameter, each with that of the parameter."""
    numbers = {name: number for number, name in enumerate(comparison.baseline.record.param_names)}
    names = [_original(name) for name in comparison.baseline.record.buffer_names or []]
    return [(buffer, numbers[name]) for buffer, name in enumerate(names) if name in numbers]


def _from_updates(comparison: Comparison) -> np.ndarray:
    """The distance of the buffers that follows from that of the last two updates at each step; float64[S].

    An average of the parameters has the update of the step in it, the statistics of a batch norm that of the step
    before. Though the gradients are near each other, noise in the faint ones may have turned an update of Adam.
    """
    updates, buffers = comparison.distances("update"), comparison.distances("buffer")
    if updates is None or buffers is None:
        return np.full(comparison.steps, np.inf)
    moved = np.where(np.isnan(updates.whole_absolute), np.inf, updates.whole_absolute)
    moved[1:] = np.maximum(moved[1:], moved[:-1])
    follows: np.ndarray = np.full(comparison.steps, np.inf)
    np.divide(lines.JUMP_UPDATE_FOLLOWS.value * moved, buffers.whole_norm, out=follows, where=buffers.whole_norm > 0)
    return follows


def noise_of(comparison: Comparison, quantity: str, begin: int, end: int) -> np.ndarray | None:
    """Which tensors to leave out at some steps, since their gradient is zero but for rounding.

    An optimizer that divides a gradient by its size, as Adam does, makes whole steps of the noise of such a gradient.

    Args:
        comparison: The two traces.
        quantity: One of `trace.SKETCHED_QUANTITIES`.
        begin: Position of the first of the steps.
        end: Position after the last.

    Returns:
        bool[end - begin, T]; None where no tensor is left out.

    Raises:
        Trouble: A trace is damaged.
    """
    gradients = comparison.distances("step_grad") if quantity == "update" else None
    if gradients is None:
        return None
    first = max(0, begin - int(lines.JUMP_WINDOW.value))
    here = gradients.between(first, end)
    distances = np.nan_to_num(here.each, nan=np.inf)
    noise = distances > lines.NOISE.value
    # As the steps before have shown, since a fault moves the gradient of its own step as well. Where all of them were
    # equal to the bit they have shown nothing.
    recent = np.where(largest_before(np.minimum(distances, MOST)) > 0, largest_before(noise.astype(float)) > 0, noise)
    # Trainings that have drifted apart have gradients that far apart in all tensors, which are not noise.
    found: np.ndarray = recent & (here.norms < lines.NOISE_LENGTH.value * here.whole_norm[:, None])
    return found[begin - first :] if found[begin - first :].any() else None
