"""Patches to Ray for a run on one machine: without processes that it does not use, a slow poll and lines on stdout."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Interval at which the table of nodes is polled while Ray starts, and the longest wait; Ray goes on after that.
LOOK_EVERY_S = 0.02
REGISTERS_S = 25.0


def silence(ray: Any) -> None:
    """Keeps out of the report what Ray prints about raylets and workers, which we report in our own words.

    Source:
        Ray 2.60, _private/worker.py: the flag of `print_worker_logs`, which util/rpdb.py sets in the same way. Neither
        `log_to_driver` nor `logging_level` keeps these lines back, and most of them go to stdout.
    """
    ray._private.worker._worker_logs_enabled = False


@contextlib.contextmanager
def only_what_a_run_uses(ray: Any) -> Iterator[None]:
    """Within the block, `ray.init` starts neither dashboard, autoscaler nor log monitor, and Ray's agents are minimal.

    A run on one machine uses none of them. Without them Ray starts with 1.2 instead of 3.4 seconds of processor time.
    Where another version of Ray does not have what is replaced here, it starts them all, and the run is the same.

    Source:
        Ray 2.60: _private/node.py, `start_head_processes` and `start_ray_processes`, for which `ray.init` has no
        options; _private/utils.py, `get_dashboard_dependency_error`, which imports this module to see whether
        `ray[default]` is installed, and makes the agents minimal if it is not.
    """
    node, parameter, dependencies = ray._private.node.Node, ray._private.parameter, "ray.dashboard.optional_deps"

    def parameters(*arguments: Any, **named: Any) -> Any:
        made = original(*arguments, **named)
        for name, value in (("no_monitor", True), ("include_log_monitor", False)):
            if hasattr(made, name):
                setattr(made, name, value)
        return made

    original = parameter.RayParams
    with contextlib.ExitStack() as taken_back:
        if dependencies not in sys.modules:
            sys.modules[dependencies] = None  # type: ignore[assignment]  # the documented way to forbid an import
            taken_back.callback(sys.modules.pop, dependencies, None)
        if hasattr(node, "start_api_server"):
            taken_back.callback(setattr, node, "start_api_server", node.start_api_server)
            node.start_api_server = lambda *_, **__: None
        taken_back.callback(setattr, parameter, "RayParams", original)
        parameter.RayParams = parameters
        services = ray._private.services
        if hasattr(services, "get_node"):
            taken_back.callback(setattr, services, "get_node", services.get_node)
            services.get_node = functools.partial(_get_node, ray, services.get_node)
        yield


def _get_node(ray: Any, original: Callable[[str, str], Any], gcs_address: str, node_id: str) -> Any:
    """Waits until Ray knows of the node, looking every 20 ms, and then calls the original, which looks every second."""
    state = ray._private.state.GlobalState()
    state._initialize_global_state(ray._private.services._get_gcs_client_options(gcs_address))
    end = time.monotonic() + REGISTERS_S
    while time.monotonic() < end and not any(each["NodeID"] == node_id for each in state.node_table()):
        time.sleep(LOOK_EVERY_S)
    return original(gcs_address, node_id)
