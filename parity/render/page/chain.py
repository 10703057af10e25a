"""The chain of a step, state -> input -> output -> loss -> ... -> param -> buffer, and where it breaks."""

from dataclasses import dataclass

from parity.judge.distances import unit_of_quantity
from parity.judge.parting import parting_line
from parity.judge.verdict import PairVerdict
from parity.render.differing import Rows
from parity.store.trace import QUANTITIES, SKETCHED_QUANTITIES, TENSOR_QUANTITIES


@dataclass(frozen=True)
class Link:
    """A quantity in the chain.

    Attributes:
        quantity: One of `trace.QUANTITIES`.
        state: "equal"; "unknown" where it was not compared; "first" where the two first differ; "beyond" where they
            differ by more than rounding can explain; "within" for a quantity before that whose own error or distance
            is within what rounding explains; "differs" for any other.
        words: The state in words.
    """

    quantity: str
    state: str
    words: str


@dataclass(frozen=True)
class Chain:
    """The chain at one step.

    Attributes:
        title: The step, and why it is shown.
        links: The quantities in the order of computation.
        layers: Name of each tensor that has a row, and its state in each of `trace.TENSOR_QUANTITIES`.
        differing: Number of these tensors that differ, by quantity of `trace.TENSOR_QUANTITIES`.
    """

    title: str
    links: tuple[Link, ...]
    layers: tuple[tuple[str, tuple[str, ...]], ...]
    differing: dict[str, int]

    @property
    def open(self) -> bool:
        """Whether the chain breaks at a tensor, so that its layers should be shown."""
        broken = next((link for link in self.links if link.state in ("first", "beyond")), None)
        return broken is not None and broken.quantity in TENSOR_QUANTITIES


# Each state in words, since a page must not rely on colours alone.
_WORDS = {
    "equal": "equal",
    "unknown": "not compared",
    "first": "first to differ",
    "beyond": "beyond rounding",
    "within": "differs by rounding",
    "differs": "differs",
}


def make_chains(verdict: PairVerdict, rows: Rows) -> tuple[Chain, ...]:
    """The chain at the first difference, and at the onset where that is another step.

    Args:
        verdict: The pair and its verdict.
        rows: Where its quantities and tensors differ.

    Returns:
        Two chains at most; none for equal traces.
    """
    # Equal traces have no chain that breaks.
    if verdict.first is None:
        return ()
    chains = []
    first, onset = verdict.first, verdict.onset
    # One chain shows both where they are in one step; then the onset is what it breaks at.
    beyond = onset.quantity if onset and onset.step == first.step else None
    chains.append(_chain(verdict, rows, first.step, "the first difference", first.tensor, beyond))
    if onset and onset.step != first.step:
        chains.append(
            _chain(verdict, rows, onset.step, "the first difference beyond rounding", onset.tensor, onset.quantity)
        )
    return tuple(chains)


def _explained(verdict: PairVerdict, quantity: str, index: int) -> bool:
    """Whether the quantity's own audit, or its distance to the baseline, is within what rounding explains."""
    audit = verdict.loss_audit
    if quantity == "loss" and audit is not None and audit.off_oracle is None and audit.audited[index]:
        return bool(audit.loss.candidate[index] <= audit.loss.line[index])  # False for a NaN
    distances = verdict.comparison.distances(quantity) if quantity in SKETCHED_QUANTITIES else None
    if distances is None:
        return False  # nothing says so
    unit = unit_of_quantity(verdict.pair.candidate, quantity)
    return bool(distances.whole[index] <= parting_line(quantity, unit))


def _chain(verdict: PairVerdict, rows: Rows, step: int, what: str, tensor: str | None, beyond: str | None) -> Chain:
    """The chain at one step.

    Args:
        verdict: The pair and its verdict.
        rows: Where its quantities and tensors differ.
        step: The step.
        what: Why the step is shown.
        tensor: Name of the tensor at which the chain breaks, or None.
        beyond: The quantity that is beyond rounding at this step, or None.
    """
    index = verdict.comparison.index_of(step)
    differs = {quantity: bool(verdict.comparison.differs[quantity][index]) for quantity in QUANTITIES}
    # The update is seen in the parameters.
    # At the onset the chain breaks at the first quantity beyond rounding, though others may differ before it.
    broken = "param" if beyond == "update" else beyond or next(quantity for quantity in QUANTITIES if differs[quantity])
    links = []
    for place, quantity in enumerate(QUANTITIES):
        state = "differs" if differs[quantity] else "equal" if verdict.comparison.compares(quantity) else "unknown"
        if quantity == broken:
            state = "beyond" if beyond else "first"
        # After the onset a difference is a consequence; before it, its own numbers have to say that it is rounding.
        elif differs[quantity] and place < QUANTITIES.index(broken) and _explained(verdict, quantity, index):
            state = "within"
        links.append(Link(quantity, state, _WORDS[state]))
    # The state of each tensor, in a column for its gradient and one for its value.
    layers: dict[str, dict[str, str]] = {}
    counts = dict.fromkeys(TENSOR_QUANTITIES, 0)
    for row in (row for row in rows.shown if row.tensor):
        state = "differs" if row.differs[index] else "equal"
        counts[row.quantity] += state != "equal"
        # Rows of a tensor may be missing for one quantity: each quantity shows the tensors that differ first.
        layers.setdefault(str(row.tensor), {})[row.quantity] = state
    # The tensor of the difference may have no row if many others differ as well.
    if broken in TENSOR_QUANTITIES and tensor in layers:
        layers[tensor][broken] = "first"
    named = tuple((name, tuple(states.get(each, "") for each in TENSOR_QUANTITIES)) for name, states in layers.items())
    return Chain(f"Step {step:,}, {what}", tuple(links), named, counts)
