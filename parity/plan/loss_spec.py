"""Parses and checks the values of `--loss`, without importing torch or running the user's code."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parity.ground.errors import Trouble
from parity.ground.spelling import did_you_mean
from parity.plan.user_code import CodeSpec, parse_code


def parse_losses(texts: Sequence[str], *, shipped: Sequence[str]) -> tuple[CodeSpec, ...]:
    """Parses the values of `--loss`; the first is the baseline.

    The name of a loss from a module or file is its attribute; if two losses would have the same name, the names also
    contain the file or module, as in "old.mse" and "new.mse".

    Args:
        texts: The values as given.
        shipped: Names of the losses that come with the task.

    Raises:
        Trouble: A loss is unknown, its file, module or attribute does not exist, or it is given twice.
    """
    specs = [_parse(text, shipped) for text in texts]
    names = Counter(spec.name for spec in specs)
    # Only names that clash get longer, so that trials usually have the short name that people use.
    specs = [_qualified(spec) if names[spec.name] > 1 else spec for spec in specs]
    # What is still equal is the same loss twice, or comes from two files of one name.
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            raise Trouble(f"Loss {name!r} is given {count} times. Give each once; to repeat trials, use --replicas.")
    return tuple(specs)


def _qualified(spec: CodeSpec) -> CodeSpec:
    origin = Path(spec.path).stem if spec.path else spec.module
    return replace(spec, name=f"{origin}.{spec.attr}") if origin else spec  # a shipped loss keeps its name


def _parse(text: str, shipped: Sequence[str]) -> CodeSpec:
    if text in shipped:
        return CodeSpec(name=text, attr=text)
    unknown = (
        f"Unknown loss {text!r}. Known losses: {', '.join(shipped)}; or give module:attr or file.py:attr."
        f"{did_you_mean(text, shipped)}"
    )
    return parse_code(text, kind="loss", unknown=unknown)
