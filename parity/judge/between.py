"""How two trials of different runs relate: what differs between them, and whether they must produce equal bits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.judge.columns import Columns
from parity.judge.common_steps import Both, common_steps
from parity.judge.node_code import differing_files
from parity.judge.pairs import Between, Pair
from parity.judge.same_buffers import compare_buffers
from parity.judge.same_elsewhere import compare_elsewhere
from parity.judge.same_function import Functions, compare_functions
from parity.judge.same_optimizer import compare_optimizers
from parity.judge.sides import ComparedRun
from parity.judge.starts import equal_parameters
from parity.judge.trial_trace import TrialTrace
from parity.plan import lines
from parity.store.trials import SOFTWARE, TrialRecord

# Facts about the processor. Different processors need not produce equal bits; `store.trials.HARDWARE` also has the
# kernels that were in use, which may differ on equal processors.
PROCESSOR = ("cpu_model", "cpu_isa", "gpu_name")

# What is said of another commit of parity that has the same version.
PARITY = "code of parity"
# What is said of files beside a loss or task where their names are not stored.
IMPORTED = "imported code"

# Settings of optimizers that choose an implementation rather than what is computed.
_IMPLEMENTATIONS = ("foreach", "fused", "capturable")


def pair_across_runs(earlier: ComparedRun, later: ComparedRun, baseline: TrialRecord, candidate: TrialRecord) -> Pair:
    """Pairs two trials of different runs, and lists everything that is known to differ between them.

    Args:
        earlier: The run of the baseline.
        later: The run of the candidate.
        baseline: A trial of the earlier run.
        candidate: A trial of the later run.

    Returns:
        The pair; its axis names what differs, code and settings first, then hardware, then software.
    """
    # A recorded loop has no task of its own, only a placeholder for its name, and its code is not known. So a different
    # task name means nothing, and equal facts do not oblige the runs to produce equal bits.
    recorded = any(side.run.info.get("recorded") for side in (earlier, later))
    code = [
        name
        for name, found in (
            ("task", ("task", "task_sha256")),
            ("loss", ("loss_name", "loss_sha256")),
            ("device", ("device",)),
            ("seed", ("seed",)),
            ("replica", ("replica",)),
            ("batch size", ("batch_size",)),
        )
        if any(getattr(baseline, each) != getattr(candidate, each) for each in found)
        and not (recorded and name == "task")
    ]
    # The rows of a step count, however many batches it has.
    if "batch size" in code and _equal_rows(earlier, later, baseline, candidate):
        code.remove("batch size")
    files = _changed_files(earlier, later, baseline, candidate)
    code += files
    if not {"task", "loss", *files} & {*code} and _digests_differ(earlier, later, baseline, candidate):
        code.append(IMPORTED)
    code += ["data"] if known_to_differ(*(side.run.info.get("data_xxh3") for side in (earlier, later))) else []
    # The record has the settings of the first step, of a resumed training those of a later one; the trace has them all.
    resumed = _first_step(baseline) != _first_step(candidate)
    code += ["lr"] if not resumed and known_to_differ(baseline.lr, candidate.lr) else []
    # The settings of the optimizer include the learning rate, which is not reported twice.
    code += ["optimizer"] if "lr" not in code and _optimizers_differ(baseline, candidate, classes=resumed) else []
    hardware = [name for name in PROCESSOR if known_to_differ(getattr(baseline, name), getattr(candidate, name))]
    # Other devices and processors bring other kernels with them, so these are reported only where neither differs.
    kernels = [] if "device" in code or hardware else ["cpu_capability"]
    software = [
        name for name in (*SOFTWARE, *kernels) if known_to_differ(getattr(baseline, name), getattr(candidate, name))
    ]
    # Of the same version; another one says it all.
    if "parity" not in software and known_to_differ(baseline.parity_sha256, candidate.parity_sha256):
        software.append(PARITY)
    found = [*code, *hardware, *software]
    same = _with_optimizers(_same_functions(earlier, later, baseline, candidate), baseline, candidate)
    same = _beside_first_step(same, baseline, candidate)
    # A device may differ here: how far its steps are from float64 is what decides such a pair. So may the class of an
    # optimizer whose update is the same.
    allowed = {"device", *(["optimizer"] if same.shows("update") else [])}
    apart = _apart(earlier, later, baseline, candidate, [name for name in code if name not in allowed])
    between = Between(
        differ=tuple(
            (name, *(files[name] if name in files else _values(name, earlier, later, baseline, candidate)))
            for name in found
        ),
        owed=not found and not recorded,
        same_machine="device" not in code and not hardware and not software,
        apart=apart or (same.other.why if same.other else None),
        other=same.other if same.other and same.other.certain else None,
    )
    return Pair(", ".join(found) or "run", baseline, candidate, between)


def _changed_files(
    earlier: ComparedRun, later: ComparedRun, baseline: TrialRecord, candidate: TrialRecord
) -> dict[str, tuple[str, str]]:
    """The files beside losses and task, and others that were imported, that are not the same: their digests by name."""
    found = differing_files(baseline, candidate)
    one, other = (_travelling(side.run.info, record) for side, record in ((earlier, baseline), (later, candidate)))
    # A file that only one side imports is a change of a file that both have.
    found |= {name: (one[name], other[name]) for name in one if name in other and one[name] != other[name]}
    # 12 digits of a digest are enough to see that it is another one.
    return {name: (left[:12], right[:12]) for name, (left, right) in sorted(found.items())}


def _travelling(info: Mapping[str, Any], record: TrialRecord) -> dict[str, str]:
    """SHA-256 of the files beside the loss and the task of a trial, by name; earlier versions have stored none."""
    losses = info.get("losses")
    code = [losses.get(record.loss_name) if isinstance(losses, dict) else None, info.get("task_code")]
    files = [each.get("files") for each in code if isinstance(each, dict)]
    return {name: str(sha256) for each in files if isinstance(each, dict) for name, sha256 in each.items()}


def _digests_differ(earlier: ComparedRun, later: ComparedRun, baseline: TrialRecord, candidate: TrialRecord) -> bool:
    """Whether all that is known of the files beside losses and task is that they are not the same."""
    # The digest covers the oracle, of which another one may be named.
    return baseline.oracle == candidate.oracle and (
        not all("losses" in side.run.info for side in (earlier, later))
        and known_to_differ(baseline.code_sha256, candidate.code_sha256)
    )


def _values(
    name: str, earlier: ComparedRun, later: ComparedRun, baseline: TrialRecord, candidate: TrialRecord
) -> tuple[str, str]:
    """The values of one setting or fact in both trials, in words."""
    if name == "data":
        # 12 digits of a digest are enough to see that it is another one.
        left, right = (str(side.run.info.get("data_xxh3"))[:12] for side in (earlier, later))
    elif name in (PARITY, IMPORTED):
        field = "parity_sha256" if name == PARITY else "code_sha256"
        left, right = (str(getattr(record, field))[:12] for record in (baseline, candidate))
    elif name in ("task", "loss"):
        field = "task" if name == "task" else "loss_name"
        left, right = (
            f"{getattr(record, field)}{f' {sha[:12]}' if (sha := getattr(record, f'{name}_sha256')) else ''}"
            for record in (baseline, candidate)
        )
    else:
        left, right = (str(getattr(record, name.replace(" ", "_"))) for record in (baseline, candidate))
    return left, right


def _apart(
    earlier: ComparedRun,
    later: ComparedRun,
    baseline: TrialRecord,
    candidate: TrialRecord,
    settings: Sequence[str],
) -> str | None:
    """Why the steps that each run checked against float64 cannot be compared, or None."""
    if settings:
        return f"the runs differ in {' and '.join(settings)}, so they need not take the same steps"
    norms = [record.initial_norms for record in (baseline, candidate)]
    if _first_step(baseline) != _first_step(candidate):
        if not equal_parameters(_common(earlier, later, baseline, candidate)):
            return "their first common steps start from different parameters"
    elif norms[0] and norms[1] and not _same(norms[0], norms[1]):
        return "they start from different parameters, so they need not take the same steps"
    # A trial without checked steps may have stored why; otherwise only the usual reasons can be named.
    for record, side in ((baseline, earlier), (candidate, later)):
        if not record.initial_norms or record.trial not in side.errors:
            why = (
                record.shared_error
                or record.audit_error
                or _multiplied(TrialTrace(record, Columns(side.run.traces)))
                or "it ran with --quick, or with an earlier version of parity"
            )
            return f"{record.run} checked no step against float64 ({why})"
    return None


def _multiplied(trace: TrialTrace) -> str | None:
    """By what the gradients of a trial's first step were multiplied, so that it was not taken in float64; or None."""
    text = next(iter(trace.texts("settings")), None)
    if text is None:
        return None
    settings = json.loads(text)
    scale, factors = settings.get("scale") or 1.0, settings.get("factors") or [1.0]
    if scale != 1:
        return f"a loss scale multiplies its gradients, by {scale:.6g} in its first step"
    if len(factors) > 1:
        return f"its gradients are added up over several batches, {len(factors)} in its first step"
    return f"its loss is multiplied by {factors[0]:.6g} in its first step" if factors[0] != 1 else None


def _same_functions(
    earlier: ComparedRun, later: ComparedRun, baseline: TrialRecord, candidate: TrialRecord
) -> Functions:
    """What the first steps of both trials, in float64, show of the functions that they compute."""
    sides = (earlier.errors.get(baseline.trial), later.errors.get(candidate.trial))
    # From other draws no two steps are equal.
    if not sides[0] or not sides[1] or baseline.seed != candidate.seed:
        return Functions(None, frozenset())
    first = max(_first_step(baseline), _first_step(candidate))
    if _first_step(baseline) != _first_step(candidate):
        # One continues the other: its parameters are those that the other one's steps before have left, or it is not
        # known what they are.
        if not equal_parameters(_common(earlier, later, baseline, candidate)):
            return Functions(None, frozenset())
        return compare_functions(sides[0], sides[1], equal_start=True, step=first)
    norms = [record.initial_norms for record in (baseline, candidate)]
    # From other parameters no two steps are equal either.
    if not norms[0] or not norms[1] or not _same(norms[0], norms[1]):
        return Functions(None, frozenset())
    return compare_functions(sides[0], sides[1], equal_start=norms[0] == norms[1], step=first)


def _with_optimizers(same: Functions, baseline: TrialRecord, candidate: TrialRecord) -> Functions:
    """The same with what is known of the optimizers, where the steps in float64 do not show their update."""
    optimizers = compare_optimizers(baseline, candidate)
    if same.other or same.shows("update") or not optimizers.known:
        return same
    return Functions(optimizers.other, same.same if optimizers.other else same.same | {"update"})


def _beside_first_step(same: Functions, baseline: TrialRecord, candidate: TrialRecord) -> Functions:
    """The same with what was seen of the models beside their first steps, where these show no difference."""
    other = same.other
    if not other and same.shows("param_grad"):
        other = compare_elsewhere(baseline, candidate)
    if not other and same.shows("output"):
        other = compare_buffers(baseline, candidate)
    return Functions(other, same.same)


def _first_step(record: TrialRecord) -> int:
    """Number of the first step of a trial."""
    return record.first_step or 0


def _common(earlier: ComparedRun, later: ComparedRun, baseline: TrialRecord, candidate: TrialRecord) -> Both:
    """The steps that both trials have."""
    one, other = (
        TrialTrace(record, Columns(side.run.traces)) for side, record in ((earlier, baseline), (later, candidate))
    )
    return common_steps(one, other)


def _equal_rows(earlier: ComparedRun, later: ComparedRun, baseline: TrialRecord, candidate: TrialRecord) -> bool:
    """Whether the first common steps have equally many rows: the batch of one may be cut into several."""
    left, right = (side.values("rows")[:1] for side in _common(earlier, later, baseline, candidate))
    return bool(len(left)) and np.array_equal(left, right)


def _same(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether parameters with these norms may be equal except for their last bits."""
    # The lengths first: `allclose` would broadcast a single norm to any number of them.
    return len(left) == len(right) and bool(np.allclose(left, right, rtol=lines.SAME_NORMS.value, atol=0))


def _optimizers_differ(baseline: TrialRecord, candidate: TrialRecord, *, classes: bool) -> bool:
    """Whether the optimizers differ in class, or in a setting that both have: a newer torch may add settings.

    Args:
        baseline: A trial.
        candidate: Another trial.
        classes: Whether only their classes are compared.
    """
    left, right = baseline.optimizer, candidate.optimizer
    if left is None or right is None:
        return False
    one, other = _settings(left), _settings(right)
    return any(one[name] != other[name] for name in ({""} if classes else one.keys() & other.keys()))


def _settings(optimizer: str) -> dict[str, list[str]]:
    """The values of each setting, one for each group of parameters; the names of the classes under ""."""
    found: dict[str, list[str]] = {"": re.findall(r"(\w+)\(", optimizer)}
    # A value ends at a comma, a semicolon or a parenthesis, unless it is a tuple, such as betas, with its own commas.
    for name, value in re.findall(r"(\w+)=(\([^)]*\)|[^,;)]*)", optimizer):
        if name not in _IMPLEMENTATIONS:
            found.setdefault(name, []).append(value)
    return found


def known_to_differ(left: object, right: object) -> bool:
    """Whether both facts are known, and not equal."""
    # A fact that one side did not record is not evidence of a difference.
    return left is not None and right is not None and left != right
