"""What `parity.check` returns: the verdict, its causes, the tables behind it, and how a notebook shows it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from parity.ground.errors import Trouble
from parity.ground.kept import keep_folder
from parity.judge import Judgement, PairVerdict, differences_tables
from parity.judge.differences_table import SCHEMA as DIFFERENCES
from parity.render import browser, glance, story, terminal
from parity.render.page import frame, html, notebook
from parity.render.pair_text import pair_line
from parity.render.progress import in_notebook
from parity.render.summary import summarize
from parity.store.files import write_text
from parity.store.stored_run import StoredRun

if TYPE_CHECKING:
    import pandas as pd

    from parity.judge.causes import Cause
    from parity.judge.differences import Difference
    from parity.judge.verdict import Onset

# Columns of `report`: an output cell of a notebook shows them without a scroll bar.
WIDTH = 100


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What `parity.check` found. A notebook shows it as a table, and `print(result.report)` as the command does.

        result = parity.check("my_losses.py:mse", steps=20)
        assert result.passed, result.message
        print(result.verdict, result.onset, result.causes)
        result.traces[["trial", "step", "loss"]]
        result.open()

    Attributes:
        run: The stored run: trials, traces, contract and findings as Arrow tables.
        judgement: The verdict on each pair.
        page: Path of report.html; None where nothing was kept. What did not pass is kept for seven days in the
            temporary folder, if it was given no directory.
    """

    run: StoredRun
    judgement: Judgement
    page: Path | None = None

    @property
    def verdict(self) -> str:
        """The worst verdict of all pairs: identical, report-only, rounding, inconclusive, diverged or failed."""
        return self.judgement.verdict

    @property
    def passed(self) -> bool:
        """Whether the verdict is identical, report-only or rounding, and the baseline itself did not fail.

        A pair of which no step was compared does not pass, whatever its verdict.
        """
        compared = bool(self.pairs) and all(pair.steps for pair in self.pairs)
        return compared and self.judgement.meaning.passing and self.judgement.trouble is None

    @property
    def pairs(self) -> tuple[PairVerdict, ...]:
        """Each pair of trials and what was found about it."""
        return self.judgement.pairs

    @property
    def worst(self) -> PairVerdict:
        """The pair that the verdict comes from, and the headline is about.

        Raises:
            Trouble: There is none.
        """
        worst = story.worst_pair(self.judgement)
        if worst is None:
            raise Trouble(
                "Nothing was compared: no two trials form a pair. Add a candidate, a second device or replicas."
            )
        return worst

    @property
    def first(self) -> Difference | None:
        """The worst pair's first difference of any size, or None if all bits are equal."""
        return self.worst.first

    @property
    def onset(self) -> Onset | None:
        """The worst pair's first difference that rounding cannot explain, or None if there is none."""
        return self.worst.onset

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What is wrong with the worst pair's candidate, the most serious cause first."""
        return self.worst.causes

    @property
    def line(self) -> str:
        """All findings about the worst pair in one line, or why no verdict was reached."""
        return self.judgement.trouble or pair_line(self.worst).plain

    @property
    def message(self) -> str:
        """The result in a few lines: verdict and cause, where the runs differ, what to do, and where the page is."""
        return glance.message(self.run, self.judgement, page=self.page)

    @property
    def report(self) -> str:
        """The report as the command prints it, without colours, in at most 100 columns; then the path of the page."""
        text = terminal.plain_text(self.run, self.judgement, width=WIDTH)
        return f"{text}\nReport: {self.page}\n" if self.page else text

    def open(self) -> Path:
        """Shows the whole page: in a notebook below the cell, otherwise in the browser.

        Returns:
            The path of the page. That of a result that was not kept is written to the temporary folder first.

        Raises:
            OSError: The temporary folder cannot be written to.
            Trouble: The page cannot be written.
        """
        page = self.page if self.page and self.page.exists() else self._page_now
        if in_notebook():
            frame.show(html.render(self.run, self.judgement), page)
        else:
            browser.show(page)
        return page

    @cached_property
    def _page_now(self) -> Path:
        """The page, written to a new folder."""
        page = keep_folder(self.run.trials[-1].loss_name) / "report.html"
        write_text(page, html.render(self.run, self.judgement))
        return page

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json, as the command would write it."""
        return summarize(self.judgement)

    @property
    def contract(self) -> pd.DataFrame:
        """The loss contract, with a row for each item: trial, item, status, reason."""
        return self.run.evidence["contract"].to_pandas()

    @property
    def findings(self) -> pd.DataFrame:
        """The diagnosis, with a row for each step whose gradient was examined: trial, step, kind, value, detail."""
        return self.run.evidence["findings"].to_pandas()

    @property
    def shared_steps(self) -> pd.DataFrame:
        """The shared steps, with a row for each tensor of a step that a device took from the first device's state."""
        return self.run.evidence["shared_steps"].to_pandas()

    @property
    def differences(self) -> pd.DataFrame:
        """The differences, with a row for each pair and step: how large they are, and which quantities differ."""
        # The empty table gives its columns to a result without pairs.
        return pa.concat_tables([DIFFERENCES.empty_table(), *differences_tables(self.judgement)]).to_pandas()

    @property
    def traces(self) -> pd.DataFrame:
        """The traces, with a row for each trial and step: loss, norms, digests, audit errors, step time."""
        import pandas as pd

        return pd.concat([table.to_pandas() for table in self.run.traces.values()], ignore_index=True)

    def __str__(self) -> str:
        """The verdict and its cause in one line of at most 120 characters."""
        return glance.short_line(self.judgement)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """What a notebook shows.

        Source:
            IPython's documentation, "Integrating your objects with IPython", Rich display.
        """
        return notebook.render(self.run, self.judgement, page=self.page)
