"""A loss that makes a GPU unusable fails for it, and no other loss is blamed. Without a GPU: one is pretended.

What torch says is that of an H200 on which a loss had asked for a class that there is not: the call itself returns, and
whatever is asked of the device afterwards raises.
"""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.ground.errors import Trouble
from parity.plan.device import Device
from parity.store.events import Advanced, Began, Ended
from parity.train import loop, switches
from parity.train.inline import Inline

SAID = "CUDA error: device-side assert triggered"
ECC = "CUDA error: uncorrectable ECC error encountered"
LOSS = """
import sys
calls = 0
def asserting(output, target):
    global calls
    calls += 1
    loss = ((output - target) ** 2).mean()
    sys.modules["pretended_gpu"].broken = calls > {after}
    return loss
"""


class OnPretendedGpu(TorchDispatchMode):
    """Each operation of torch raises once the device is broken."""

    def __init__(self, gpu):
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self._gpu.broken:
            raise RuntimeError(f"{self._gpu.said}\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch):
    """A GPU in the place of the CPU."""
    gpu = SimpleNamespace(broken=False, said=SAID)
    monkeypatch.setitem(sys.modules, "pretended_gpu", gpu)
    unusable = switches.unusable
    monkeypatch.setattr(switches, "unusable", lambda device: unusable(Device("cuda")))

    def synchronize():
        if gpu.broken:
            raise RuntimeError(f"{gpu.said}\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.")

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    return gpu


def perform(gpu, trials, data):
    """The events of trials on the pretended GPU, and why those after them were not trained."""
    events = []
    with OnPretendedGpu(gpu):
        try:
            for (event,) in Inline().train(trials, data):
                events.append(event)
        except Trouble as trouble:
            return events, str(trouble)
    return events, None


def loss_that_breaks(tmp_path, after):
    path = tmp_path / "mine.py"
    path.write_text(LOSS.format(after=after))
    return f"{path}:asserting"


# Of the calls, some 40 belong to the contract, which has a module of its own.
@pytest.mark.parametrize("after", [0, 1, 7, 30])
def test_a_loss_that_breaks_the_device_in_its_contract_is_blamed_and_not_the_model(
    data, make_trials, tmp_path, gpu, after
):
    trial = make_trials("builtin", loss_that_breaks(tmp_path, after))[1]
    events, _ = perform(gpu, [trial], data)
    assert isinstance(events[0], Began) and isinstance(events[-1], Ended)
    assert (events[-1].status, events[-1].failed_step) == ("failed", None)
    assert events[-1].error == f"the device became unusable while its contract was checked: {SAID}"


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_in_the_training_it_fails_at_its_step_with_the_rows_that_had_arrived(
    data, make_trials, tmp_path, gpu, after, monkeypatch
):
    # A busy machine makes chunks of single steps otherwise.
    monkeypatch.setitem(loop.train.__kwdefaults__, "chunk_s", math.inf)
    trial = make_trials("builtin", loss_that_breaks(tmp_path, after), steps=6)[1]
    events, _ = perform(gpu, [replace(trial, contract=False)], data)
    assert (events[-1].status, events[-1].failed_step) == ("failed", after)
    assert SAID in events[-1].error
    rows = sum(event.table.num_rows for event in events if isinstance(event, Advanced))
    # The first step is a chunk of its own; those in the observer's buffers are lost with the device.
    assert rows == min(after, 1)


def test_the_trials_after_it_are_not_trained_in_that_process(data, make_trials, tmp_path, gpu):
    first, second, third = make_trials("builtin", loss_that_breaks(tmp_path, 0), "numpy")
    events, trouble = perform(gpu, [first, second, third], data)
    ended = [(event.trial, event.status) for event in events if isinstance(event, Ended)]
    assert ended == [(first.name, "complete"), (second.name, "failed")]
    assert trouble == (
        f"{second.name} has made its device unusable for this process: {SAID}. {third.name} needs a new "
        "process: parity.run without --inline starts one for each trial, and --resume continues a run."
    )


@pytest.mark.parametrize("contract", [False, True])
def test_a_gpu_that_breaks_by_itself_is_trouble_and_blames_no_loss(data, make_trials, tmp_path, gpu, contract):
    gpu.said = ECC
    trial = make_trials("builtin", loss_that_breaks(tmp_path, 0))[1]
    events, trouble = perform(gpu, [replace(trial, contract=contract)], data)
    assert not any(isinstance(event, Ended) for event in events)
    when = "while its contract was checked" if contract else "in the training"
    said = f"Device cpu became unusable {when}: {ECC}. The device or its driver is at fault, not the loss."
    assert trouble.startswith(said)


def test_a_trial_on_another_device_in_between_changes_nothing(data, make_trials, monkeypatch):
    (trial,) = make_trials("builtin")
    devices = (Device("cuda"), Device("cpu"), Device("cuda", tf32=True))
    first, between, last = (replace(trial, device=device) for device in devices)
    trained = []
    monkeypatch.setattr("parity.train.inline.perform", lambda trial, *_: iter(trained.append(trial) or ()))
    monkeypatch.setattr(switches, "unusable", lambda device: SAID if trained and device.kind == "cuda" else None)
    with pytest.raises(Trouble, match=f"^{first.name} has made its device unusable"):
        list(Inline().train([first, between, last], data))
    assert trained == [first, between]


def test_an_error_of_parity_itself_is_not_blamed_on_a_device_that_works(data, make_trials, gpu, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("parity.observe.observer.Observer.update", fails)
    (trial,) = make_trials("builtin")
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        perform(gpu, [trial], data)


def test_a_cpu_is_always_usable(monkeypatch):
    def raises():
        raise RuntimeError(SAID)

    monkeypatch.setattr(torch.accelerator, "synchronize", raises)
    assert switches.unusable(Device("cpu")) is None
    assert switches.unusable(Device("cuda")) == SAID
