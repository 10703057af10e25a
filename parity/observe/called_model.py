"""A model called as a loop calls it, and those of its results that the loop gives to its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from parity.ground.errors import OracleUnavailable
from parity.observe.norms import l2_norm
from parity.tasks.outputs import Outputs, describe, parts

# What a loop calls its model with: a tensor, or a sequence or dict of arguments.
Inputs = torch.Tensor | Sequence[Any] | Mapping[str, Any]


def call(model: torch.nn.Module, inputs: Inputs) -> Any:
    """Calls the model as the loop did: with one tensor, with arguments in order, or with arguments by name."""
    if isinstance(inputs, torch.Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def counterparts(returned: Any, output: Outputs) -> list[torch.Tensor]:
    """The tensors of what the model returned that are the parts of the loop's output.

    A loop may give its loss one tensor of several that its model returns, or the same elements in another shape; the
    nearest in value is meant.

    Raises:
        OracleUnavailable: A part is none of them.
    """
    found, wanted = parts(returned), parts(output)
    if [each.shape for each in found] == [each.shape for each in wanted]:
        return found
    chosen = []
    for part in wanted:
        alike = [each.reshape(part.shape) for each in found if each.numel() == part.numel()]
        if not alike:
            raise OracleUnavailable(
                f"the loop's output, {describe(output)}, is not what the model returns in float64, {describe(returned)}"
            )
        chosen.append(min(alike, key=lambda each: l2_norm((each.detach().double() - part).numpy())))
    return chosen
