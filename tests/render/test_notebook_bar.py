"""The bar of a notebook: what it shows, and what is shown without tqdm."""

import sys

from parity.ground import phases
from parity.render.notebook_bar import NotebookBar, make_bar
from parity.render.progress import TrialProgress


class Bar:
    """Takes the place of tqdm's."""

    def __init__(self, **options):
        self.n, self.options, self.log = 0, options, [options["desc"]]

    def set_description_str(self, text):
        self.log.append(text)

    def set_postfix_str(self, text, refresh):
        self.left = text

    def update(self, steps):
        self.n += steps
        self.log.append(f"{self.n}/{self.total}")

    def write(self, line, file):
        self.log.append((line, file is sys.stderr))

    def close(self):
        self.log.append("closed")


def test_phases_and_steps_of_all_trials_are_in_one_bar(capsys):
    phases.begin(process=False, quiet=True)
    with (
        NotebookBar(Bar) as bar,
        phases.shown(bar.enter),
        TrialProgress(["left", "right"], steps=10, bar=bar) as progress,
    ):
        phases.enter("training")
        progress.show("left", 4)
        progress.show("left", 0)  # it begins again
        progress.show("right", 10, state="complete")
        progress.say("a [red]name[/red]\nof two lines")
    phases.enter("judging")  # the bar has gone
    line = "a [red]name[/red] of two lines"
    assert bar._bar.log == ["starting", "training", "4/20", "0/20", "10/20", (line, True), "closed"]
    assert bar._bar.options["leave"] is False
    assert capsys.readouterr() == ("", "")


def test_without_tqdm_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert make_bar() is None
