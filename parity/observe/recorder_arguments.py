"""What a recorder is given, refused before anything is recorded: by `parity.Recorder` and by the callbacks of trainers.

A callback is made long before its training begins; what is wrong is said where it was written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from parity.ground.errors import Trouble
from parity.ground.spelling import did_you_mean
from parity.observe.parameters import lazy_parameter
from parity.plan.numbers import checked
from parity.plan.trial import DIGEST_KINDS

_AUTO = "'auto', "
_NUMBERS = ("audit_every", "seed", "replica", "first_step", "steps_per_epoch")


def check_arguments(
    who: str, out: object, *, criterion: object, options: Mapping[str, Any], known: Mapping[str, object], auto: bool
) -> None:
    """Checks what a callback is given, but for its model, which it does not know yet.

    Args:
        who: Who is given it, for messages.
        out: Where the recording is to be.
        criterion: The correct loss, or None.
        options: The other arguments of `parity.Recorder`.
        known: Those that there are.
        auto: Whether a criterion may also be "auto".

    Raises:
        Trouble: One is unknown, or of a wrong kind.
    """
    for name in options:
        if name not in known:
            question = did_you_mean(name, known)
            raise Trouble(f"{who}: unknown argument {name!r}. Known arguments: {', '.join(sorted(known))}.{question}")
    _check_out(who, out)
    for name in _NUMBERS:
        if name in options and not (name == "steps_per_epoch" and options[name] is None):
            checked(name, options[name])
    for name, check in _CHECKS.items():
        if name in options:
            check(who, options[name])
    # Calling a class makes an object, and no loss.
    if criterion is not None and not (auto and criterion == "auto") and not _is_function(criterion):
        raise Trouble(
            f"{who}: criterion is {kind_of(criterion)}, which is not a loss. Give a function "
            f"(output, target) -> scalar, such as torch.nn.MSELoss(), {_AUTO if auto else ''}or None."
        )


def check_model(who: str, model: object, name: str = "model") -> None:
    """Raises `Trouble` if a value is not a model."""
    if not isinstance(model, torch.nn.Module):
        raise Trouble(
            f"{who}: {name} is {kind_of(model)}, which is not a torch.nn.Module. Give the model itself; several go "
            "into a torch.nn.ModuleDict."
        )
    if lazy := lazy_parameter(model):
        raise Trouble(f"{who}: {name} has the parameter {lazy} without a shape. Call the model on a batch first.")
    if empty := _without_data(model):
        raise Trouble(
            f"{who}: {name} has {empty} on the device meta, where tensors have no values. Move the model to a device "
            "with model.to_empty(device=...), and load its weights, before it is recorded."
        )


def _without_data(model: torch.nn.Module) -> str | None:
    """The first parameter or buffer of a model that has no values, with its kind; None if there is none."""
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for key, tensor in tensors:
            if tensor.is_meta:
                return f"the {kind} {key}"
    return None


def kind_of(thing: object) -> str:
    """What a thing is, for messages."""
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"an object of class {type(thing).__name__}"


def _is_function(thing: object) -> bool:
    return callable(thing) and not isinstance(thing, type)


def _check_out(who: str, out: object) -> None:
    if not isinstance(out, str | os.PathLike) or not isinstance(os.fspath(out), str):
        raise Trouble(f"{who}: out is {kind_of(out)}. Give a directory, such as 'runs/mine', or a URI.")
    if not os.fspath(out):
        raise Trouble(f"{who}: out is empty. Give a directory, such as 'runs/mine'.")


def _check_name(who: str, name: object) -> None:
    if not isinstance(name, str):
        raise Trouble(f"{who}: name is {kind_of(name)}. Give a string.")


def _check_also(who: str, also: object) -> None:
    if also is None:
        return
    if not isinstance(also, Mapping):
        raise Trouble(f"{who}: also is {kind_of(also)}. Give a dictionary of models by their names.")
    for key, each in also.items():
        if not isinstance(key, str):
            raise Trouble(f"{who}: also has the key {key!r}, {kind_of(key)}. Give each model a string as its name.")
        check_model(who, each, f"also[{key!r}]")


def _check_scaler(who: str, scaler: object) -> None:
    if scaler is not None and (isinstance(scaler, type) or not callable(getattr(scaler, "get_scale", None))):
        raise Trouble(f"{who}: scaler is {kind_of(scaler)}, which has no scale. Give a torch.amp.GradScaler, or None.")


def _check_digest(who: str, digest: object) -> None:
    if not isinstance(digest, str) or digest not in ("auto", *DIGEST_KINDS):
        raise Trouble(
            f"{who}: digest={digest!r} is not a kind of digest. Give 'auto', {' or '.join(map(repr, DIGEST_KINDS))}."
        )


def _check_overwrite(who: str, overwrite: object) -> None:
    if not isinstance(overwrite, bool):
        raise Trouble(f"{who}: overwrite is {kind_of(overwrite)}. Give True or False.")


def _check_quiet(who: str, quiet: object) -> None:
    if quiet is not None and not isinstance(quiet, bool):
        raise Trouble(f"{who}: quiet is {kind_of(quiet)}. Give True, False, or None.")


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "name": _check_name,
    "also": _check_also,
    "scaler": _check_scaler,
    "digest": _check_digest,
    "overwrite": _check_overwrite,
    "quiet": _check_quiet,
}
