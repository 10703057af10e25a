"""The device grammar, and what a device needs: environment variables and resources.

    cpu    cpu:threads=2    cpu:isa=avx2    cpu:threads=2,isa=default    cuda    cuda:tf32=on    mps
    cpu@NODE    cpu:threads=2@NODE    cuda@NODE#INDEX    on one node of a Ray cluster, and one GPU of that node

`python -m parity.devices` lists the nodes and GPUs of a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from parity.ground.errors import Trouble
from parity.ground.spelling import did_you_mean

# Values of `--each`, and the kind of device that each of them places.
EACH = {"node": "cpu", "gpu": "cuda"}
# Instruction sets for which ATen compiles its CPU kernels, as ATEN_CPU_CAPABILITY names them (see `environment`).
ISAS = ("default", "avx2", "avx512")


# Most threads of a device, chosen above the core counts of common machines. OpenMP ends the process where it cannot
# start them.
MOST_THREADS = 1024


@dataclass(frozen=True)
class Kind:
    """A kind of device; what torch and the machine know of it is in `train.switches` and `train.machine`.

    Attributes:
        grammar: How `--device` names it, with each of its options.
        options: The options that it has.
        gpus: How many of Ray's GPUs a trial on it occupies.
        numbered: Whether a node may have several, so that a location must say which.
        variables: Environment variables that must be set before torch is imported.
    """

    grammar: tuple[str, ...]
    options: frozenset[str] = frozenset()
    gpus: int = 1
    numbered: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    # `plant` is left out of the grammar that help and messages print: only a fire drill needs it.
    "cpu": Kind(
        ("cpu", "cpu:threads=N", f"cpu:isa={'|'.join(ISAS)}"),
        options=frozenset({"threads", "isa", "plant"}),
        gpus=0,
    ),
    "cuda": Kind(
        ("cuda", "cuda:tf32=on|off"),
        options=frozenset({"tf32"}),
        numbered=True,
        variables={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
    ),
    "mps": Kind(("mps",)),
}
GRAMMAR = f"{', '.join(text for kind in KINDS.values() for text in kind.grammar)}, auto; cpu@NODE, cuda@NODE#INDEX"
# Faults that can be planted in a CPU device, to see parity find them; `train.planted` describes each.
PLANTS = r"bfloat16|tf32|noise|element-\d+|flip-\d+(-r\d+)?"


@dataclass(frozen=True)
class Device:
    """Where and how the arithmetic of a trial runs.

    Attributes:
        kind: One of `KINDS`.
        threads: Number of threads that ATen, OpenMP and MKL use within one operation.
        isa: Instruction set of ATen's kernels, one of `ISAS`; None leaves the choice to ATen. The BLAS library chooses
            its own.
        tf32: Whether a CUDA device may round the factors of matrix products and convolutions to TF32.
        plant: Fault planted on purpose (see `train.planted`), or None.
        node: Name of the node of a Ray cluster that the device is on, or None for any node that fits.
        index: Index of the GPU on that node, or None.
    """

    kind: str
    threads: int = 1
    isa: str | None = None
    tf32: bool = False
    plant: str | None = None
    node: str | None = None
    index: int | None = None

    @property
    def without_location(self) -> Device:
        """The same settings on any node, without a planted fault: that belongs to one physical device."""
        # On any node the fault stays: there it is a setting of the device, which is compared with one that lacks it.
        return replace(self, node=None, index=None, plant=None) if self.node else self

    @property
    def location(self) -> str:
        """The node and GPU as the grammar writes them: "@node", "@node#0", or empty for a device on any node."""
        index = "" if self.index is None else f"#{self.index}"
        return f"@{self.node}{index}" if self.node else ""

    @property
    def name(self) -> str:
        """The device in the grammar, with only the options that differ from the default."""
        # In a fixed order and without defaults, so that equal devices have equal names; names of trials contain them.
        options = []
        if self.threads != 1:
            options.append(f"threads={self.threads}")
        if self.isa is not None:
            options.append(f"isa={self.isa}")
        if self.tf32:
            options.append("tf32=on")
        if self.plant is not None:
            options.append(f"plant={self.plant}")
        return (f"{self.kind}:{','.join(options)}" if options else self.kind) + self.location


def parse_devices(texts: Sequence[str]) -> tuple[Device, ...]:
    """Parses the values of `--device`, in which "auto" has been replaced already; the first is the baseline.

    Raises:
        Trouble: A device is unknown, an option does not fit its kind, or a device is given twice.
    """
    devices = tuple(parse_device(text) for text in texts)
    for index, device in enumerate(devices):
        if device in devices[:index]:
            raise Trouble(f"Device {device.name!r} is given twice. Give each once; to repeat trials, use --replicas.")
    return devices


def parse_device(text: str) -> Device:
    """Parses one device.

    >>> parse_device("cpu:threads=2").threads
    2
    >>> parse_device("cuda@rack 1#3").node
    'rack 1'

    Raises:
        Trouble: The device is unknown, an option does not fit its kind, or the location is not complete.
    """
    settings, at, location = text.partition("@")
    kind, colon, rest = settings.partition(":")
    pairs = [option.partition("=")[::2] for option in rest.split(",")] if colon else []
    options = dict(pairs)
    if kind not in KINDS:
        raise Trouble(f"Unknown device {text!r}. Known devices: {GRAMMAR}.{did_you_mean(kind, KINDS)}")
    if "" in options:
        # As in "cpu, or cpu:threads=2" and "cuda, or cuda:tf32=on".
        written = ", or ".join(KINDS[kind].grammar[:2]).replace("=N", "=2").partition("|")[0]
        raise Trouble(f"Device {text!r}: an option is empty. Write {written}.")
    for name, _ in pairs:
        _check_option(name, kind, given=[given for given, _ in pairs].count(name), text=text)
    threads = options.get("threads", "1")
    if not (threads.isascii() and threads.isdigit()) or int(threads) < 1:
        raise Trouble(
            f"Device {text!r}: threads={threads} is not a whole number of at least 1. "
            "Give a number of threads, such as threads=2."
        )
    if int(threads) > MOST_THREADS:
        raise Trouble(f"Device {text!r}: threads={threads} is too many. Give at most {MOST_THREADS}.")
    isa = options.get("isa")
    if isa is not None and isa not in ISAS:
        raise Trouble(f"Device {text!r}: isa={isa} is unknown. Known: {', '.join(ISAS)}.")
    tf32 = options.get("tf32", "off")
    if tf32 not in ("on", "off"):
        raise Trouble(f"Device {text!r}: tf32={tf32} is unknown. Known: on, off.")
    plant = options.get("plant")
    if plant is not None and not re.fullmatch(PLANTS, plant):
        raise Trouble(
            f"Device {text!r}: plant={plant} is unknown. Known: bfloat16, tf32, noise, element-STEP, flip-STEP."
        )
    device = Device(kind=kind, threads=int(threads), isa=isa, tf32=tf32 == "on", plant=plant)
    return _located(device, location, text=text) if at else device


def _check_option(name: str, kind: str, *, given: int, text: str) -> None:
    """Raises `Trouble` for an option that a kind of device does not have, or that is given more than once."""
    known = KINDS[kind].options
    if name.isdigit() and KINDS[kind].gpus:  # as torch writes a device
        numbered = f", or {kind}@NODE#{name} for one as python -m parity.devices lists it" * KINDS[kind].numbered
        raise Trouble(f"Device {text!r} has a number, and {kind} is written without one. Write {kind}{numbered}.")
    if name not in known:
        # A fault can be planted by whoever knows how; nobody misspells it.
        shown = ", ".join(sorted(known - {"plant"}))
        allowed = f"Known options of {kind}: {shown}." if shown else f"{kind} has no options."
        question = did_you_mean(name, known)
        raise Trouble(
            f"Device {text!r}: unknown option {name!r}. {allowed}{question or f' Write {kind}, or one of {GRAMMAR}.'}"
        )
    if given > 1:
        raise Trouble(f"Device {text!r}: {name} is given {given} times. Give it once.")


def _located(device: Device, location: str, *, text: str) -> Device:
    """The device on the node, and of a numbered kind the GPU, that follow its "@".

    Args:
        device: The device without a location.
        location: What follows the "@"; a node's name may contain "#".
        text: The whole device as given, for messages.

    Raises:
        Trouble: The node or the GPU is missing, or the index is not a number.
    """
    numbered = KINDS[device.kind].numbered
    # From the right, since the name of a node may contain "#" too.
    node, mark, index = location.rpartition("#") if numbered else (location, "", "")
    if not mark:
        node, index = location, ""
    if not node or (mark and not (index.isascii() and index.isdigit())):
        raise Trouble(
            f"Device {text!r}: {location!r} does not name a node{' and a GPU' if numbered else ''}. "
            f"Give {device.kind}@NODE{'#INDEX' if numbered else ''} as python -m parity.devices lists it."
        )
    if numbered and not mark:
        raise Trouble(
            f"Device {text!r} does not name a GPU of its node. Give {device.kind}@NODE#INDEX, or use --each gpu."
        )
    return replace(device, node=node, index=int(index) if mark else None)


def environment(device: Device) -> dict[str, str]:
    """The environment variables that must be set before torch is imported.

    Args:
        device: The device; its index, if it has one, is that of the GPU on the node that it runs on.

    Source:
        OMP_NUM_THREADS, MKL_NUM_THREADS: docs.pytorch.org/docs/stable/notes/cpu_threading_torchscript_inference.html.
        ATEN_CPU_CAPABILITY: pytorch, aten/src/ATen/native/DispatchStub.cpp.
        CUBLAS_WORKSPACE_CONFIG: docs.pytorch.org/docs/stable/notes/randomness.html; ":4096:8" is one of the two values
        that make cuBLAS deterministic.
        CUDA_VISIBLE_DEVICES: since Ray 2.56 a worker that asks for no GPU sees all of them, so they are hidden here.
    """
    variables = {"OMP_NUM_THREADS": str(device.threads), "MKL_NUM_THREADS": str(device.threads)}
    if device.isa is not None:
        variables["ATEN_CPU_CAPABILITY"] = device.isa
    kind = KINDS[device.kind]
    if not kind.numbered:
        # Empty and not unset, which would mean all of them.
        variables["CUDA_VISIBLE_DEVICES"] = ""
    elif device.index is not None:
        # The run holds this GPU (see `cluster.seats`), so the worker asks Ray for none, and Ray sets nothing. For a GPU
        # without a number Ray chooses one and sets the variable itself.
        variables["CUDA_VISIBLE_DEVICES"] = str(device.index)
    return variables | dict(kind.variables)


def resources(device: Device) -> dict[str, int]:
    """The Ray resources that the trial's worker occupies: one CPU for each thread, and a whole GPU if it uses one."""
    # A whole GPU: Ray's fractions are only counted, and separate neither the memory nor the processors of two trials.
    return {"CPU": device.threads, "GPU": KINDS[device.kind].gpus}
