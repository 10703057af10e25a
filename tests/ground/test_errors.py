"""What IPython shows of trouble, in place of a traceback; tests/test_notebook.py has it in a notebook."""

import pytest

from parity.ground.errors import Trouble
from parity.plan.device import parse_devices


def test_trouble_is_its_message_and_the_callers_line():
    with pytest.raises(Trouble) as caught:
        parse_devices(["cpuu"])
    first, second = caught.value._render_traceback_()
    assert first == f"Trouble: {caught.value}"
    assert second.startswith("in line ") and second.endswith(': parse_devices(["cpuu"])')


def test_trouble_without_a_traceback_is_its_message():
    assert Trouble("what\nto do")._render_traceback_() == ["Trouble: what\nto do"]
