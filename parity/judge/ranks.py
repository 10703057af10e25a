"""The ranks of a distributed training: beside one process that has the whole batch, and beside each other.

Each rank has rows of its own, and so inputs, outputs and losses of its own. After the all-reduce all ranks have the
same gradients and parameters, to the bit, and these are what one process has, but for rounding.

Letters: S common steps; N ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from parity.judge.columns import Columns
from parity.judge.common_steps import common_steps
from parity.judge.trial_trace import TrialTrace
from parity.plan import lines
from parity.store.trace import QUANTITIES
from parity.store.traces import Traces, read_columns
from parity.store.trials import TrialRecord

# What each rank has of its own: it is not compared with that of another process.
OWN = frozenset({"input", "output", "loss", "output_grad", "target_grad", "generators"})


@dataclass(frozen=True)
class RankFinding:
    """Where the ranks of a training are not what they ought to be.

    Attributes:
        step: Optimizer step.
        quantity: One of `trace.QUANTITIES`.
        tensor: Name of the tensor, or None.
        why: What was found, in words.
    """

    step: int
    quantity: str
    tensor: str | None
    why: str


class Ranks:
    """The traces of the ranks of one training, by the names of the ranks.

    Args:
        trials: The trial of each rank.
        traces: The traces of each rank.
    """

    def __init__(self, trials: Mapping[str, TrialRecord], traces: Mapping[str, Mapping[str, pa.Table]]) -> None:
        self.trials = trials
        self.traces = {name: TrialTrace(record, Columns(traces[name])) for name, record in trials.items()}
        self._names = list(trials)
        every = self.traces.values()
        self._first = max(trace.first_step for trace in every)
        self._steps = max(0, min(trace.first_step + trace.steps for trace in every) - self._first)

    @property
    def sharded(self) -> bool:
        """Whether the ranks hold parts of the parameters, rather than all of them."""
        return any(record.sharded for record in self.trials.values())

    @cached_property
    def own(self) -> frozenset[str]:
        """The quantities that each rank has of its own."""
        own = set(OWN)
        # Reduced between backward() and the optimizer's step: until then each rank has its own gradients.
        if self._unequal("param_grad").any() and not self._unequal("step_grad").any() and self._has("step_grad"):
            own.add("param_grad")
        # Averages of each rank's own batches, which a wrapper may broadcast at the next forward pass.
        if self._steps and self._unequal("buffer")[0]:
            own.add("buffer")
        return frozenset(own)

    def mean_loss(self) -> np.ndarray:
        """The loss of each step, averaged over the ranks; float64[S]."""
        mean: np.ndarray = np.mean([self._values(name, "loss") for name in self._names], axis=0)
        return mean

    def find(self, single: TrialTrace | None) -> RankFinding | None:
        """The first thing in which the ranks are not what they ought to be, or None.

        Args:
            single: The trace of one process that has the whole batch, or None.

        Raises:
            Trouble: A trace is damaged.
        """
        if not self._steps:
            return None
        found = [*self._starts(), *self._among_each_other(), *(self._beside(single) if single else ())]
        return min(found, key=lambda each: (each.step, QUANTITIES.index(each.quantity)), default=None)

    def equal_rows(self, single: TrialTrace) -> bool:
        """Whether each rank has all rows of the one process, in the same order: then everything is compared."""
        if not self._steps:
            return False
        both = [common_steps(single, trace) for trace in self.traces.values()]
        return all(np.array_equal(one.values("input_digest"), other.values("input_digest")) for one, other in both)

    def same_inputs(self) -> bool:
        """Whether two ranks have been given the same rows at each step."""
        digests = [self._values(name, "input_digest") for name in self._names]
        return bool(self._steps) and any(
            np.array_equal(one, other) for index, one in enumerate(digests) for other in digests[index + 1 :]
        )

    def _starts(self) -> Iterator[RankFinding]:
        """Ranks that start from other parameters than the first."""
        first = self.trials[self._names[0]]
        for name in self._names[1:]:
            record = self.trials[name]
            if None in (first.initial_digests, record.initial_digests):
                continue
            if first.initial_digests != record.initial_digests:
                yield RankFinding(
                    self._first,
                    "state",
                    None,
                    f"{name} starts from other parameters than {self._names[0]}: they were not broadcast, or the seeds "
                    "of the ranks differ",
                )
                return

    def _among_each_other(self) -> Iterator[RankFinding]:
        """The first step at which ranks take other steps than the first rank."""
        first = self._names[0]
        for name in self._names[1:]:
            # What the optimizer got and what it made of it; gradients of backward may be reduced after it.
            decides = self._unequal("step_grad", name) | self._unequal("param", name)
            if "param_grad" not in self.own:
                decides |= self._unequal("param_grad", name)
            if not decides.any():
                continue
            index = int(np.argmax(decides))
            quantity = next(each for each in ("param_grad", "step_grad", "param") if self._unequal(each, name)[index])
            tensor = self._first_tensor(quantity, name, index)
            what = {
                "param_grad": "the gradients are not synchronised: no all-reduce has made them equal (is the module "
                "called instead of its wrapper?)",
                "step_grad": "something changes the gradients of one rank after the all-reduce",
                "param": "the optimizers of the ranks take other steps",
            }[quantity]
            place = f"{quantity} {tensor}" if tensor else quantity
            yield RankFinding(
                self._first + index, quantity, tensor, f"{place} of {name} is not that of {first} to the bit: {what}"
            )
        if "buffer" not in self.own and (unequal := self._unequal("buffer")).any():
            index = int(np.argmax(unequal))
            name = next(each for each in self._names[1:] if self._unequal("buffer", each)[index])
            yield RankFinding(
                self._first + index, "buffer", None, f"the buffers of {name} are no longer those of {first} to the bit"
            )

    def _beside(self, single: TrialTrace) -> Iterator[RankFinding]:
        """What shows beside one process that has the whole batch: other rows, and sums in place of means."""
        first = max(self._first, single.first_step)
        steps = min(self._first + self._steps, single.first_step + single.steps) - first
        if steps <= 0 or self.equal_rows(single):
            return
        count = len(self._names)
        own = slice(first - self._first, first - self._first + steps)
        theirs = slice(first - single.first_step, first - single.first_step + steps)
        rows = np.sum([self._values(name, "rows")[own] for name in self._names], axis=0)
        whole = single.values("rows")[theirs]
        if (rows != whole).any():
            index = int(np.argmax(rows != whole))
            yield RankFinding(
                first + index,
                "input",
                None,
                f"the ranks have {int(rows[index])} rows together, and the one process has {int(whole[index])}",
            )
        elif self.same_inputs():
            yield RankFinding(
                first, "input", None, "ranks were given the same rows: the batch is not divided among them"
            )
        for quantity in ("param_grad", "step_grad"):
            column = f"{quantity}_norm"
            norms = single.values(column)[theirs], self._values(self._names[0], column)[own]
            if quantity in self.own or not (norms[0][0] > 0):
                continue
            ratio = float(norms[1][0] / norms[0][0])
            for factor, what in (
                (count, "a sum over the ranks"),
                (1 / count, "a mean over the ranks of what is a sum"),
            ):
                if abs(ratio / factor - 1) <= lines.CONSTANT_FIT.value:
                    yield RankFinding(
                        first,
                        quantity,
                        None,
                        f"the gradient of the {count} ranks is scaled by {ratio:.6g} beside that of the one process: "
                        f"{what}",
                    )

    def _has(self, quantity: str) -> bool:
        return all(trace.has(quantity) for trace in self.traces.values())

    def _unequal(self, quantity: str, name: str | None = None) -> np.ndarray:
        """Whether a rank, or any of them, has other bits than the first one; bool[S]."""
        if not self._has(quantity):
            return np.zeros(self._steps, bool)
        column = f"{quantity}_digest"
        first = self._values(self._names[0], column)
        names = self._names[1:] if name is None else [name]
        unequal: np.ndarray = np.logical_or.reduce([self._values(each, column) != first for each in names])
        return unequal

    def _first_tensor(self, quantity: str, name: str, index: int) -> str | None:
        """The first tensor of the rank that differs, in the order of computation."""
        if quantity not in ("param_grad", "param"):
            return None
        sides = [self.traces[each] for each in (self._names[0], name)]
        rows = [side.digests(quantity)[self._first - side.first_step + index] for side in sides]
        if rows[0].shape != rows[1].shape or not (unequal := np.flatnonzero(rows[0] != rows[1])).size:
            return None
        return sides[0].record.param_names[int(unequal[-1] if quantity == "param_grad" else unequal[0])]

    def _values(self, name: str, column: str) -> np.ndarray:
        """A column of a rank, over the steps that all ranks have."""
        trace = self.traces[name]
        begin = self._first - trace.first_step
        return trace.values(column)[begin : begin + self._steps]


class RankTraces(Traces):
    """The traces of a rank, with the loss that the ranks have on average in place of its own.

    Args:
        traces: The traces of the rank.
        ranks: All ranks.
    """

    def __init__(self, traces: Mapping[str, pa.Table], ranks: Ranks) -> None:
        self._traces, self._ranks = traces, ranks

    def __getitem__(self, trial: str) -> pa.Table:
        table = self._traces[trial]
        return table.set_column(table.column_names.index("loss"), table.schema.field("loss"), self._loss(table["loss"]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._traces)

    def __len__(self) -> int:
        return len(self._traces)

    def columns(self, trial: str, names: Sequence[str]) -> pa.Table:
        """Some columns of the trace.

        Raises:
            Trouble: The trace is damaged.
        """
        table = read_columns(self._traces, trial, names)
        return pa.table({name: self._loss(table[name]) if name == "loss" else table[name] for name in names})

    def column(self, trial: str, name: str) -> pa.ChunkedArray:
        """A column of the trace, as `columns`."""
        return self.columns(trial, [name])[name]

    def blocks(self, trial: str) -> None:  # noqa: ARG002 - as `Traces`
        """Nothing: the loss of the ranks is in no block."""
        return

    def addresses(self, trial: str, name: str) -> None:  # noqa: ARG002 - as `Traces`
        """Nothing, as of `blocks`."""
        return

    def nulls(self, trial: str, name: str) -> int:
        """Number of steps without a value in a column.

        Raises:
            Trouble: The trace is damaged.
        """
        return int(self.column(trial, name).null_count)

    def _loss(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        mean = self._ranks.mean_loss()
        # Ranks that have ended early leave steps that no mean is known of; only common steps are compared.
        return pa.chunked_array([pa.array(mean, column.type)]) if len(mean) == len(column) else column
