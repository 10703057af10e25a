"""Whose trouble it is that a trial did not find a module or a file: that of its node, if the driver has it."""

from dataclasses import replace
from pathlib import Path

from parity.plan.neighbours import can_find
from parity.plan.trial import Trial
from parity.store.events import Ended


def blame_node(ended: Ended, trial: Trial, node: str) -> Ended:
    """The end of a trial on another node than the driver's; as the trouble of that node, if it is.

    Args:
        ended: The end as the trial reported it.
        trial: The trial.
        node: Name of the node that it ran on.

    Returns:
        The same, or with the failure "node", if the code lacked what is there where the driver is.
    """
    if ended.failure != "raised":
        return ended
    specs = (trial.loss, trial.oracle, trial.settings.task)
    folders = [str(Path(spec.path).parent) for spec in specs if spec.path]
    if ended.lacks_module and can_find(ended.lacks_module, folders):
        what, how = f"module {ended.lacks_module!r}", "Install it there, or put it"
    elif ended.lacks_file and Path(ended.lacks_file).exists():
        what, how = f"file {str(Path(ended.lacks_file).absolute())!r}", "Copy it there, or put it"
    else:
        return ended
    return replace(
        ended,
        failure="node",
        error=f"node {node} has no {what}, which the machine of the driver has. {how} on storage that all nodes share",
    )
