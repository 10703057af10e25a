"""Clusters that grow: an autoscaler starts nodes for what waits for room, and stops those that are idle.

A head that gives out no CPU and workers that are started from zero are the usual case on a cloud. There a run has to
ask before it can begin, and to go on asking while its trials wait: an autoscaler starts nothing for trials that it has
not been told of.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from parity.ground.errors import Trouble
from parity.ground.limit import limited

# What one trial needs: numbers of CPUs and of GPUs.
Needs = tuple[int, int]
# Most requests at the same time. Chosen: an autoscaler starts nodes for them at once, and each is a message to it.
MOST_REQUESTS = 64
# How long to wait for a sign that somebody starts nodes, where it is not known whether anybody does.
SIGN_S = 30.0
# How long to wait for the first report of Ray's first autoscaler, which makes one every five seconds.
REPORT_S = 5.0
# How long taking the requests back may take at the end of a run: for a silent head Ray waits half a minute for each.
END_S = 5.0
# Time between two looks at the nodes.
LOOK_EVERY_S = 1.0
# Under which Ray's first autoscaler keeps its last report.
# Source: ray/_private/ray_constants.py, DEBUG_AUTOSCALING_STATUS.
_REPORT = "__autoscaling_status"


def grows(ray: Any) -> bool | None:
    """Whether an autoscaler starts nodes of this cluster; None where that is not known.

    Args:
        ray: The module `ray`, connected to the cluster.

    Source:
        Ray 2.60, autoscaler/_private/monitor.py and autoscaler/v2/utils.py: where nobody starts nodes, each is of a
        type of its own, named "node_" and its id.
    """
    types = _types_of_nodes(ray)
    if any(name != f"node_{number}" for number, name in types.items()):
        return True
    # The second autoscaler does not know the type of a head that was started by hand. The first one makes its first
    # report some seconds after the head has started.
    return None if _second() or not types else False


def is_starting_nodes(ray: Any) -> bool:
    """Whether nodes are on their way, as far as the autoscaler says."""
    if _second():
        status = _status(ray)
        return bool(status.pending_launches or status.pending_nodes)
    report = _report()
    return bool(report.get("pending_launches") or report.get("pending_nodes"))


def _types_of_nodes(ray: Any) -> dict[str, str]:
    """The types of the nodes by their ids."""
    if _second():
        status = _status(ray)
        return {str(node.node_id): node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
    types: dict[str, str] = _report().get("node_type_mapping") or {}
    return types


def _second() -> bool:
    """Whether the cluster has Ray's second autoscaler."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return bool(is_autoscaler_v2())


def _status(ray: Any) -> Any:
    """What the second autoscaler says of the cluster."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    return get_cluster_status(ray.get_runtime_context().gcs_address)


def _report() -> dict[str, Any]:
    """What the first autoscaler said last; empty if there is none, or it has said nothing yet."""
    from ray.experimental.internal_kv import _internal_kv_get

    text = _internal_kv_get(_REPORT)
    report: dict[str, Any] = (json.loads(text).get("autoscaler_report") or {}) if text else {}
    return report


class Demand:
    """What the autoscaler is asked for: groups of resources that wait for room, as Ray's placement groups do.

    They end with this process, however it ends; `ray.autoscaler.sdk.request_resources` would keep the nodes until
    somebody takes the request back.

    Args:
        ray: The module `ray`, connected to the cluster.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._groups: list[tuple[Needs, Any]] = []

    def keep(self, wanted: Counter[Needs]) -> None:
        """Asks for room for so many trials of each kind, the first `MOST_REQUESTS` of them, and for nothing else."""
        missing = Counter(dict(wanted.most_common()))
        kept = []
        for needs, group in self._groups:
            if missing[needs] > 0:
                missing[needs] -= 1
                kept.append((needs, group))
            else:
                self._ray.util.remove_placement_group(group)
        for needs in list(missing.elements())[: max(0, MOST_REQUESTS - len(kept))]:
            kept.append((needs, self._ray.util.placement_group([_bundle(needs)])))
        self._groups = kept

    def give_back(self) -> None:
        """Gives back the room of the groups that have got it: a trial is to have it."""
        waiting = []
        for needs, group in self._groups:
            if group.wait(timeout_seconds=0):
                self._ray.util.remove_placement_group(group)
            else:
                waiting.append((needs, group))
        self._groups = waiting

    def end(self) -> None:
        """Takes all requests back; a head that does not answer drops them when this process ends."""
        with contextlib.suppress(TimeoutError):
            limited(lambda: self.keep(Counter()), END_S)

    def __bool__(self) -> bool:
        return bool(self._groups)


def _bundle(needs: Needs) -> dict[str, int]:
    return {kind: number for kind, number in zip(("CPU", "GPU"), needs, strict=True) if number}


def words(needs: Collection[Needs]) -> str:
    """What is needed, in words.

    >>> words([(1, 0), (2, 1)])
    'a node with 1 CPU and one with 2 CPUs and 1 GPU'
    """
    each = [
        " and ".join(f"{number} {kind}{'s' * (number > 1)}" for kind, number in _bundle(one).items())
        for one in sorted(needs)
    ]
    return "a node with " + " and one with ".join(each)


def wait_for(ray: Any, lacking: Callable[[], Collection[Needs]], *, limit_s: float) -> None:
    """Asks the autoscaler for what no node has, and waits until nodes have it.

    Args:
        ray: The module `ray`, connected to the cluster.
        lacking: Says what trials need and no node has.
        limit_s: Longest time to wait, in seconds.

    Raises:
        Trouble: They did not come in time. Where nobody seems to start nodes, it returns early instead.
    """
    began = time.monotonic()
    known: bool | None = None
    sign_s = SIGN_S if _second() else REPORT_S
    demand = Demand(ray)
    said = False
    try:
        while needs := lacking():
            waited = time.monotonic() - began
            known = known or grows(ray)
            if known is None and is_starting_nodes(ray):
                known = True
            if known is False or (known is None and waited > sign_s):
                return
            # Again and again, since a group that has got its room on a node that is too small for others is done.
            demand.keep(Counter(dict.fromkeys(needs, 1)))
            if known and not said:
                said = True
                print(
                    f"parity: waiting for {words(needs)}, which the cluster's autoscaler has to start "
                    f"(at most {limit_s:.0f} s, see --wait-limit)",
                    file=sys.stderr,
                )
            if waited > limit_s:
                raise Trouble(
                    f"After {limit_s:.0f} s the cluster's autoscaler has not started {words(needs)}. "
                    "Look at `ray status` on the cluster, wait longer with --wait-limit, or add such a node type."
                )
            time.sleep(LOOK_EVERY_S)
    finally:
        demand.keep(Counter())
