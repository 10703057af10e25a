"""Torch's switches for TF32 are read and set in both of their forms, and what they apply to counts as TF32."""

from dataclasses import dataclass, field

import pytest
import torch

from parity.observe import tf32
from parity.observe.graph import Precision, narrowest
from parity.observe.user_loop import device_of
from parity.train.switches import switches_restored

from conftest import warm_command

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
newer = pytest.mark.skipif(not hasattr(MATMUL, "fp32_precision"), reason="this torch has the older switches only")


@pytest.fixture(autouse=True)
def switches():
    """The older form sets the newer one, too."""
    MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True
    yield
    # Of the CPU as well.
    torch.set_float32_matmul_precision("highest")
    MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True
    tf32.has_tf32.cache_clear()


def test_the_older_form():
    assert tf32.allowed() == {"conv", "rnn"}
    MATMUL.allow_tf32, CUDNN.allow_tf32 = True, False
    assert tf32.allowed() == {"matmul"}
    torch.set_float32_matmul_precision("highest")
    assert tf32.allowed() == set()


@newer
def test_the_newer_form_beside_which_the_older_one_cannot_be_asked_for():
    MATMUL.fp32_precision, CUDNN.conv.fp32_precision = "tf32", "ieee"
    with pytest.raises(RuntimeError):
        _ = MATMUL.allow_tf32
    assert tf32.allowed() == {"matmul", "rnn"}


@newer
def test_a_program_with_the_newer_form_gets_its_switches_back():
    MATMUL.fp32_precision, CUDNN.conv.fp32_precision = "tf32", "ieee"
    with switches_restored():
        tf32.set_allowed(())
        assert tf32.allowed() == set()
    assert (MATMUL.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision) == ("tf32", "ieee", "tf32")


@pytest.mark.parametrize("products", [(), tf32.ALL])
def test_a_program_with_the_older_form_can_ask_for_it_afterwards(products):
    MATMUL.allow_tf32, CUDNN.allow_tf32 = True, False
    with switches_restored():
        tf32.set_allowed(products)
        assert tf32.allowed() == set(products)
    assert (MATMUL.allow_tf32, CUDNN.allow_tf32) == (True, False)


def test_medium_precision_can_be_asked_for_afterwards():
    torch.set_float32_matmul_precision("medium")
    with switches_restored():
        tf32.set_allowed(())
    assert torch.get_float32_matmul_precision() == "medium"
    assert tf32.allowed() == {"matmul", "conv", "rnn"}


@newer
def test_the_cpus_switch_in_the_newer_form_takes_nobody_the_older_one_of_cuda():
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    with pytest.raises(RuntimeError):
        torch.get_float32_matmul_precision()
    with switches_restored():
        tf32.set_allowed(tf32.ALL)
        assert MATMUL.allow_tf32 and CUDNN.allow_tf32
    assert (MATMUL.allow_tf32, CUDNN.allow_tf32) == (False, True)


PROGRAM = """
import torch
from parity.observe import tf32
torch.backends.fp32_precision = "ieee"
with tf32.switches_restored():
    tf32.set_allowed(tf32.ALL)
torch.backends.fp32_precision = "tf32"
print(sorted(tf32.allowed()))
"""


@newer
def test_switches_that_follow_another_one_go_on_following_it():
    # A process of its own, since what is set here cannot be taken back.
    done = warm_command("-c", PROGRAM)
    alone = PROGRAM.replace("with tf32.switches_restored():", "if False:")
    without = warm_command("-c", alone)
    assert done.stdout == without.stdout != "", done.stderr


@dataclass
class OfAGpu:
    """A model on a GPU, as `device_of` sees it."""

    is_cuda: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cuda"))

    def parameters(self):
        return iter([self])


@newer
def test_a_recorder_can_name_the_device_of_a_program_with_the_newer_form():
    MATMUL.fp32_precision = "tf32"
    assert device_of(OfAGpu()).name == "cuda:tf32=on"
    MATMUL.fp32_precision = "ieee"
    assert device_of(OfAGpu()).name == "cuda"


class Metadata:
    """What torch keeps of a value of a GPU."""

    shape = torch.Size([2])

    def __init__(self, dtype):
        self.dtype, self.device = dtype, torch.device("cuda")


class Node:
    """A node of the backward pass of a model on a GPU."""

    def __init__(self, name, dtype=torch.float32, before=()):
        self._name, self._input_metadata = name, [Metadata(dtype)]
        self.next_functions = [(node, 0) for node in before]

    def name(self):
        return self._name


@dataclass
class Output:
    """What a model on a GPU returns."""

    grad_fn: Node
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cuda"))


CONVOLUTION = Node("ReluBackward0", before=[Node("ConvolutionBackward0")])
LAYER = Node("AddmmBackward0")


@pytest.mark.parametrize(
    ("node", "allowed", "name"),
    [
        (CONVOLUTION, {"conv"}, "tf32"),
        (CONVOLUTION, {"matmul"}, "float32"),
        (CONVOLUTION, (), "float32"),
        (LAYER, {"matmul"}, "tf32"),
        (LAYER, {"conv", "rnn"}, "float32"),
        (Node("CudnnRnnBackward0"), {"conv", "rnn"}, "tf32"),
        (Node("CompiledFunctionBackward"), {"conv", "rnn"}, "tf32"),
        (Node("ScaledDotProductEfficientAttentionBackward0"), {"matmul"}, "tf32"),
        (Node("MulBackward0"), tf32.ALL, "float32"),
        # Products in a dtype of their own have nothing to do with it.
        (Node("AddmmBackward0", torch.float64), tf32.ALL, "float32"),
        (Node("AddmmBackward0", torch.bfloat16), tf32.ALL, "bfloat16"),
    ],
)
def test_a_model_that_may_compute_in_tf32_on_a_gpu_counts_as_tf32(node, allowed, name, monkeypatch):
    capable(monkeypatch, (8, 0))
    tf32.set_allowed(allowed)
    assert narrowest([Output(node)]).name == name


def capable(monkeypatch, capability, hip=None):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    tf32.has_tf32.cache_clear()


@pytest.mark.parametrize(("capability", "hip"), [((7, 5), None), ((7, 0), None), ((9, 4), "6.2")])
def test_a_gpu_without_tf32_is_not_held_to_it_whatever_the_switches_say(capability, hip, monkeypatch):
    capable(monkeypatch, capability, hip)
    tf32.set_allowed(tf32.ALL)
    assert narrowest([Output(CONVOLUTION)]).name == "float32"


def test_on_a_cpu_no_product_is_in_tf32():
    tf32.set_allowed(tf32.ALL)
    assert narrowest([torch.nn.Linear(3, 2)(torch.randn(4, 3))]) == Precision(2.0**-24, "float32")
