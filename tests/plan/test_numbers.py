"""The numbers that a run may be asked for: the command line and Python refuse the same ones."""

import argparse
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.ground.errors import Trouble
from parity.plan.numbers import RULES, checked
from parity.plan.options import make_parser

OPTIONS = {"seed", "replicas", "noise", "epochs", "steps", "batch_size", "lr", "audit_every"}
WRONG = [-1, 1.5, math.nan, math.inf, -math.inf, True, "1", None, [1], np.float32("nan"), 1j]


def message(name, value):
    with pytest.raises(Trouble) as trouble:
        checked(name, value)
    return str(trouble.value)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_wrong_number_is_refused(name, value):
    if name == "lr" and value == 1.5:  # the one that is right
        assert checked(name, value) == 1.5
    else:
        assert message(name, value) == f"{name}={value!r} is not {RULES[name].allowed}. {RULES[name].advice}"


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.least != 0])
def test_zero_is_refused_where_nothing_would_be_compared(name):
    assert message(name, 0).startswith(f"{name}=0 is not ")


def test_messages_say_what_is_allowed_and_what_to_do():
    assert message("steps", 0) == (
        "steps=0 is not a whole number of at least 1. Give the number of optimizer steps to compare: without a step "
        "nothing is compared."
    )
    assert message("lr", math.nan) == "lr=nan is not a number greater than 0. Give a learning rate, such as 1e-3."


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_any_kind_become_pythons(value):
    assert checked("steps", value) == 3 and type(checked("steps", value)) is int


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), Fraction(1, 2)])
def test_rates_of_any_kind_become_floats(value):
    assert checked("lr", value) == float(value) and type(checked("lr", value)) is float


def by_command(name, text):
    """Whether the command line takes the number."""
    parser = make_parser()
    parser.exit_on_error = False
    try:
        parser.parse_args([f"--{name.replace('_', '-')}={text}"])
    except argparse.ArgumentError:
        return False
    return True


def by_call(name, value):
    try:
        checked(name, value)
    except Trouble:
        return False
    return True


@given(name=st.sampled_from(sorted(OPTIONS)), value=st.integers(-3, 10**12) | st.floats(-2, 2) | st.just(math.nan))
def test_command_and_call_refuse_the_same(name, value):
    assert by_command(name, value) == by_call(name, value)
