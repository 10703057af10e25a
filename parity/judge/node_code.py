"""Code that differs between the nodes of a run: files that its trials imported, and parity itself.

What travels with a trial is the same everywhere. The rest is whatever lies on a node, and where that differs no
difference of the training says anything about a device.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from parity.store.trials import SOFTWARE, TrialRecord

# What is known of a node's code: by what it is of, its digests; of parity's own code, by its version.
_Code = dict[tuple[str, str], frozenset[str]]
# Most nodes, and most files, that a sentence names.
_MOST = 3


@dataclass(frozen=True)
class CodeGroup:
    """Nodes whose code is the same, as far as it is known.

    Attributes:
        nodes: Their names, in the order of the plan.
        code: What is known of it.
    """

    nodes: tuple[str, ...]
    code: Mapping[tuple[str, str], frozenset[str]]

    def differing(self, other: "CodeGroup") -> tuple[str, ...]:
        """The names of the files that two groups do not have alike."""
        both = self.code.keys() & other.code.keys()
        return tuple(sorted({file for of, file in both if self.code[of, file] != other.code[of, file]}))


class NodeCode:
    """The nodes of a stored run, in groups of equal code.

    Attributes:
        groups: The groups; the first has most nodes, and the first in the plan of those with equally many.
    """

    def __init__(self, trials: Sequence[TrialRecord]) -> None:
        groups: list[tuple[list[str], _Code]] = []
        # Between runs, code that differs is what the pair is about.
        for nodes, code in _known([record for record in trials if not record.run]):
            for members, common in groups:
                if all(common[name] == code[name] for name in common.keys() & code.keys()):
                    members += nodes
                    common |= code
                    break
            else:
                groups.append(([*nodes], dict(code)))
        # Stable: of equally large ones the first in the plan stays in front.
        groups.sort(key=lambda group: len(group[0]), reverse=True)
        places = {node: place for place, node in enumerate(dict.fromkeys(map(_node, trials)))}
        self.groups = tuple(CodeGroup(tuple(sorted(nodes, key=places.__getitem__)), code) for nodes, code in groups)

    def group(self, record: TrialRecord) -> int:
        """The number of the group of a trial's node."""
        return self._numbers.get(_node(record), 0)

    def difference(self, left: TrialRecord, right: TrialRecord) -> str | None:
        """That the code of two trials differs, in words that name files and nodes; None if it does not."""
        numbers = {self.group(left), self.group(right)}
        return self._explain(*sorted(numbers)) if len(numbers) > 1 else None

    def deviation(self, record: TrialRecord) -> str | None:
        """That the code of a trial differs from that of most nodes, in the same words; None if it does not."""
        return self.explain_group(self.group(record))

    def explain_group(self, number: int) -> str | None:
        """The same of the group with that number."""
        return self._explain(0, number) if number else None

    def sentences(self) -> list[str]:
        """A sentence on each group whose code differs from that of most nodes."""
        return [
            f"Code differs between nodes: {_listed(group.differing(self.groups[0]))} on {_listed(group.nodes)}, other "
            f"than on {_listed(self.groups[0].nodes)}."
            for group in self.groups[1:]
        ]

    def _explain(self, first: int, other: int) -> str:
        groups = (self.groups[first], self.groups[other])
        files = _listed(groups[0].differing(groups[1]))
        # Where one group has more nodes than the other, its code is taken for the one that is meant.
        odd = groups[1:] if first == 0 and len(groups[0].nodes) > len(groups[1].nodes) else groups
        return f"code differs between nodes: {files} on {' and on '.join(_listed(each.nodes) for each in odd)}"

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {node: number for number, group in enumerate(self.groups) for node in group.nodes}


def software_differences(trials: Sequence[TrialRecord]) -> list[str]:
    """Sentences on the software that differs between the nodes of a run; empty where none does."""
    found: list[str] = []
    if any(record.run for record in trials):
        return found  # for several runs, the notes on each pair say it
    for name in SOFTWARE:
        nodes: dict[str, dict[str, None]] = {}
        for record in trials:
            # A dict instead of a set keeps the order of the plan.
            value = getattr(record, name)
            if value is not None:
                nodes.setdefault(value, {})[record.node or record.device] = None
        if len(nodes) > 1:
            versions = "; ".join(f"{value} on {_listed(list(where))}" for value, where in nodes.items())
            found.append(f"Software differs between nodes: {name} {versions}.")
    return found


def differing_files(left: TrialRecord, right: TrialRecord) -> dict[str, tuple[str, str]]:
    """The files that both trials imported from outside of the environment, with both digests where they differ."""
    one, other = _files(left.imported), _files(right.imported)
    return {name: (one[name], other[name]) for name in one if name in other and one[name] != other[name]}


def _known(trials: Sequence[TrialRecord]) -> list[tuple[list[str], _Code]]:
    """Nodes of which the same is known, in the order of the plan, and what it is."""
    seen: dict[str, set[_Seen]] = {}
    for record in trials:
        seen.setdefault(_node(record), set()).add(_Seen.of(record))
    # Of a thousand equal nodes, what is known is put together once.
    alike: dict[frozenset[_Seen], list[str]] = {}
    for node, each in seen.items():
        alike.setdefault(frozenset(each), []).append(node)
    every: dict[str, set[str]] = {}
    for one in (one for each in alike for one in each if one.whole):
        every.setdefault(one.loss, set()).update(_files(one.imported))
    return [(nodes, _code(each, every)) for each, nodes in alike.items()]


@dataclass(frozen=True)
class _Seen:
    """What one trial shows of the code of its node.

    Attributes:
        loss: Name of its loss.
        version: Version of parity.
        parity_sha256: Digest of the package.
        imported: Lines of the files that it imported, or None.
        whole: Whether a file that is not among them was not imported.
    """

    loss: str
    version: str | None
    parity_sha256: str | None
    imported: tuple[str, ...] | None
    whole: bool

    @classmethod
    def of(cls, record: TrialRecord) -> "_Seen":
        imported = None if record.imported is None else tuple(record.imported)
        # Trials outside of a cluster may share a process, and with it what another one imported. One that failed or was
        # continued may not have come to each import.
        whole = bool(record.node) and record.status == "complete" and imported is not None and record.attempts == 1
        return cls(record.loss_name, record.parity, record.parity_sha256, imported, whole)


def _code(seen: Iterable[_Seen], every: Mapping[str, set[str]]) -> _Code:
    """What the trials of a node show of its code; `every` has all files that a loss imports on some node."""
    code: dict[tuple[str, str], set[str]] = {}
    whole: dict[str, set[str]] = {}
    for each in seen:
        if each.parity_sha256:
            # Other versions are other software, which makes another class.
            code.setdefault((f"version {each.version}", "the package parity"), set()).add(each.parity_sha256)
        for name, sha256 in _files(each.imported).items():
            code.setdefault(("", name), set()).add(sha256)
        if each.whole:
            whole.setdefault(each.loss, set()).update(_files(each.imported))
    # A node may lack a file that its code can do without.
    for loss, names in whole.items():
        code |= {(f"imported by {loss}", name): {str(name in names)} for name in every[loss]}
    return {key: frozenset(values) for key, values in code.items()}


def _files(imported: Iterable[str] | None) -> dict[str, str]:
    """SHA-256 of each file that a trial imported, by its name."""
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in imported or ())}


def _node(record: TrialRecord) -> str:
    return record.node or record.host or record.unit


def _listed(names: Sequence[str]) -> str:
    """Up to three names; of more, the first and the number of the others."""
    return ", ".join(names) if len(names) <= _MOST else f"{names[0]} and {len(names) - 1} more"
