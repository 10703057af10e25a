"""The noise of `--noise`: an output gradient whose elements are each moved by one ulp, as rounding could."""

from __future__ import annotations

import numpy as np
import torch


def round_randomly(grad: torch.Tensor, *, seed: tuple[int, ...]) -> torch.Tensor:
    """Moves each element to one of its two neighbours in its dtype, at random; zeros stay.

    Args:
        grad: dtype[...], on any device.
        seed: Seeds a generator of its own, so that the training's draws stay the same and every step can be repeated.

    Returns:
        dtype[...], on the same device.

    Source:
        D. S. Parker, "Monte Carlo Arithmetic", 1997: random rounding as a probe of what rounding does.
    """
    # SeedSequence makes one number of the tuple and mixes its bits; the shift makes it fit a signed 64-bit integer. On
    # the CPU, so that every device moves the same elements.
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
    up = torch.randint(0, 2, grad.shape, generator=generator, dtype=torch.bool).to(grad.device)
    infinity = torch.full((), torch.inf, dtype=grad.dtype, device=grad.device)
    if grad.dtype == torch.float16:  # torch has no nextafter for it
        host = grad.cpu().numpy()
        towards = np.where(up.cpu().numpy(), np.float16(np.inf), np.float16(-np.inf))
        moved = torch.from_numpy(np.nextafter(host, towards)).to(grad.device)
    else:
        moved = torch.nextafter(grad, torch.where(up, infinity, -infinity))
    # A zero is often exact (a ReLU, a mask), and rounding would not move it.
    return torch.where(grad == 0, grad, moved)
