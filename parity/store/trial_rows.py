"""What the trials of a run have to be, beside the types of their columns: checked as they are read."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache, lru_cache
from typing import get_args, get_type_hints

from parity.ground.errors import Trouble
from parity.plan.device import parse_device
from parity.store.regular import is_bare
from parity.store.statuses import Failure, TrialStatus
from parity.store.trace import SKETCH_SUMS
from parity.store.trials import LOSS_DTYPES, TrialRecord

# The largest number of a step: up to there a float64, and so every plot, has all whole numbers.
_LAST_STEP = 2**53
# Lists with so many values for each parameter tensor, and those of other lengths that may have no nulls in them.
_OF_TENSORS = {
    **dict.fromkeys(("initial_norms", "initial_digests", "param_shapes", "param_dtypes"), 1),
    **dict.fromkeys(("optimizer_norms", "elsewhere_norms"), 1),
    **dict.fromkeys(("initial_sketches", "optimizer_sketches", "elsewhere_sketches"), SKETCH_SUMS),
}
_OF_BUFFERS = ("buffer_names", "initial_buffer_digests", "buffer_added_norms", "buffer_added_sketches")
_LISTS = ("param_names", "restarts", "imported", *_OF_BUFFERS, *_OF_TENSORS)


def find_wrong_trial(records: Sequence[TrialRecord]) -> str | None:
    """What is wrong with the trials of a run, or None.

    Args:
        records: The trials, in the order of the plan.
    """
    if not records:
        return "it has no trials"
    for record in records:
        for wrong in _wrong(record):
            return f"its trial {record.trial} {wrong}"
    names = [record.trial for record in records]
    if len({*names}) < len(names):
        return "two of its trials have the same name"
    # Of two such trials the judge would see one.
    same = [(each.loss_name, each.device, each.seed, each.replica) for each in records if not each.noise]
    return "two of its trials have the same loss, device, seed and replica" if len({*same}) < len(same) else None


def _wrong(record: TrialRecord) -> Iterator[str]:
    """What is wrong with a trial; the later checks rely on the earlier ones."""
    for name in _required():
        if getattr(record, name) is None:
            yield f"has no {name}"
    for name in _LISTS:
        if None in (getattr(record, name) or ()):
            yield f"has a list {name} that lacks values"
    if record.status not in _words(TrialStatus):
        yield f"has the status {record.status!r}"
    if record.failure is not None and record.failure not in _words(Failure):
        yield f"has the failure {record.failure!r}"
    if record.loss_dtype not in (None, *LOSS_DTYPES):
        yield f"has the loss_dtype {record.loss_dtype!r}"
    if not is_bare(record.trace):
        yield f"has the trace {record.trace!r}, which is not the name of a file in traces/"
    if not _is_device(record.device):
        yield f"has the device {record.device!r}, which is not a device"
    begin = record.first_step or 0
    if min(begin, record.rows) < 0 or begin + record.rows > _LAST_STEP:
        yield f"has {record.rows} steps from step {begin} on"
    for name, each in _OF_TENSORS.items():
        values, wanted = getattr(record, name), each * len(record.param_names)
        if values is not None and len(values) != wanted:
            yield f"has {len(values)} values of {name}, and its {len(record.param_names)} parameters have {wanted}"
    # Those of other models that are compared as buffers come after those of the model.
    added, sums = (len(each or ()) for each in (record.buffer_added_norms, record.buffer_added_sketches))
    if sums != SKETCH_SUMS * added or added > len(record.buffer_names or ()):
        yield f"has {sums} values of buffer_added_sketches, and {added} of buffer_added_norms"


@cache
def _required() -> tuple[str, ...]:
    """The fields of a record that have a value in every trial."""
    hints = get_type_hints(TrialRecord)
    return tuple(field.name for field in fields(TrialRecord) if type(None) not in get_args(hints[field.name]))


def _words(kind: object) -> frozenset[object]:
    """The words of a literal type, which may be made of several."""
    return frozenset(word for each in get_args(kind) for word in (get_args(each) or (each,)))


@lru_cache
def _is_device(name: str) -> bool:
    try:
        parse_device(name)
    except Trouble:
        return False
    return True
