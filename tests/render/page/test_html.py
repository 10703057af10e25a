"""The page: what it says, what it never loses, how large it is, and that a name in it is only a name."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from synthetic_runs import ROUNDING, Planted, fleet_run, long_run, make_run
from test_plots import points
from test_report import loaded_by

from parity import report
from parity.judge.judging import judge
from parity.render.headline import make_headline
from parity.render.page import html
from parity.render.page.sections import MOST_SECTIONS
from parity.store.stored_run import read_run
from parity.store.trace import SKETCHED_QUANTITIES

MOST_BYTES = 3_000_000
HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\n{{ 7 * 7 }}<!-- %{x} &lt;b&gt;"


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text, and the figures in it."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.ids, self.links, self.text, self.figures = [], [], [], "", {}
        self._inside = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.elements.append((tag, given))
        self.ids.append(given.get("id"))
        self.links += [given["href"]] if "href" in given else []
        self._inside = given.get("id") if tag == "script" else tag

    def handle_data(self, data):
        if self._inside == "figures" and data.strip():
            self.figures = json.loads(data)
        elif self._inside not in (None, "style"):
            self.text += data

    def handle_endtag(self, tag):
        self._inside = "closed"

    def count(self, tag):
        return sum(found == tag for found, _ in self.elements)


def rendered(run):
    return html.render(run, judge(run))


@pytest.fixture(scope="module")
def long_page():
    return rendered(long_run())


def test_ten_trials_of_ten_thousand_steps_are_under_3_mb(long_page):
    assert len(long_page.encode()) < MOST_BYTES


def test_a_spike_a_nan_and_an_infinity_of_a_long_run_are_in_its_page(long_page):
    page = Page(long_page)
    titles = re.findall(r"against\s+(\w+)@cpu-s0", " ".join(page.text.split()))
    anchor = {name: f"pair-{titles.index(name) + 1}" for name in ("spike", "nan", "inf")}
    assert points(page.figures[f"{anchor['spike']}-losses"], axis="y", role="candidate")[7777] == 0.5
    assert points(page.figures[f"{anchor['nan']}-losses"], axis="y2", role="candidate") == {4321: "NaN"}
    assert points(page.figures[f"{anchor['inf']}-losses"], axis="y2", role="candidate") == {6000: "inf"}
    assert points(page.figures[f"{anchor['inf']}-gradient"], axis="y2", role="candidate") == {6000: "inf"}
    for name in anchor.values():
        assert 3 in points(page.figures[f"{name}-rel"], axis="y", role="candidate")
    for step in ("7777", "4321", "6000"):
        assert step in page.text


def test_many_pairs_and_tensors_are_under_3_mb_too():
    tensors = tuple(f"transformer.blocks.{number}.attention.weight" for number in range(400))
    planted = [Planted(f"mine{number}", differs={"loss": 3, **ROUNDING}, grad_errors={9: 1e6}) for number in range(14)]
    text = rendered(make_run(*planted, steps=1200, tensors=tensors))
    assert len(text.encode()) < MOST_BYTES
    assert text.count('<article id="pair-') == MOST_SECTIONS


def test_many_pairs_and_tensors_with_distances_are_under_3_mb_too():
    tensors = tuple(f"transformer.blocks.{number}.attention.weight" for number in range(100))
    apart = {quantity: {3: 1e-7} for quantity in SKETCHED_QUANTITIES}
    planted = [Planted(f"mine{number}", differs={"loss": 3, **ROUNDING}, distances=apart) for number in range(13)]
    assert len(rendered(make_run(*planted, steps=1200, tensors=tensors)).encode()) < MOST_BYTES


def test_a_page_grows_with_the_odd_devices_not_with_the_nodes():
    few, many = (len(rendered(fleet_run(nodes, odd=(2,))).encode()) for nodes in (50, 800))
    assert many - few < 40_000


def test_names_are_text_and_nothing_else():
    record = {"error": f"it raised {HOSTILE}", "traceback": HOSTILE, "loss_name": HOSTILE, "trial": f"{HOSTILE}@cpu-s0"}
    plain = make_run(Planted(differs={"param": 3}, tensors=(0,)), tensors=("a", "b"))
    hostile = make_run(Planted(differs={"param": 3}, tensors=(0,)), tensors=(HOSTILE, "b"))
    table = hostile.traces["mine@cpu-s0"]
    traces = {"builtin@cpu-s0": hostile.traces["builtin@cpu-s0"], record["trial"]: table}
    trials = (hostile.trials[0], replace(hostile.trials[1], **record, attempts=2))
    info = hostile.info | {"command": HOSTILE, "task": HOSTILE, "folder": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    text = rendered(replace(hostile, trials=trials, traces=traces, info=info))
    page, usual = Page(text), Page(rendered(plain))
    assert page.count("script") == usual.count("script") == 4
    assert page.count("img") == 0
    assert {tag for tag, _ in page.elements} - {tag for tag, _ in usual.elements} <= {"table", "td", "details", "pre"}
    assert not any(name.startswith("on") for _, given in page.elements for name in given)
    assert HOSTILE in page.text
    labels = page.figures["pair-1-tensors"]["data"][0]["y"]
    assert not any("<" in label for label in labels)


def test_this_check_can_fail():
    assert Page(f"<p>{HOSTILE}</p>").count("img") == 1


@pytest.mark.parametrize(
    ("verdict", "planted"),
    [
        ("identical", Planted()),
        ("report-only", Planted(differs={"loss": 2})),
        ("rounding", Planted(differs={"loss": 2, **ROUNDING})),
        ("diverged", Planted(differs=ROUNDING, grad_errors={7: 1e6})),
        ("failed", Planted(steps=4, record={"status": "failed", "failed_step": 4, "error": "x"})),
        ("failed", Planted(steps=0, record={"status": "failed", "failed_step": 0, "error": "x"})),
        ("inconclusive", Planted(differs={"input": 2})),
    ],
)
def test_every_verdict_has_its_page(verdict, planted):
    page = Page(rendered(make_run(planted)))
    words = " ".join(page.text.split())
    assert words.count(f" {verdict} ") >= 2
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= {*page.ids}
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(headings))


def test_a_plot_has_words_and_a_table_behind_it():
    page = Page(rendered(make_run(Planted(differs={"loss": 2, **ROUNDING}))))
    plots = [given for _, given in page.elements if given.get("class") == "canvas"]
    assert len(plots) == 4 and {given["data-figure"] for given in plots} < {*page.figures}
    assert all(given["role"] == "img" and len(given["aria-label"]) > 40 for given in plots)
    assert "The numbers behind the plots" in page.text


def test_one_trial_and_a_failed_baseline_have_a_page():
    assert "There is nothing to compare" in rendered(make_run())
    run = make_run(Planted(), steps=0)
    failed = replace(run.trials[0], status="failed", failed_step=0, error="the loss raised E: x")
    assert "The baseline failed" in rendered(replace(run, trials=(failed, run.trials[1])))


def test_what_run_json_lacks_is_left_out():
    run = make_run(Planted())
    full = run.info | {"folder": "somewhere", "versions": {"torch": "2.15", "ray": None}}
    said = {}
    for lacking in ([], ["folder"], ["versions"], ["folder", "versions"], [*full]):
        info = {name: value for name, value in full.items() if name not in lacking}
        (note,) = re.findall(r'<p class="note">(.*?)The traces are in', rendered(replace(run, info=info)))
        said[" ".join(lacking)] = note
    assert [*said.values()] == ["In somewhere, with torch 2.15. ", "With torch 2.15. ", "In somewhere. ", "", ""]


def test_the_page_asks_for_nothing():
    text = rendered(make_run(Planted()))
    assert "default-src 'none'" in text
    assert not [given for _, given in Page(text).elements if "src" in given or given.get("href", "#")[0] != "#"]


def test_the_page_of_a_run_shows_the_first_difference(reference):
    run = read_run(reference)
    first = judge(run).pairs[0].first
    words = Page((reference / "report.html").read_text(encoding="utf-8")).text
    assert f"step {first.step} (epoch {first.epoch}, batch {first.batch})" in words
    assert (str(np.float32(first.baseline)) if isinstance(first.baseline, float) else first.baseline) in words
    assert run.info["command"] in words


def test_the_page_can_be_made_again_and_is_the_same(reference, tmp_path, capsys):
    assert report.main([str(reference), "--html", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == (reference / "report.html").read_bytes()


def test_a_page_that_cannot_be_written_is_trouble(reference, tmp_path, capsys):
    assert report.main([str(reference), "--html", str(tmp_path / "none" / "page.html")]) == 2
    assert "page.html cannot be written (No such file or directory)" in capsys.readouterr().err


def test_making_a_page_loads_neither_torch_nor_ray(reference, tmp_path):
    arguments = [str(reference), "--html", str(tmp_path / "page.html")]
    loaded = loaded_by(f"from parity import report; report.main({arguments!r})")
    assert "jinja2" in loaded and not loaded & {"torch", "ray"}


def test_a_run_does_not_load_what_the_page_needs_before_there_is_one():
    assert "jinja2" not in loaded_by("import parity.run")


def test_what_passed_is_folded_and_what_failed_is_not():
    planted = [Planted("right", differs=ROUNDING), Planted("wrong", differs=ROUNDING, grad_errors={7: 1e6})]
    page = Page(rendered(make_run(*planted)))
    folds = ["open" in given for tag, given in page.elements if tag == "details" and given.get("class") == "fold"]
    assert folds == [True, False]
    (alone,) = (given for _, given in Page(rendered(make_run(planted[0]))).elements if given.get("class") == "fold")
    assert "open" in alone


def test_of_many_losses_those_that_failed_are_in_the_first_matrix():
    planted = [Planted(f"m{n}", differs=ROUNDING, grad_errors={2: 1e6} if n == 30 else {}) for n in range(60)]
    text = rendered(make_run(*planted, steps=4, tensors=("a",)))
    shown, folded = re.findall(r'<table class="matrix".*?</table>', text, re.DOTALL)
    assert re.findall(r'scope="row">(.*?)<', shown) == ["m30"]
    assert len(re.findall(r'scope="row">', folded)) == 60  # the baseline is one of them


def test_the_cause_is_on_the_page_once():
    text = Page(rendered(make_run(Planted(differs=ROUNDING, grad_errors={7: 1e6})))).text
    headline = judged_headline(make_run(Planted(differs=ROUNDING, grad_errors={7: 1e6})))
    # Once more in the title of the document.
    assert text.count(headline) == 2


def judged_headline(run):
    return make_headline(run, judge(run)).what


def test_what_a_loss_raised_is_above_everything_else_and_whole_below():
    traceback = (
        'Traceback (most recent call last):\n  File "/x/parity/train/step.py", line 9, in take_step\n    loss()\n'
        '  File "/x/mine.py", line 7, in mine\n    raise ValueError("<planted>")\nValueError: <planted>\n'
    )
    record = {"status": "failed", "failed_step": 4, "error": "it raised", "traceback": traceback}
    page = Page(rendered(make_run(Planted(steps=4, record=record))))
    top, below = page.text.split("What to do next", 1)
    assert '/x/mine.py:7, in mine\n    raise ValueError("<planted>")\nValueError: <planted>' in top
    assert "take_step" not in top and traceback in below


def test_an_option_in_a_sentence_is_not_broken_and_other_marks_are_text():
    planted = Planted(differs=ROUNDING)
    run = make_run(planted)
    page = rendered(replace(run, info=run.info | {"notes": ["a <b> & --steps 235."]}))
    assert 'Only one seed was tried; <span class="option">--seed 0 1 2</span> tries three.' in page
    assert 'a &lt;b&gt; &amp; <span class="option">--steps 235</span>.' in page
