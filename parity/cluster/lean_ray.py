"""Patches to Ray for a run on one machine: without processes that it does not use, a slow poll and lines on stdout."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Interval at which the table of nodes is polled while Ray starts, and the longest wait; Ray goes on after that.
LOOK_EVERY_S = 0.02
REGISTERS_S = 25.0
# Parameters of Ray: neither autoscaler nor log monitor, nor the server of Ray Client that `ray start` adds.
_LEFT_OUT = {"no_monitor": True, "include_log_monitor": False, "ray_client_server_port": None}
# What Ray's agents tell a raylet, and here the driver: the ports of services that are not there (-1), and one that
# must be a port. Nothing listens at it, as nobody asks for a `runtime_env`.
_PORTS = {
    "METRICS_AGENT_PORT_NAME": -1,
    "METRICS_EXPORT_PORT_NAME": -1,
    "DASHBOARD_AGENT_LISTEN_PORT_NAME": -1,
    "RUNTIME_ENV_AGENT_PORT_NAME": 1,
}
# Options of the raylet.
_SESSION, _NODE = "--session_dir", "--node_id"
_AGENTS = ("--dashboard_agent_command", "--runtime_env_agent_command")


def silence(ray: Any) -> None:
    """Keeps out of the report what Ray prints about raylets and workers, which we report in our own words.

    Source:
        Ray 2.60, _private/worker.py: the flag of `print_worker_logs`, which util/rpdb.py sets in the same way. Neither
        `log_to_driver` nor `logging_level` keeps these lines back, and most of them go to stdout.
    """
    ray._private.worker._worker_logs_enabled = False


@contextlib.contextmanager
def only_what_a_run_uses(ray: Any) -> Iterator[None]:
    """Within the block, `ray.init` starts neither dashboard, autoscaler nor log monitor, and no agents of Ray's.

    A run on one machine uses none of them. Without them Ray's processes, but for the workers, take 0.7 s of a core to
    start instead of 4.9 s, and it starts a second earlier: a raylet waits for its agents, which import Ray.
    Where another version of Ray does not have what is replaced here, it starts them all, and the run is the same.

    Source:
        Ray 2.60: _private/node.py, `start_head_processes` and `start_ray_processes`, for which `ray.init` has no
        options; _private/services.py, `start_raylet`; dashboard/agent.py and _private/runtime_env/agent/main.py, which
        tell the raylet their ports before it goes on, -1 where `ray[default]` is not installed; _private/utils.py,
        `get_dashboard_dependency_error`, which imports this module to see whether it is.
    """
    node, parameter, dependencies = ray._private.node.Node, ray._private.parameter, "ray.dashboard.optional_deps"

    def parameters(*arguments: Any, **named: Any) -> Any:
        made = original(*arguments, **named)
        for name, value in _LEFT_OUT.items():
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
        raylet = getattr(ray, "_raylet", None)
        if hasattr(services, "start_ray_process") and all(hasattr(raylet, name) for name in ("persist_port", *_PORTS)):
            taken_back.callback(setattr, services, "start_ray_process", services.start_ray_process)
            services.start_ray_process = functools.partial(_start_process, raylet, services.start_ray_process)
        yield


def _start_process(
    raylet: Any, original: Callable[..., Any], command: Sequence[str], *arguments: Any, **named: Any
) -> Any:
    """Starts one of Ray's processes; a raylet with processes that do nothing in place of its agents."""
    given = dict(each.split("=", 1) for each in command if "=" in each)
    if {_SESSION, _NODE, *_AGENTS} <= given.keys():
        for name, port in _PORTS.items():
            raylet.persist_port(given[_SESSION], given[_NODE], getattr(raylet, name), port)
        idle = [sys.executable, "-I", "-S", str(Path(__file__).with_name("idle_agent.py")), given[_SESSION]]
        agents = {name: f"{name}={subprocess.list2cmdline(idle)}" for name in _AGENTS}
        command = [agents.get(each.partition("=")[0], each) for each in command]
    return original(command, *arguments, **named)


def _get_node(ray: Any, original: Callable[[str, str], Any], gcs_address: str, node_id: str) -> Any:
    """Waits until Ray knows of the node, looking every 20 ms, and then calls the original, which looks every second."""
    state = ray._private.state.GlobalState()
    state._initialize_global_state(ray._private.services._get_gcs_client_options(gcs_address))
    end = time.monotonic() + REGISTERS_S
    while time.monotonic() < end and not any(each["NodeID"] == node_id for each in state.node_table()):
        time.sleep(LOOK_EVERY_S)
    return original(gcs_address, node_id)
