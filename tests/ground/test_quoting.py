"""Texts of others are cut with a count of what is missing, and hide no error that they belong to."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.ground.command import guarded
from parity.ground.errors import Trouble
from parity.ground.quoting import MOST_SHOWN, MOST_STORED, cut, explain_error, message_of, traceback_of

COUNT = re.compile(r"\[\.\.\. ([\d,]+) characters left out \.\.\.\]")


def counted(text):
    """Characters of a text as it was before it was cut."""
    marks = [*COUNT.finditer(text)]
    return len(text) + sum(int(mark[1].replace(",", "")) - len(mark[0]) for mark in marks)


@given(st.integers(0, 10**5), st.lists(st.integers(100, 10**4), min_size=1, max_size=4))
def test_a_cut_text_says_how_long_it_was_however_often_it_is_cut(length, limits):
    text = ("0123456789" * (length // 10 + 1))[:length]
    for most in sorted(limits, reverse=True):
        text = cut(text, most)
        assert len(text) <= most and counted(text) == length
    assert text[:20] == ("0123456789" * 2)[:length] and text.endswith(str((length - 1) % 10) if length else "")


def test_a_text_that_claims_to_be_cut_makes_no_longer_one():
    assert len(cut("[... 999,999,999,999 characters left out ...]" * 10**4, 100)) <= 100


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def test_an_exception_is_explained_whatever_its_message_is():
    assert explain_error(KeyError("a")) == "KeyError: 'a'"
    assert explain_error(ValueError()) == "ValueError"
    assert explain_error(SilentError()) == "SilentError: its message cannot be read, which raises RuntimeError"
    assert len(message_of(ValueError("a" * 10**6))) <= MOST_STORED


def test_a_traceback_keeps_its_first_call_and_the_end_of_its_message():
    try:
        raise ValueError("a" * 10**6 + "!")
    except ValueError as error:
        text = traceback_of(error)
    assert len(text) <= MOST_STORED and counted(text) > 10**6
    assert text.startswith("Traceback (most recent call last):\n") and text.endswith("a!\n")


@pytest.mark.parametrize("text", ["a" * 10**6, "\x1b[2J\udcff", "one\n  two"])
def test_trouble_with_what_somebody_stored_is_a_message_for_a_terminal(capsys, text):
    def command():
        raise Trouble(text)

    assert guarded(command) == 2
    said = capsys.readouterr().err
    assert len(said) < MOST_SHOWN + 100 and "\x1b" not in said
    assert said == "parity: one\n  two\n" or "\n" not in said[:-1]
