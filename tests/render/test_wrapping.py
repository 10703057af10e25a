"""Lines of at most so many columns, in which no word is cut."""

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from parity.render.wrapping import clip, flat, shell_lines, visible, wrap


@given(st.text(), st.integers(1, 90))
def test_no_line_is_too_long_and_no_word_is_cut_or_lost(text, width):
    lines = wrap(text, width=width, first="- ", then="  ")
    assert [word for line in lines for word in line.split()] == ["-", *map(visible, text.split())]
    assert all(cell_len(line) <= width or len(line[2:].split()) <= 1 for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_wide_letter_takes_two_columns():
    assert wrap("損失 損失", width=8) == ["損失", "損失"]
    assert wrap("損失 損失", width=9) == ["損失 損失"]


def test_what_steers_a_terminal_is_an_escape_and_letters_are_left_alone():
    assert visible("\x1b[2J\x07\u202e\ud800") == "\\x1b[2J\\x07\\u202e\\ud800"
    assert visible("損失 \\ µ") == "損失 \\ µ"
    assert flat("one\n\ttwo  three\r") == "one two three"


def test_a_text_is_clipped_with_a_sign():
    assert (clip("one two", 7), clip("one two", 6)) == ("one two", "one...")


def test_an_option_of_a_command_keeps_its_value():
    lines = shell_lines("parity run --loss builtin mine.py:mine --inline --steps 1", width=54)
    assert lines == ["parity run --loss builtin mine.py:mine --inline \\", "  --steps 1"]
