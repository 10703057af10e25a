"""Recorded loops whose models, optimizers and precisions differ: right pairs are rounding, wrong ones diverged."""

import contextlib
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import parity
from parity import report

CRITERION = nn.CrossEntropyLoss()


pytestmark = pytest.mark.usefixtures("one_thread")


class Attention(nn.Module):
    """A block of a transformer, in several implementations. The bias of its keys has a gradient of zero."""

    def __init__(self, *, eager=False, scale=1.0, gelu="none", dropout=0.0):
        super().__init__()
        self.query, self.key, self.value, self.hidden, self.last = (nn.Linear(24, 24) for _ in range(5))
        self.norm, self.drop = nn.LayerNorm(24), nn.Dropout(dropout)
        self.eager, self.scale, self.gelu = eager, scale / math.sqrt(12), gelu

    def forward(self, inputs):
        rows = self.norm(inputs)
        heads = [layer(rows).unflatten(2, (2, 12)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        if self.eager:
            mixed = (heads[0] @ heads[1].mT * self.scale).softmax(-1) @ heads[2]
        else:
            mixed = functional.scaled_dot_product_attention(*heads, scale=self.scale)
        rows = inputs + self.drop(mixed.transpose(1, 2).flatten(2))
        return self.last(functional.gelu(self.hidden(rows), approximate=self.gelu))[:, 0]


class Embedded(nn.Sequential):
    def __init__(self, **options):
        super().__init__(nn.Embedding(20, 24), Attention(**options))


class Upcast(Embedded):
    """Computes in bfloat16 under autocast, and returns float32, as models of Hugging Face do."""

    def forward(self, inputs):
        found = super().forward(inputs)
        return found.float() if found.dtype == torch.bfloat16 else found


class Normed(Embedded):
    """Its inputs are normed in float32, whatever the dtype of its parameters is; and positions are added in float32."""

    def __init__(self, *, root=False, **options):
        super().__init__(**options)
        self.root = root

    def forward(self, inputs):
        rows = self[0](inputs).float()
        if self.root:
            rows = rows / (rows.square().sum(-1, keepdim=True) / 24 + 1e-6).sqrt()
        else:
            rows = rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-6)
        step = torch.arange(24) * (-math.log(10000.0) / 24)
        rates = 10000 ** (-torch.arange(24) / 24) if self.root else step.exp()
        return self[1]((rows + (torch.arange(8)[:, None] * rates).sin()).to(self[0].weight.dtype))


class AdamW(torch.optim.Optimizer):
    """By hand; with `inside`, epsilon is under the root. The decay is in no group, but an attribute."""

    def __init__(self, params, inside=False, decay=0.01):
        super().__init__(params, {"inside": inside})
        self.decay = decay

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state, grad = self.state[parameter], parameter.grad
                count = state["step"] = state.get("step", 0) + 1
                state["mean"] = 0.9 * state.get("mean", 0) + 0.1 * grad
                state["square"] = 0.999 * state.get("square", 0) + 0.001 * grad**2
                mean, square = state["mean"] / (1 - 0.9**count), state["square"] / (1 - 0.999**count)
                root = (square + 1e-16).sqrt() if group["inside"] else square.sqrt() + 1e-8
                parameter.mul_(1 - 1e-3 * self.decay).sub_(1e-3 * mean / root)


def torchs_adamw(parameters):
    return torch.optim.AdamW(parameters, 1e-3, foreach=False)


def decaying(kind):
    """The optimizer with ten times the decay."""
    if kind is AdamW:
        return lambda parameters: AdamW(parameters, decay=0.1)
    return lambda parameters: kind(parameters, 1e-3, weight_decay=0.1)


def record(out, *, make=Embedded, optimizer=torchs_adamw, dtype=torch.float32, autocast=False, batches=None, **options):
    torch.manual_seed(0)
    model = make(**options).to(dtype)
    steps, generator = optimizer(model.parameters()), torch.Generator().manual_seed(1)
    batches = batches or [
        (torch.randint(0, 20, (16, 8), generator=generator), torch.randint(0, 24, (16,), generator=generator))
        for _ in range(3)
    ]
    with parity.Recorder(out, model, optimizers=steps, criterion=CRITERION) as recorder:
        for inputs, target in batches:
            steps.zero_grad()
            with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
                output = model(inputs)
                loss = CRITERION(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            steps.step()
            recorder.step()


def verdict(folder, capsys):
    report.main([str(folder / "one"), str(folder / "other"), "--format", "json"])
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    return pair["verdict"]


BFLOAT16 = {"dtype": torch.bfloat16}


@pytest.mark.parametrize(
    ("both", "other"),
    [
        ({}, {"eager": True}),
        ({"dropout": 0.1}, {"eager": True}),
        (BFLOAT16, {"eager": True}),
        ({"autocast": True}, {"eager": True}),
        ({"autocast": True, "make": Upcast}, {"eager": True}),
        ({}, {"optimizer": lambda parameters: torch.optim.AdamW(parameters, 1e-3, fused=True)}),
        ({}, {"optimizer": lambda parameters: torch.optim.AdamW(parameters, 1e-3, foreach=True), "eager": True}),
        ({"make": Normed}, {"root": True}),
        ({"optimizer": AdamW}, {"eager": True}),
        ({"optimizer": decaying(torch.optim.AdamW)}, {"optimizer": decaying(AdamW)}),
    ],
)
def test_right_pairs_are_rounding(tmp_path, capsys, both, other):
    record(tmp_path / "one", **both)
    record(tmp_path / "other", **both | other)
    assert verdict(tmp_path, capsys) in ("rounding", "identical")


@pytest.mark.parametrize(
    ("both", "other"),
    [
        ({}, {"scale": 1.00001}),
        ({}, {"gelu": "tanh"}),
        (BFLOAT16, {"gelu": "tanh"}),
        ({"autocast": True}, {"scale": 1.001}),
        ({"dropout": 0.1}, {"scale": 1.001}),
        ({"optimizer": AdamW}, {"optimizer": lambda parameters: AdamW(parameters, inside=True)}),
        ({"optimizer": AdamW}, {"optimizer": decaying(AdamW)}),
        ({"autocast": True, "make": Upcast}, {"scale": 1.001}),
        ({"make": Upcast}, {"autocast": True}),
        ({"make": Normed}, {"root": True, "scale": 1.0001}),
        ({"make": Normed}, {"root": True, "gelu": "tanh"}),
        ({}, {"autocast": True}),
        ({}, BFLOAT16),
    ],
)
def test_wrong_pairs_are_diverged(tmp_path, capsys, both, other):
    record(tmp_path / "one", **both)
    record(tmp_path / "other", **both | other)
    assert verdict(tmp_path, capsys) == "diverged"


@pytest.mark.parametrize(("bias", "kink"), [(False, nn.ReLU), (True, nn.GELU)])
def test_channels_last_is_rounding(tmp_path, capsys, bias, kink):
    """Sums in another order; with a bias before batch norm, whose gradient is zero but for rounding."""

    def layers(formatted):
        layer = [nn.Conv2d(3, 16, 3, padding=1, bias=bias), nn.BatchNorm2d(16), kink(), nn.MaxPool2d(2)]
        layer += [nn.Conv2d(16, 32, 3, padding=1, bias=bias), nn.BatchNorm2d(32), kink()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
        return nn.Sequential(*layer, *head).to(memory_format=formatted)

    for name, formatted in (("one", torch.contiguous_format), ("other", torch.channels_last)):
        generator = torch.Generator().manual_seed(0)
        batches = [
            (torch.randn(16, 3, 32, 32, generator=generator), torch.randint(0, 10, (16,), generator=generator))
            for _ in range(2)
        ]
        batches = [(inputs.contiguous(memory_format=formatted), target) for inputs, target in batches]
        make = lambda formatted=formatted: layers(formatted)  # noqa: E731
        record(tmp_path / name, make=make, batches=batches)
    assert verdict(tmp_path, capsys) == "rounding"


class Layers(nn.Module):
    """The same layers under names that are given; parameters, buffers and modes have them too."""

    def __init__(self, *names, gelu="none"):
        super().__init__()
        self.gelu, self.names = gelu, names
        layers = nn.Embedding(20, 24), nn.BatchNorm1d(8), nn.Linear(24, 24)
        for name, layer in zip(names, layers, strict=True):
            self.add_module(name, layer)

    def forward(self, inputs):
        words, norm, head = (getattr(self, name) for name in self.names)
        return head(functional.gelu(norm(words(inputs)), approximate=self.gelu)).mean(1)


@pytest.mark.parametrize(("gelu", "expected"), [("none", "identical"), ("tanh", "diverged")])
def test_a_port_with_other_names_is_identical_unless_it_computes_otherwise(tmp_path, capsys, gelu, expected):
    record(tmp_path / "one", make=lambda: Layers("words", "norm", "head"))
    record(tmp_path / "other", make=lambda: Layers("stem", "scale", "classifier", gelu=gelu))
    assert verdict(tmp_path, capsys) == expected
