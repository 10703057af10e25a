"""What trials report is stored as it comes; a trial that begins again leaves nothing of its first attempt."""

import pyarrow as pa
import pytest

from parity.render.progress import TrialProgress
from parity.store.directory import create
from parity.store.events import Advanced, Began, Ended, Found, Restarted, Saved
from parity.store.files import write_json
from parity.store.gather import Gatherer
from parity.store.run_info import describe
from parity.store.stored_run import read_run
from parity.store.trace import DIGESTS
from parity.train.perform import perform


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
    """The events of a trial; each trial is trained once."""
    reported = {}

    def train(trial):
        if trial.name not in reported:
            reported[trial.name] = list(perform(trial, data, None))
        return reported[trial.name]

    return train


def in_one(events):
    """All steps in one event; on a busy machine there are several."""
    found = [event for event in events if isinstance(event, Advanced)]
    facts = {name: value for event in found for name, value in event.facts.items()}
    return Advanced.of(found[0].trial, pa.concat_tables([event.table for event in found]).combine_chunks(), facts)


def chunks(table):
    return [table.slice(start, 2) for start in range(0, len(table), 2)]


def reopened(gatherer, trial, out):
    """The same run, continued by another driver."""
    gatherer.write_tables()
    gatherer.close()
    return Gatherer([trial], out, TrialProgress([trial.name], steps=4, quiet=True))


def test_a_chunk_is_on_storage_before_the_next_is_asked_for(started, events):
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    sizes = []
    for chunk in chunks(advanced.table):
        gatherer.take([Advanced.of(trial.name, chunk, advanced.facts)])
        sizes.append((out / "journal").stat().st_size)
    assert 0 < sizes[0] < sizes[1]
    gatherer.take([Ended(trial.name, status="complete")])
    gatherer.write_tables()
    gatherer.close()
    run = read_run(out)
    assert run.traces[trial.name].equals(advanced.table.combine_chunks())
    assert [path.name for path in (out / "traces").iterdir()] == [run.trials[0].trace]


def test_the_driver_holds_no_chunk_that_is_stored(started, events):
    gatherer, trial, _ = started
    advanced = in_one(events(trial))
    held = []
    for _ in range(20):
        # Memory of its own, so that only the gatherer could keep it.
        table = pa.ipc.open_stream(serialized(advanced.table)).read_all()
        gatherer.take([Advanced.of(trial.name, table, advanced.facts)])
        del table
        held.append(pa.total_allocated_bytes())
    assert max(held[10:]) - held[9] < advanced.table.nbytes
    gatherer.close()


def serialized(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_a_trial_that_begins_again_keeps_nothing_of_its_first_attempt(started, events):
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    row = {"item": "grad", "status": "failed", "reason": "planted"}
    gatherer.take([Began(trial.name, {"host": "first"})])
    gatherer.take([Found(trial.name, "contract", (row,))])
    gatherer.take([Advanced.of(trial.name, chunks(advanced.table)[0], advanced.facts)])
    gatherer.take([Restarted(trial.name, "its worker process died")])
    gatherer.take([Began(trial.name, {"host": "second"})])
    for chunk in chunks(advanced.table):
        gatherer.take([Advanced.of(trial.name, chunk, advanced.facts)])
    gatherer.take([Ended(trial.name, status="complete")])
    gatherer.write_tables()
    gatherer.close()
    run = read_run(out)
    (record,) = run.trials
    assert (record.attempts, record.host, record.status) == (2, "second", "complete")
    assert run.traces[trial.name].equals(advanced.table.combine_chunks())
    assert len(run.evidence["contract"]) == 0


def test_what_an_interrupted_trial_reported_is_kept(started, events):
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    gatherer.take([Advanced.of(trial.name, chunks(advanced.table)[0], advanced.facts)])
    gatherer.write_tables()
    gatherer.close()
    run = read_run(out)
    assert run.trials[0].status == "interrupted"
    assert run.traces[trial.name].equals(chunks(advanced.table)[0].combine_chunks())


def saved(trial, step):
    return Saved(trial.name, step, 1.0, b"state", 1000.0)


def test_another_driver_continues_from_the_state_that_was_saved_last(started, events):
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    first, second = chunks(advanced.table)
    row = {"step": 1, "kind": "planted"}
    gatherer.take([Began(trial.name, {"host": "first"})])
    gatherer.take([Advanced.of(trial.name, first, advanced.facts), saved(trial, 2)])
    gatherer.take([Found(trial.name, "findings", (row,)), Advanced.of(trial.name, second, advanced.facts)])
    gatherer = reopened(gatherer, trial, out)
    gatherer.go_on("the driver was ended")
    position = gatherer.position(trial.name)
    assert (position.step, position.state, position.wall_s, position.began_s) == (2, b"state", 1.0, 1000.0)
    assert position.digests.equals(first.select(DIGESTS).combine_chunks())
    gatherer.take([Began(trial.name, {"host": "second"})])
    gatherer.take([Advanced.of(trial.name, second, advanced.facts)])
    assert not gatherer.void(trial.name)
    gatherer.take([Ended(trial.name, status="complete")])
    assert gatherer.unfinished == []
    gatherer.write_tables()
    gatherer.close()
    run = read_run(out)
    assert run.traces[trial.name].equals(advanced.table.combine_chunks())
    assert len(run.evidence["findings"]) == 0  # found after the state, so it would be found again
    (record,) = run.trials
    assert record.attempts == 2
    assert [reason[20:] for reason in record.restarts] == [" step 2: the driver was ended"]


def changed(table, row):
    """The same steps with another digest in a row."""
    digests = table["param_grad_digest"].to_pylist()
    digests[row] ^= 1
    index = table.schema.get_field_index("param_grad_digest")
    return table.set_column(index, table.schema.field(index), pa.array(digests, pa.uint64()))


def test_a_trial_that_is_not_reproduced_begins_again_and_is_no_longer_saved(started, events):
    """As with a loss that counts its calls in a global variable, which the state does not hold."""
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    first, second = chunks(advanced.table)
    gatherer.take([Advanced.of(trial.name, first, advanced.facts), saved(trial, 2)])
    gatherer.take([Advanced.of(trial.name, second, advanced.facts)])
    gatherer.take([Restarted(trial.name, "its worker process died", 2)])
    gatherer.take([Advanced.of(trial.name, changed(second, 1), advanced.facts)])
    assert gatherer.void(trial.name)
    assert not gatherer.void(trial.name)  # only once
    assert gatherer.position(trial.name) is None
    gatherer = reopened(gatherer, trial, out)
    gatherer.take([Advanced.of(trial.name, first, advanced.facts), saved(trial, 2)])
    gatherer.take([Advanced.of(trial.name, second, advanced.facts), Ended(trial.name, status="complete")])
    assert gatherer.position(trial.name) is None
    gatherer.write_tables()
    gatherer.close()
    run = read_run(out)
    assert run.traces[trial.name].equals(advanced.table.combine_chunks())
    (record,) = run.trials
    assert "step 0: step 3 differs from what it was before" in record.restarts[-1]


def test_a_trial_is_not_continued_in_another_class(started, events):
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    first = chunks(advanced.table)[0]
    gatherer.take([Began(trial.name, {"cpu_model": "a"})])
    gatherer.take([Advanced.of(trial.name, first, advanced.facts), saved(trial, 2)])
    gatherer = reopened(gatherer, trial, out)
    gatherer.take([Began(trial.name, {"cpu_model": "b"})])
    assert gatherer.void(trial.name)
    gatherer.take([Began(trial.name, {"cpu_model": "b"})])
    assert not gatherer.void(trial.name)
    gatherer.take([Advanced.of(trial.name, first, advanced.facts), saved(trial, 2)])
    assert gatherer.position(trial.name).step == 2
    gatherer.write_tables()
    gatherer.close()
    (record,) = read_run(out).trials
    assert record.cpu_model == "b" and "hardware" in record.restarts[0]


@pytest.mark.parametrize(("before", "again"), [("1" * 64, True), ("2" * 64, False), (None, False)])
def test_a_trial_is_not_continued_with_other_code_of_parity(started, events, before, again):
    """An earlier version has not stored its code."""
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    gatherer.take([Began(trial.name, {"cpu_model": "a", "parity_sha256": before})])
    gatherer.take([Advanced.of(trial.name, chunks(advanced.table)[0], advanced.facts), saved(trial, 2)])
    gatherer = reopened(gatherer, trial, out)
    gatherer.take([Began(trial.name, {"cpu_model": "a", "parity_sha256": "2" * 64})])
    assert gatherer.void(trial.name) is again
    gatherer.close()


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda whole: whole[:-1], lambda whole: whole + b"!", lambda whole: whole[:26] + b"!" + whole[27:]],
)
def test_a_trial_whose_state_is_damaged_begins_again(started, events, damage):
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    gatherer.take([Advanced.of(trial.name, chunks(advanced.table)[0], advanced.facts), saved(trial, 2)])
    (state,) = (out / "states").iterdir()
    state.write_bytes(damage(state.read_bytes()))
    gatherer = reopened(gatherer, trial, out)
    assert gatherer.position(trial.name) is None
    assert gatherer.step(trial.name) == 0
    gatherer.write_tables()
    gatherer.close()
    (record,) = read_run(out).trials
    assert f"{state} is damaged" in record.restarts[0]


def test_one_state_of_a_trial_is_kept(started, events):
    gatherer, trial, out = started
    advanced = in_one(events(trial))
    for step, chunk in zip((2, 4), chunks(advanced.table), strict=True):
        gatherer.take([Advanced.of(trial.name, chunk, advanced.facts), saved(trial, step)])
    assert [path.name for path in (out / "states").iterdir()] == ["0000-4.state"]
    gatherer.close()
