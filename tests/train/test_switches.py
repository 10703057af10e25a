"""Torch's switches are set as the device asks, and verified."""

import pytest
import torch

from parity.ground.errors import Trouble
from parity.plan.device import Device, parse_device
from parity.train import switches
from parity.train.switches import prepare


def test_threads_are_pinned_by_value():
    prepare(parse_device("cpu:threads=2"))
    assert torch.get_num_threads() == 2
    prepare(parse_device("cpu"))
    assert torch.get_num_threads() == 1


def test_tf32_is_off_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(switches, "require", lambda device: None)
    prepare(Device("cuda", tf32=True))
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    prepare(Device("cuda"))
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


def test_an_isa_that_did_not_take_effect_is_told(monkeypatch):
    monkeypatch.setattr(switches, "require", lambda device: None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(Trouble) as trouble:
        prepare(parse_device("cpu:isa=default"))
    assert str(trouble.value) == (
        "Device cpu:isa=default: torch runs its AVX2 kernels; the setting did not take effect. It must be set before "
        "torch is imported: leave out --inline, or set ATEN_CPU_CAPABILITY=default before you start Python."
    )


def test_threads_that_did_not_take_effect_are_told(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    with pytest.raises(Trouble) as trouble:
        prepare(Device("cpu", threads=17))
    assert str(trouble.value).startswith("Device cpu:threads=17: torch runs ")


def test_an_isa_that_the_cpu_lacks_is_told(monkeypatch):
    monkeypatch.setattr(switches, "_cpu_flags", lambda: {"avx2", "fma", "avx512f", "avx512vl", "avx512bw"})
    monkeypatch.setattr(switches.platform, "system", lambda: "Linux")
    with pytest.raises(Trouble) as trouble:
        prepare(parse_device("cpu:isa=avx512"))
    assert str(trouble.value) == ("Device cpu:isa=avx512: this CPU lacks avx512dq. Use another isa= or leave it out.")


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_that_the_machine_lacks_is_told(kind, monkeypatch):
    monkeypatch.setattr(switches, "available_accelerators", list)
    with pytest.raises(Trouble) as trouble:
        prepare(Device(kind))
    assert str(trouble.value) == (
        f"Device {kind}: torch {torch.__version__} sees no {kind} on this machine. Use --device cpu."
    )
