"""What `--loss` names, parsed and checked without importing torch or running the user's code."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parity.ground.errors import Trouble
from parity.plan.user_code import CodeSpec, parse_code


def parse_losses(texts: Sequence[str], *, shipped: Sequence[str]) -> tuple[CodeSpec, ...]:
    """Parses the values of `--loss`; the first is the baseline.

    A loss of a module or file is named by its attribute; where two would share a name, by file or module and attribute.

    Args:
        texts: As given.
        shipped: Names of the losses that the task ships.

    Raises:
        Trouble: A loss is unknown, its file, module or attribute is not there, or it is given twice.
    """
    specs = [_parse(text, shipped) for text in texts]
    names = Counter(spec.name for spec in specs)
    specs = [_qualified(spec) if names[spec.name] > 1 else spec for spec in specs]
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            raise Trouble(f"Loss {name!r} is given {count} times. Give each once; to repeat trials, use --replicas.")
    return tuple(specs)


def _qualified(spec: CodeSpec) -> CodeSpec:
    origin = Path(spec.path).stem if spec.path else spec.module
    return replace(spec, name=f"{origin}.{spec.attr}") if origin else spec


def _parse(text: str, shipped: Sequence[str]) -> CodeSpec:
    if text in shipped:
        return CodeSpec(name=text, attr=text)
    unknown = f"Unknown loss {text!r}. Known losses: {', '.join(shipped)}; or give module:attr or file.py:attr."
    return parse_code(text, kind="loss", unknown=unknown)
