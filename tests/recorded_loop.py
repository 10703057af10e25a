"""A small recorded loop with buffers, two batches a step, clipping, and an optimizer with a state."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import torch

import parity

STEPS = 4


def trace_of(out, *, digest="auto", lr=1e-2, first_step=0, dtype=torch.float32):
    """Trains the loop, and records it from a step on if there is a directory; returns the model or the trace."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 70), torch.nn.BatchNorm1d(70), torch.nn.ReLU(), torch.nn.Linear(70, 130)]
    model = torch.nn.Sequential(*layers).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    criterion, recorder = torch.nn.MSELoss(), None
    for step in range(STEPS):
        if out and step == first_step:
            options = {"optimizers": optimizer, "criterion": criterion, "audit_every": 2, "first_step": first_step}
            recorder = parity.Recorder(str(out), model, digest=digest, **options)
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        for _ in range(2):
            inputs = torch.randn(9, 20, generator=generator).to(dtype)
            target = torch.randn(9, 130, generator=generator).to(dtype)
            output = model(inputs)
            loss = criterion(output, target)
            if recorder:
                recorder.forward(inputs, output=output, target=target, loss=loss, factor=0.5)
            (0.5 * loss).backward()
        if recorder:
            recorder.backward()
        if step == 2:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        if recorder:
            recorder.step()
    if recorder is None:
        return model
    recorder.close()
    return pq.read_table(next((Path(out) / "traces").iterdir())).to_pydict()


def record_by_both(folder):
    """Records it by the host, and from then on as if the CPU's memory were that of a GPU, in Triton's interpreter."""
    from parity.observe import device_sums

    host = trace_of(folder / "host", digest="words")
    device_sums.WITH_KERNELS.add("cpu")
    # Without them the host would be compared with itself.
    assert device_sums.on_device(torch.zeros(1)), "the kernels do not run"
    kernels = trace_of(folder / "kernels", digest="words")
    # NumPy's and Python's generators go on between the two.
    for trace in (host, kernels):
        del trace["generator_digests"]
    (folder / "traces.json").write_text(json.dumps((host, kernels)))
