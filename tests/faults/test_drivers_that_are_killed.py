"""The driver, killed at each of its writings: --resume gives the traces of a run that nothing befell.

A killing is played in this process, since starting one takes seconds and there are many places: from the chosen writing
on every writing fails, those of clearing up as well. One test kills a real process.
"""

import contextlib
import math
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from upath import UPath

from parity import driver as flow
from parity import measuring, run
from parity.store import files as store_files
from parity.store import gather, journal, parquet, states, storage
from parity.store.storage import name_beside
from parity.store.tables import EVIDENCE
from parity.store.trace_files import TraceWriter
from parity.train import perform
from parity.train.loop import train

from conftest import QUICK, ROOT, bits

pytestmark = [pytest.mark.kills, pytest.mark.slow]
# A small model, since many of these runs are trained.
TASK = ["--task", "tests/audited_tasks.py:Plain", "--loss", "builtin", "tests/audited_tasks.py:squares"]
RUN = [*QUICK, *TASK, "--steps", "8", "--audit-every", "5", "--save-every", "1e-9"]
# What writes, in the order of a run: where it is looked up, and its name.
WRITINGS = [
    # run.json, states, tables, verdicts: beside, then in place
    (store_files, "write_bytes"),
    (parquet, "write_bytes"),
    (states, "write_bytes"),
    (journal.Journal, "add"),
    (journal.Journal, "sync"),
    (gather, "remove_state"),
    (TraceWriter, "append"),
    (TraceWriter, "close"),
    (flow, "write_tables"),
    (flow, "forget_journal"),
    (flow, "judge"),
    (measuring, "print_report"),
]


class Killed(BaseException):
    """In the place of SIGKILL."""


class Driver:
    """A driver that is killed at a writing.

    Attributes:
        at: Number of that writing, from 1; 0 is never.
        done: The writings that it did, each with its kind.
    """

    def __init__(self, patch):
        self.at, self.done = 0, []
        self._journals = []
        self._torn = None
        for owner, name in WRITINGS:
            patch.setattr(owner, name, self._mortal(getattr(owner, name), owner, name))
        genuine = journal.Journal.__init__
        patch.setattr(
            journal.Journal, "__init__", lambda this, path: (self._journals.append(this), genuine(this, path))[0]
        )

    def run(self, *arguments, at=0):
        """Runs the command; returns its status, None if it was killed."""
        self.at, self.done = at, []
        try:
            status = run.main(list(map(str, arguments)))
            # The command makes a status and a message of what it does not know, which a killed one cannot.
            return None if at and len(self.done) >= at else status
        finally:
            for each in self._journals:
                with contextlib.suppress(AttributeError):  # it could not be opened
                    each.close()
            self._journals.clear()

    def _mortal(self, genuine, owner, name):
        def writing(*arguments, **options):
            self.done.append((owner, name))
            if self.at and len(self.done) == self.at:
                self._tear(name, arguments)
            if self.at and len(self.done) >= self.at:
                raise Killed
            return genuine(*arguments, **options)

        return writing

    def _tear(self, name, arguments):
        """Leaves half of what was to be written, as a kill in the midst of it may."""
        if name == "write_bytes":
            path, content = arguments
            if isinstance(path, Path):  # an object is there once all of it has come
                name_beside(path).write_bytes(bytes(content)[: len(content) // 2])
        if name == "add":
            this, event = arguments
            frame = journal.frame(journal.encode(event))
            this._file.seek(this._end)
            this._file.write(frame[: len(frame) // 2])


@pytest.fixture(scope="module")
def driver():
    """Of runs whose trials are saved each 4 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train.__kwdefaults__, "chunk_steps", 4)
        # A busy machine makes chunks of fewer steps otherwise, and so more writings.
        patch.setitem(train.__kwdefaults__, "chunk_s", math.inf)
        patch.setattr(perform, "SAVE_SHARE", 0.0)
        # A slow contract reports in parts, and a run that does not would have other writings.
        patch.setattr(perform, "CONTRACT_LINE_S", math.inf)
        patch.chdir(ROOT)
        yield Driver(patch)


@pytest.fixture(scope="module")
def undisturbed(driver, tmp_path_factory):
    """Such a run's directory, and the kinds of what its driver writes."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert driver.run(*RUN, "--out", out) == 0
    return out, driver.done


def files(out):
    return storage.find(out, "")


def test_the_run_has_writings_of_every_kind(undisturbed):
    assert set(undisturbed[1]) == set(WRITINGS) and len(undisturbed[1]) > 50


def chosen(done, *shares):
    """Numbers of the writings, from 1, that are at these shares of those of their kind; each kind has one at least.

    benchmarks/faults.py kills wherever it may be.
    """
    numbers = {kind: [at for at, each in enumerate(done, 1) if each == kind] for kind in done}
    return sorted({places[int(share * (len(places) - 1))] for places in numbers.values() for share in shares})


@pytest.mark.parametrize("place", ["disk", "store"])
def test_wherever_it_is_killed_the_bits_are_those_of_an_undisturbed_run(driver, undisturbed, tmp_path, capsys, place):
    whole, done = undisturbed
    folder = tmp_path if place == "disk" else UPath(f"memory://{tmp_path.name}")
    if place == "store":
        # It takes a few writings less: an object is there at once, and needs no second one.
        assert driver.run(*RUN, "--out", folder / "whole") == 0
        assert files(folder / "whole") == files(whole) and len(driver.done) <= len(done)
        done = driver.done
    for at in chosen(done, 0, 1) if place == "disk" else chosen(done, 0.5):
        out = folder / f"{at}"
        assert driver.run(*RUN, "--out", out, at=at) is None
        how = ["--resume", out] if (out / "run.json").exists() else [*RUN, "--out", out]
        if at % 3 == 0 and driver.run(*how, at=2 + at % 7) is None:  # and once more while it goes on
            how = ["--resume", out] if (out / "run.json").exists() else how
        capsys.readouterr()
        assert driver.run(*how) == 0, (at, capsys.readouterr().err)
        pd.testing.assert_frame_equal(bits(out), bits(whole), check_exact=True)
        assert files(out) == files(whole), at
        for name in EVIDENCE:
            pd.testing.assert_frame_equal(
                pd.read_parquet(str(out / f"{name}.parquet")),
                pd.read_parquet(whole / f"{name}.parquet"),
                check_exact=True,
            )


def test_a_process_that_is_killed_while_it_trains(tmp_path, driver_process):
    """With SIGKILL, and what it had sent by then is not trained again."""
    runs = [tmp_path / "killed", tmp_path / "undisturbed"]
    arguments = ["--inline", "--device", "cpu", "--batch-size", "64", "--steps", "240", "--save-every", "0.1"]
    with driver_process(*arguments, "--out", runs[0]) as (waiting, process):
        end, known = time.monotonic() + 60, 0
        journal_file = runs[0] / journal.JOURNAL
        while not known or journal_file.stat().st_size == known:  # what is written behind a state makes it count
            assert waiting.poll() is None and time.monotonic() < end
            known = known or (any(runs[0].glob("states/[0-9]*")) and journal_file.stat().st_size)
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert waiting.returncode == -signal.SIGKILL
    assert run.main(["--resume", os.fspath(runs[0])]) == 0
    assert run.main([*arguments, "--out", os.fspath(runs[1])]) == 0
    pd.testing.assert_frame_equal(bits(runs[0]), bits(runs[1]), check_exact=True)
    (restart,) = pd.read_parquet(runs[0] / "trials.parquet")["restarts"][0]
    assert " step 0:" not in restart and "the driver was ended" in restart
