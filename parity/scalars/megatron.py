"""Megatron's golden values: a JSON object with the numbers of each scalar by step.

Source:
    NVIDIA/Megatron-LM, tests/functional_tests/python_test_utils/common.py: `GoldenValueMetric` has `start_step`,
    `end_step`, `step_interval` and `values`, whose numbers are rounded to 5 decimals. A step that the event file lacks
    is written as "nan", as a NaN is.
"""

from typing import Any

from parity.ground.errors import Trouble
from parity.scalars.log import Column, Log, inexact, named

FORMAT = "Megatron's golden values"
_KEYS = {"start_step", "end_step", "step_interval", "values"}


def is_golden(value: Any) -> bool:
    """Whether a JSON value has the form of golden values."""
    return isinstance(value, dict) and any(isinstance(each, dict) and each.keys() >= _KEYS for each in value.values())


def read(path: str, value: dict[str, Any]) -> Log:
    """Reads golden values.

    Raises:
        Trouble: A step is not a whole number, or a value is not a number.
    """
    columns: dict[str, Column] = {}
    texts: dict[str, list[tuple[int, str]]] = {}
    for name, metric in value.items():
        column = columns[name] = Column.empty()
        beside = {key: metric[key] for key in metric if key not in _KEYS} if isinstance(metric, dict) else metric
        if beside or not isinstance(metric, dict):
            texts[f"{name} beside its values" if isinstance(metric, dict) else name] = [(0, str(beside))]
        if isinstance(metric, dict) and not isinstance(metric.get("values", {}), dict):
            raise Trouble(f"{path} has no object of steps in the values of {name!r}, as golden values have.")
        for step, number in metric["values"].items() if isinstance(metric, dict) and "values" in metric else ():
            if not (step.isascii() and step.isdecimal() and len(step) <= 18):
                raise Trouble(f"{path} has the step {step!r} for {name!r}, and a step is a whole number.")
            blank = number is None or (isinstance(number, str) and number.lower() == "nan")
            if isinstance(number, bool | list | dict) or not column.add(int(step), None if blank else number):
                raise Trouble(f"{path} has {number!r} for {name!r} at step {step}, and golden values are numbers.")
    return Log(path, FORMAT, named(columns), texts={**inexact(columns), **texts})
