"""The fragment of HTML that a notebook shows, and the frame with the whole page."""

import re
from html.parser import HTMLParser

import pytest
from synthetic_runs import ROUNDING, Planted, fleet_run, make_run

from parity.judge.judging import judge
from parity.render.page import frame, notebook

EVIL = "<script>alert(1)</script>\"'&\x1b[31m\u202e"
WRONG = {"differs": {"loss": 2, **ROUNDING}, "grad_errors": {7: 1e6}}
RAISED = {"status": "failed", "failed_step": 4, "error": EVIL * 900, "traceback": f'  File "{EVIL}"\n' * 3000}
CONTRACT = [
    {"trial": f"m{number}{EVIL * 40}@cpu-s0", "item": EVIL * 9, "status": "failed", "reason": EVIL * 900}
    for number in range(9)
]
DEVICES = ("cpu:threads=2", "cpu:isa=avx2")
RUNS = {
    "identical": make_run(Planted()),
    "diverged": make_run(Planted(**WRONG)),
    "devices": make_run(*(Planted("builtin", device=device, differs=ROUNDING) for device in DEVICES), Planted(**WRONG)),
    "nothing": make_run(),
    "fleet": fleet_run(40, odd=(3, 7)),
    "large and evil": make_run(
        *(Planted(f"m{number}{EVIL * 40}", steps=4, record=RAISED) for number in range(60)), contract=CONTRACT
    ),
}
ALLOWED = {"div", "style", "p", "b", "i", "ul", "li", "span", "pre", "code", "details", "summary"}
ALLOWED |= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
VOID = {"br", "hr", "img", "meta", "link", "input"}


class Elements(HTMLParser):
    """The elements of a fragment, which has to close what it opens."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.attributes, self.text = [], set(), [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += [name for name, _ in attrs]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open[-1:] != ["style"] else ""


@pytest.fixture(params=RUNS)
def run(request):
    return RUNS[request.param]


def fragment(run, page="/kept/report.html"):
    return notebook.render(run, judge(run), page=page)


def test_a_fragment_is_small_and_has_no_script_and_loads_nothing(run):
    text = fragment(run)
    found = Elements(text)
    assert len(text.encode()) <= notebook.MOST_BYTES
    assert found.names <= ALLOWED
    assert set(found.attributes) <= {"class", "scope", "open", "aria-hidden"}
    assert "url(" not in text and "@import" not in text
    assert "\x1b" not in text and "\u202e" not in text


def test_a_fragment_styles_nothing_of_the_notebook(run):
    (style,) = re.findall(r"<style>(.*?)</style>", fragment(run), re.DOTALL)
    rules = re.findall(r"^(.+?) \{", style, re.MULTILINE)
    assert len(rules) > 5 and all(rule.startswith(".parity-check") for rule in rules)
    # A colour that suits a light notebook alone would not be seen on a dark one: it has a background of its own.
    assert set(re.findall(r"[^-]color: ([^;}]+)", style)) == {"inherit", "#fff"}


def test_a_fragment_says_what_the_page_begins_with():
    found = Elements(fragment(RUNS["diverged"])).text
    for part in ("≠ diverged", "from step 7 on", "where", "how sure", "What to do", "/kept/report.html"):
        assert part in found
    assert "/kept" not in Elements(fragment(RUNS["diverged"], page=None)).text


def test_losses_and_devices_are_in_a_table():
    found = Elements(fragment(RUNS["devices"])).text
    assert "cpu:threads=2" in found and "inconclusive (by device)" in found and "Of 3 pairs" in found


def test_of_a_traceback_the_users_lines_come_first():
    traceback = 'T:\n  File "mine.py", line 3, in <lambda>\n    f(1 < 2)\nE: no\n'
    text = fragment(make_run(Planted(steps=4, record=RAISED | {"error": "E: no", "traceback": traceback})))
    assert "<pre>File &#34;mine.py&#34;, line 3, in &lt;lambda&gt;\n    f(1 &lt; 2)\nE: no</pre>" in text
    assert "<details><summary>Traceback of mine@cpu-s0</summary><pre>T:\n" in text


def test_the_page_is_in_a_frame_that_reaches_nothing_of_the_notebook(monkeypatch):
    import IPython.display

    shown = {}
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.update(data))
    frame.show('<p title="a">&amp;</p>', "/kept/report.html")
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;&amp;amp;&lt;/p&gt;"' in shown["text/html"]
    (sandbox,) = re.findall('sandbox="(.+?)"', shown["text/html"])
    assert "allow-scripts" in sandbox and "same-origin" not in sandbox
    assert shown["text/plain"] == "The page is /kept/report.html"
