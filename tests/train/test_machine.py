"""The facts of a machine: what NVIDIA's library reports, in the place of GPUs, and what stays the same."""

import sys

import pynvml
import pytest

from parity.plan.device import parse_device
from parity.train import machine

from conftest import warm_command

DRIVER = "595.1"


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, each given by its number."""
    state = {"open": 0, "lost": set()}

    def handle(index):
        assert state["open"] == 1
        if index in state["lost"]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    def count(change):
        state["open"] += change

    for name, function in {
        "nvmlInit": lambda: count(1),
        "nvmlShutdown": lambda: count(-1),
        "nvmlSystemGetDriverVersion": lambda: DRIVER,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetName": lambda handle: f"NVIDIA H{handle}",
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
    }.items():
        monkeypatch.setattr(pynvml, name, function)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield state
    assert state["open"] == 0


def gpu(index):
    return {"gpu_index": index, "gpu_name": f"NVIDIA H{index}", "gpu_uuid": f"GPU-{index}", "gpu_driver": DRIVER}


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, [0, 1]), ("1", [1]), ("GPU-0", [0]), ("0, GPU-1", [0, 1]), ("", []), ("7", [])]
)
def test_the_gpus_of_a_node_are_those_that_the_process_may_use(two_gpus, monkeypatch, visible, expected):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.node_facts()["gpus"] == [gpu(index) for index in expected]
    assert machine._driver() == DRIVER


def test_a_gpu_that_is_lost_is_left_out(two_gpus):
    two_gpus["lost"].add(0)
    assert machine.node_facts()["gpus"] == [gpu(1)]


@pytest.mark.parametrize("number", ["LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH"])
def test_a_machine_without_a_working_driver_has_no_gpus(monkeypatch, number):
    def refuse():
        raise pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{number}"))

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    facts = machine.node_facts()
    assert (facts["gpus"], facts["cuda"], facts["cudnn"]) == ([], None, None)
    assert machine._driver() == "unknown"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_the_cpu_is_what_the_kernel_reports(monkeypatch):
    assert machine._from_cpuinfo("no such field") == ""
    monkeypatch.setattr(machine, "_from_cpuinfo", {"model name": "X", "flags|Features": "avx fma b avx"}.get)
    facts = machine.facts(parse_device("cpu"))
    assert (facts["cpu_model"], facts["cpu_isa"]) == ("X", "avx fma")


def test_two_processes_of_one_machine_find_the_same_facts():
    code = "from parity.train import machine; print(sorted(machine.node_facts().items()))"
    ended = warm_command("-c", code)
    assert ended.stdout.strip() == str(sorted(machine.node_facts().items())), ended.stderr
