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
    """Nodes that have the same code for a loss, as far as it is known.

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
    """The nodes of a stored run, for each loss in groups of equal code.

    Each trial has a process of its own, so code that only one loss imports makes no difference to another one.

    Attributes:
        groups: By the name of the loss, the groups of the nodes that trained it; the first has most nodes, and the
            first in the plan of those with equally many.
    """

    def __init__(self, trials: Sequence[TrialRecord]) -> None:
        # Between runs, code that differs is what the pair is about.
        own = [record for record in trials if not record.run]
        places = {node: place for place, node in enumerate(dict.fromkeys(map(_node, own)))}
        known, self._ambiguous = _known(own)
        self.groups = {loss: _groups(each, places) for loss, each in known.items()}

    @property
    def differs(self) -> bool:
        """Whether some loss was trained by unequal code."""
        return any(len(groups) > 1 for groups in self.groups.values())

    def group(self, record: TrialRecord) -> int:
        """The number of the group that a trial's node is in for its loss."""
        return self._numbers.get((record.loss_name, _node(record)), 0)

    def difference(self, left: TrialRecord, right: TrialRecord) -> str | None:
        """That the code of two trials differs, in words that name files and nodes; None if it does not."""
        if left.run or right.run:
            return None
        if left.loss_name == right.loss_name:
            numbers = sorted({self.group(left), self.group(right)})
            return self._explain(left.loss_name, *numbers) if len(numbers) > 1 else None
        nodes = _node(left), _node(right)
        if nodes[0] == nodes[1]:
            return None
        # Two losses have in common what both import.
        one, other = (self.groups[each.loss_name][self.group(each)] for each in (left, right))
        files = [name for name in one.differing(other) if name not in self._ambiguous]
        return _words(files, [[node] for node in nodes]) if files else None

    def deviation(self, record: TrialRecord) -> str | None:
        """That the code of a trial differs from that of most nodes, in the same words; None if it does not."""
        number = self.group(record)
        return self._explain(record.loss_name, 0, number) if number else None

    def sentences(self) -> list[str]:
        """A sentence on each group whose code differs from that of most nodes, with the losses unless these are all."""
        found: dict[str, list[str]] = {}
        for loss, (usual, *others) in self.groups.items():
            for group in others:
                rest = f"{_listed(group.differing(usual))} on {_listed(group.nodes)}, other than on"
                found.setdefault(f"{rest} {_listed(usual.nodes)}", []).append(loss)
        return [
            f"Code {'' if len(losses) == len(self.groups) else f'of {_listed(losses)} '}differs between nodes: {rest}."
            for rest, losses in found.items()
        ]

    def _explain(self, loss: str, first: int, other: int) -> str:
        groups = (self.groups[loss][first], self.groups[loss][other])
        # Where one group has more nodes than the other, its code is taken for the one that is meant.
        odd = groups[1:] if first == 0 and len(groups[0].nodes) > len(groups[1].nodes) else groups
        return _words(groups[0].differing(groups[1]), [each.nodes for each in odd])

    @cached_property
    def _numbers(self) -> dict[tuple[str, str], int]:
        return {
            (loss, node): number
            for loss, groups in self.groups.items()
            for number, group in enumerate(groups)
            for node in group.nodes
        }


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


def _words(files: Sequence[str], nodes: Sequence[Sequence[str]]) -> str:
    return f"code differs between nodes: {_listed(files)} on {' and on '.join(map(_listed, nodes))}"


def _groups(known: Iterable[tuple[list[str], _Code]], places: Mapping[str, int]) -> tuple[CodeGroup, ...]:
    """Groups of nodes that agree in all that is known of both; `places` has the nodes in the order of the plan."""
    groups: list[tuple[list[str], _Code]] = []
    for nodes, code in known:
        for members, common in groups:
            if all(common[name] == code[name] for name in common.keys() & code.keys()):
                members += nodes
                common |= code
                break
        else:
            groups.append(([*nodes], dict(code)))
    # Stable: of equally large ones the first in the plan stays in front.
    groups.sort(key=lambda group: len(group[0]), reverse=True)
    return tuple(CodeGroup(tuple(sorted(nodes, key=places.__getitem__)), code) for nodes, code in groups)


def _known(trials: Sequence[TrialRecord]) -> tuple[dict[str, list[tuple[list[str], _Code]]], frozenset[str]]:
    """For each loss, nodes of which the same is known, in the order of the plan, and what it is; ambiguous files."""
    seen: dict[str, set[_Seen]] = {}
    for record in trials:
        seen.setdefault(_node(record), set()).add(_Seen.of(record))
    # Of a thousand equal nodes, what is known is put together once.
    alike: dict[frozenset[_Seen], list[str]] = {}
    for node, each in seen.items():
        alike.setdefault(frozenset(each), []).append(node)
    imports = _Imports.of(alike)
    known: dict[str, list[tuple[list[str], _Code]]] = {record.loss_name: [] for record in trials}
    for shown, nodes in alike.items():
        for loss in {one.loss for one in shown}:
            known[loss].append((nodes, _code(loss, shown, imports)))
    return known, imports.ambiguous


@dataclass(frozen=True)
class _Imports:
    """The files that the losses of a run import.

    Attributes:
        some: By loss, all files that one of its trials imported.
        whole: The same, of trials of which every import is known.
        ambiguous: Files of which a node has several: of that name in two folders, or changed during the run.
    """

    some: Mapping[str, set[str]]
    whole: Mapping[str, set[str]]
    ambiguous: frozenset[str]

    @classmethod
    def of(cls, nodes: Iterable[frozenset["_Seen"]]) -> "_Imports":
        some: dict[str, set[str]] = {}
        whole: dict[str, set[str]] = {}
        ambiguous: set[str] = set()
        for each in nodes:
            for one in each:
                names = _files(one.imported).keys()
                some.setdefault(one.loss, set()).update(names)
                if one.whole:
                    whole.setdefault(one.loss, set()).update(names)
            digests = _digests(each)
            ambiguous |= {name for name, different in digests.items() if len(different) > 1}
        return cls(some, whole, frozenset(ambiguous))


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


def _code(loss: str, seen: frozenset[_Seen], imports: _Imports) -> _Code:
    """What the trials of a node show of its code for a loss."""
    own = [each for each in seen if each.loss == loss]
    code: dict[tuple[str, str], set[str]] = {}
    for each in seen:
        if each.parity_sha256:
            # Other versions are other software, which makes another class.
            code.setdefault((f"version {each.version}", "the package parity"), set()).add(each.parity_sha256)
    files = _digests(own)
    whole = [each for each in own if each.whole]
    if not whole:
        # A trial that ended early may not have come to an import, but that of another loss may have.
        others = _digests(seen)
        names = imports.some[loss] - files.keys() - imports.ambiguous
        files |= {name: others[name] for name in names & others.keys()}
    code |= {("", name): digests for name, digests in files.items()}
    # A node may lack a file that its code can do without.
    if whole:
        names = {name for each in whole for name in _files(each.imported)}
        code |= {(f"imported by {loss}", name): {str(name in names)} for name in imports.whole[loss]}
    return {key: frozenset(values) for key, values in code.items()}


def _digests(seen: Iterable[_Seen]) -> dict[str, set[str]]:
    """The digests of each file that these trials imported, by its name."""
    found: dict[str, set[str]] = {}
    for each in seen:
        for name, sha256 in _files(each.imported).items():
            found.setdefault(name, set()).add(sha256)
    return found


def _files(imported: Iterable[str] | None) -> dict[str, str]:
    """SHA-256 of each file that a trial imported, by its name."""
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in imported or ())}


def _node(record: TrialRecord) -> str:
    return record.node or record.host or record.unit


def _listed(names: Sequence[str]) -> str:
    """Up to three names; of more, the first and the number of the others."""
    return ", ".join(names) if len(names) <= _MOST else f"{names[0]} and {len(names) - 1} more"
