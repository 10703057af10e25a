"""Names and messages in Markdown: whatever they have in them appears as text."""

import pytest
from markdown_it import MarkdownIt

from parity.render.markdown_text import code, details, fenced, prose, table

HOSTILE = [
    "a|b", "a\\|b", "|", "a`b``c", "`", "<script>alert(1)</script>", "<!-- x", "</details>", "@octocat", "a@b.example",
    "https://x.example/y", "www.x.example", "[x](https://x.example)", "![x](https://x.example/y.png)", "**x**", "_x_",
    "# x", "> x", "- x", "1. x", "1) x", "---", "===", "~~~", "```\nx\n```", "a\n\nb", "&lt;b&gt;", "#1", "GH-1", "$x$",
    ":smile:", "\\", "\x1b[31m", "\u202ex", "[^1]", "+ x", "* x", "    x", "損失",
]  # fmt: skip


def parsed(text):
    """The tokens of GitHub's Markdown, with everything on that may do harm."""
    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(text)


def inline(text):
    return [each for token in parsed(text) for each in token.children or ()]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is(name):
    (span,) = inline(code(name))
    shown = " ".join(name.split()).replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert (span.type, span.content.strip()) == ("code_inline", shown)
    cells = [each.content for each in inline(f"| a |\n| --- |\n| {code(name).replace('|', chr(92) + '|')} |")]
    assert [each.strip() for each in cells] == ["a", shown]


@pytest.mark.parametrize("name", HOSTILE)
def test_lines_that_are_fenced_end_where_they_end(name):
    tokens = parsed(f"{fenced(f'{name}{chr(10)}`````', most=1000)}\n\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


def test_words_are_left_alone():
    words = 'It\'s report-only: 1.68e+07 u (the line is 16 u), 0.5% of 1,000 != 3; is it "so"?'
    assert prose(words) == words
    assert (
        prose("param_grad of layer.0 (see log_softmax(), or x).")
        == "`param_grad` of `layer.0` (see `log_softmax()`, or x)."
    )
    assert prose("5. is no list") == "`5.` is no list"


def test_a_table_is_as_long_as_there_is_room_and_says_what_is_left_out():
    rows = [[code(f"name|{number}"), "x"] for number in range(10)]
    whole = table(["a", "b"], rows, most=1000)
    assert whole.splitlines()[:3] == ["| a | b |", "| --- | --- |", "| `name\\|0` | x |"]
    assert len(whole.splitlines()) == 12
    cut = table(["a", "b"], rows, most=100, left_out=7)
    assert cut.endswith("| `name\\|3` | x |\n\n13 more are not shown."), "22 characters of head, 17 of a row"


def test_details_without_content_are_not_there():
    assert details("Words", "", "") == ""
    assert details("Words", "", "x") == "<details><summary>Words</summary>\n\nx\n\n</details>"
