"""What trials tell is on storage as it comes; a trial that begins again leaves nothing of its first attempt."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from parity import gather
from parity.events import Advanced, Began, Ended, Found, Restarted
from parity.gather import Gatherer
from parity.inline import perform
from parity.progress import TrialProgress
from parity.run import describe
from parity.store import create, read_run, write_json


@pytest.fixture
def started(make_trials, tmp_path):
    """A gatherer of one short trial, and the trial."""
    (trial,) = make_trials(steps=4, audit_every=0)
    out = tmp_path / "run"
    create(out)
    write_json(out / "run.json", describe("test", [trial], data=None))
    return Gatherer([trial], out, TrialProgress([trial.name], steps=4, quiet=True)), trial, out


@pytest.fixture(scope="module")
def events(data):
    """What a trial tells, by name of the trial."""
    told = {}

    def tell(trial):
        if trial.name not in told:
            told[trial.name] = list(perform(trial, data, None))
        return told[trial.name]

    return tell


def chunks(table):
    return [table.slice(start, 2) for start in range(0, len(table), 2)]


def test_a_chunk_is_on_storage_before_the_next_is_asked_for(started, events):
    gatherer, trial, out = started
    (advanced,) = [event for event in events(trial) if isinstance(event, Advanced)]
    sizes = []
    for chunk in chunks(advanced.table):
        gatherer.take(Advanced(trial.name, chunk, advanced.facts))
        sizes.append(sum(path.stat().st_size for path in (out / "traces").iterdir()))
    assert 0 < sizes[0] < sizes[1]
    gatherer.take(Ended(trial.name, status="complete"))
    gatherer.close()
    run = read_run(out)
    assert run.traces[trial.name].equals(advanced.table.combine_chunks())
    assert [path.name for path in (out / "traces").iterdir()] == [run.trials[0].trace]


def test_the_driver_holds_no_chunk_that_is_stored(started, events):
    gatherer, trial, _ = started
    (advanced,) = [event for event in events(trial) if isinstance(event, Advanced)]
    held = []
    for _ in range(20):
        # Memory of its own, so that only the gatherer could keep it.
        table = pa.ipc.open_stream(serialized(advanced.table)).read_all()
        gatherer.take(Advanced(trial.name, table, advanced.facts))
        del table
        held.append(pa.total_allocated_bytes())
    assert max(held[10:]) - held[9] < advanced.table.nbytes


def serialized(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_a_trial_that_begins_again_keeps_nothing_of_its_first_attempt(started, events):
    gatherer, trial, out = started
    (advanced,) = [event for event in events(trial) if isinstance(event, Advanced)]
    row = {"item": "grad", "status": "failed", "reason": "planted"}
    gatherer.take(Began(trial.name, {"host": "first"}))
    gatherer.take(Found(trial.name, "contract", (row,)))
    gatherer.take(Advanced(trial.name, chunks(advanced.table)[0], advanced.facts))
    gatherer.take(Restarted(trial.name, "its worker process died"))
    gatherer.take(Began(trial.name, {"host": "second"}))
    for chunk in chunks(advanced.table):
        gatherer.take(Advanced(trial.name, chunk, advanced.facts))
    gatherer.take(Ended(trial.name, status="complete"))
    gatherer.close()
    run = read_run(out)
    (record,) = run.trials
    assert (record.attempts, record.host, record.status) == (2, "second", "complete")
    assert run.traces[trial.name].equals(advanced.table.combine_chunks())
    assert len(run.evidence["contract"]) == 0


def test_what_an_interrupted_trial_told_is_kept(started, events):
    gatherer, trial, out = started
    (advanced,) = [event for event in events(trial) if isinstance(event, Advanced)]
    gatherer.take(Advanced(trial.name, chunks(advanced.table)[0], advanced.facts))
    gatherer.close()
    run = read_run(out)
    assert run.trials[0].status == "interrupted"
    assert run.traces[trial.name].equals(chunks(advanced.table)[0].combine_chunks())


def test_records_are_written_now_and_then_not_at_each_end(make_trials, tmp_path, monkeypatch):
    trials = make_trials(steps=4, replicas=50)
    create(tmp_path / "run")
    written = []
    monkeypatch.setattr(gather, "write_trials", lambda out, records: written.append(len(records)))
    clock = iter(range(10**6))
    # A writing takes 1 s, and so does an end.
    monkeypatch.setattr(gather, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    gatherer = Gatherer(trials, tmp_path / "run", TrialProgress([t.name for t in trials], steps=4, quiet=True))
    monkeypatch.setattr(gather, "WRITE_SHARE", 10.0)
    for trial in trials:
        gatherer.take(Ended(trial.name, status="failed"))
    assert written == [50] * 5  # at the start, and then at each 11th end
