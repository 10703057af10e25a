import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.ground.errors import Trouble
from parity.plan.device import GRAMMAR, Device, environment, parse_device, parse_devices, resources


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", Device("cpu")),
        ("cpu:threads=2", Device("cpu", threads=2)),
        ("cpu:isa=avx2", Device("cpu", isa="avx2")),
        ("cpu:threads=2,isa=default", Device("cpu", threads=2, isa="default")),
        ("cuda", Device("cuda")),
        ("cuda:tf32=on", Device("cuda", tf32=True)),
        ("mps", Device("mps")),
    ],
)
def test_the_grammar_reads_what_it_writes(text, device):
    assert parse_device(text) == device
    assert device.name == text


def test_a_default_that_is_spelled_out_is_the_same_device():
    assert parse_device("cpu:threads=1") == parse_device("cpu")
    assert parse_device("cuda:tf32=off") == parse_device("cuda")


MANY = "Give a number of threads, such as threads=2."
UNKNOWN = (
    "Unknown device {!r}. Known devices: cpu, cpu:threads=N, "
    + "cpu:isa=default|avx2|avx512, cuda, cuda:tf32=on|off, mps, auto; cpu@NODE, cuda@NODE#INDEX."
)


@pytest.mark.parametrize("text", ["gpu", "", "tpu:threads=2"])
def test_an_unknown_device_is_reported(text):
    with pytest.raises(Trouble) as trouble:
        parse_device(text)
    assert str(trouble.value) == UNKNOWN.format(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu:threads=0", f"Device 'cpu:threads=0': threads=0 is not a whole number of at least 1. {MANY}"),
        ("cpu:threads=-1", f"Device 'cpu:threads=-1': threads=-1 is not a whole number of at least 1. {MANY}"),
        ("cpu:threads=²", f"Device 'cpu:threads=²': threads=² is not a whole number of at least 1. {MANY}"),
        (
            "cpu:threads=100000",
            "Device 'cpu:threads=100000': threads=100000 is too many. Give at most 1024.",
        ),
        ("CPU", f"{UNKNOWN.format('CPU')} Did you mean cpu?"),
        (
            "cpu:thread=2",
            "Device 'cpu:thread=2': unknown option 'thread'. Known options of cpu: isa, threads. Did you mean threads?",
        ),
        (
            "cuda:threads=2",
            "Device 'cuda:threads=2': unknown option 'threads'. Known options of cuda: tf32. Write cuda, or one of "
            f"{GRAMMAR}.",
        ),
        (
            "cuda:0",
            "Device 'cuda:0' has a number, and cuda is written without one. Write cuda, or cuda@NODE#0 for one as "
            "python -m parity.devices lists it.",
        ),
        ("mps:0", "Device 'mps:0' has a number, and mps is written without one. Write mps."),
        (
            "mps:tf32=on",
            f"Device 'mps:tf32=on': unknown option 'tf32'. mps has no options. Write mps, or one of {GRAMMAR}.",
        ),
        (
            "cpu:threads=1,threads=2",
            "Device 'cpu:threads=1,threads=2': threads is given 2 times. Give it once.",
        ),
        ("cpu:", "Device 'cpu:': an option is empty. Write cpu, or cpu:threads=2."),
        ("cuda:,tf32=on", "Device 'cuda:,tf32=on': an option is empty. Write cuda, or cuda:tf32=on."),
        ("mps:", "Device 'mps:': an option is empty. Write mps."),
        ("cpu:isa=sse", "Device 'cpu:isa=sse': isa=sse is unknown. Known: default, avx2, avx512."),
        ("cuda:tf32=yes", "Device 'cuda:tf32=yes': tf32=yes is unknown. Known: on, off."),
        (
            "cpu:plant=x",
            "Device 'cpu:plant=x': plant=x is unknown. Known: bfloat16, tf32, noise, element-STEP, flip-STEP.",
        ),
        ("cpu@", "Device 'cpu@': '' does not name a node. Give cpu@NODE as python -m parity.devices lists it."),
        (
            "cuda@a#x",
            "Device 'cuda@a#x': 'a#x' does not name a node and a GPU. "
            "Give cuda@NODE#INDEX as python -m parity.devices lists it.",
        ),
        ("cuda@a", "Device 'cuda@a' does not name a GPU of its node. Give cuda@NODE#INDEX, or use --each gpu."),
    ],
)
def test_a_wrong_option_is_reported(text, message):
    with pytest.raises(Trouble) as trouble:
        parse_device(text)
    assert str(trouble.value) == message


def test_a_device_given_twice_is_reported():
    with pytest.raises(Trouble) as trouble:
        parse_devices(["cpu", "cpu:threads=1"])
    assert str(trouble.value) == "Device 'cpu' is given twice. Give each once; to repeat trials, use --replicas."


@given(st.text(max_size=30))
def test_any_text_is_a_device_or_trouble(text):
    try:
        device = parse_device(text)
    except Trouble:
        return
    assert parse_device(device.name) == device


def test_a_cpu_device_hides_gpus_and_pins_threads():
    variables = environment(parse_device("cpu:threads=3,isa=avx2"))
    assert variables == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "ATEN_CPU_CAPABILITY": "avx2",
        "CUDA_VISIBLE_DEVICES": "",
    }


def test_a_gpu_device_leaves_the_choice_of_the_gpu_to_ray():
    assert "CUDA_VISIBLE_DEVICES" not in environment(parse_device("cuda"))


def test_resources_are_threads_and_whole_gpus():
    assert resources(parse_device("cpu:threads=3")) == {"CPU": 3, "GPU": 0}
    assert resources(parse_device("cuda")) == {"CPU": 1, "GPU": 1}


def test_devices_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Device("cpu").threads = 2
