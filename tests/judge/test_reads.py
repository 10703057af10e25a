"""How often the judge reads what is stored: each column of each trace at most once."""

from collections import Counter

import pyarrow as pa
import pytest
from synthetic_runs import Planted, make_run, write_run

from parity.judge import columns as judged_columns
from parity.judge import differences_tables, judge
from parity.judge.columns import Columns, _digest_of_lists
from parity.judge.fleet import Fleet
from parity.judge.odd_elements import plan_replays
from parity.judge.trial_trace import TrialTrace
from parity.store import traces
from parity.store.stored_run import read_run

STEPS = 40
DEVICES = [f"cpu@n{number}" for number in range(3)]
ROUNDING = {"output_grad": 7, "param_grad": 7, "param": 7, "loss": 8}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A stored run of two losses on three devices, each trained twice; no replica and no device differs."""
    planted = [
        Planted(loss, device=device, replica=replica, differs=ROUNDING if loss == "mine" else {})
        for device in DEVICES
        for replica in (0, 1)
        for loss in ("builtin", "mine")
    ]
    out = tmp_path_factory.mktemp("reads") / "run"
    write_run(make_run(*planted, steps=STEPS), out)
    return out


@pytest.fixture
def reads(monkeypatch):
    """How often each column of each trial was read from each row group."""
    counts = Counter()
    read = traces.Traces._rows

    def counting(self, record, file, groups, names):
        counts.update((record.trial, name, group) for name in names for group in groups)
        return read(self, record, file, groups, names)

    monkeypatch.setattr(traces.Traces, "_rows", counting)
    return counts


def keep_rows(monkeypatch, count):
    """Limits the rows of traces that stay in memory as whole tables."""
    monkeypatch.setattr(traces, "KEPT_ROWS", count)


# All traces in memory; traces of which a few fit into memory; traces longer than that, which are read by columns.
@pytest.mark.parametrize(("kept_rows", "most"), [(100_000, 0), (2 * STEPS, 1), (STEPS // 4, 1)])
def test_judging_reads_each_column_of_each_trial_at_most_once(monkeypatch, directory, reads, kept_rows, most):
    keep_rows(monkeypatch, kept_rows)
    run = read_run(directory)
    reads.clear()  # reading a run checks that all of it is whole
    fleet = Fleet(run.trials, run.traces)
    assert plan_replays(run, (), fleet) == ()
    judgement = judge(run, fleet=fleet)
    assert judgement.verdict == "rounding"
    assert {verdict.pair.axis for verdict in judgement.pairs} == {"loss", "device", "replica"}
    assert sum(table.num_rows for table in differences_tables(judgement)) == STEPS * len(judgement.pairs)
    # Of the numbers of long traces, row groups are read first, and all of the column where it is asked for.
    again = {"loss", "output_grad_norm", "param_grad_norm", "epoch", "batch"} if kept_rows < STEPS else set()
    assert {name for (_, name, _), count in reads.items() if count > 1} <= again
    assert max((count for (_, name, _), count in reads.items() if name not in again), default=0) == most
    assert max(reads.values(), default=0) <= 2


def test_long_traces_that_do_not_fit_are_read_again_only_where_they_differ(monkeypatch, directory, reads):
    keep_rows(monkeypatch, STEPS // 4)
    monkeypatch.setattr(traces, "KEPT_BYTES", 4 * STEPS * 16 * 8)  # four columns of tensors' digests
    run = read_run(directory)
    reads.clear()
    judge(run)
    again = {name for (_, name, _), count in reads.items() if count > 1}
    assert {"input_digest", "output_digest"}.isdisjoint(again), "equal columns are known by their fingerprints"
    assert max(reads.values()) <= 3


def test_a_trial_alone_on_its_device_is_not_fingerprinted(monkeypatch, reads):
    monkeypatch.setattr(TrialTrace, "signature", lambda self: pytest.fail("read for nothing"))
    assert judge(make_run(Planted(differs={"loss": 3, **ROUNDING}))).verdict == "rounding"


@pytest.mark.parametrize(("most_bytes", "times"), [(10 * STEPS * 8, 3), (10**9, 1)])
def test_columns_that_do_not_fit_are_dropped_and_read_again(monkeypatch, directory, most_bytes, times):
    run = read_run(directory)
    record = run.trials[0]
    asked = []
    monkeypatch.setattr(
        judged_columns, "read_columns", lambda *names: asked.append(names) or traces.read_columns(*names)
    )
    columns = Columns(run.traces, most_bytes=most_bytes)
    for name in ("loss", "step", "loss"):
        assert columns.get(record, name).equals(run.traces[record.trial][name])
    assert len(asked) == times


def test_the_digest_of_lists_is_that_of_their_numbers_and_lengths():
    """However they lie in memory: sliced, or in chunks."""
    whole = pa.array([[1.0, 2.0], [3.0, 4.0], None, [5.0], []], pa.list_(pa.float64()))

    def digest(*chunks):
        return _digest_of_lists(pa.chunked_array(chunks, whole.type))

    assert digest(whole) == digest(whole.slice(0, 2), whole.slice(2))
    assert digest(whole.slice(0, 2)) == digest(pa.array([[1.0, 2.0], [3.0, 4.0]], whole.type))
    assert digest(whole.slice(1, 1)) == digest(pa.array([[3.0, 4.0]], whole.type))
    others = ([[1.0, 2.0], [3.0, -4.0]], [[1.0], [2.0, 3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0], []], [[1.0, 2.0], None])
    digests = {digest(pa.array(other, whole.type)) for other in others}
    assert len(digests) == len(others) and digest(whole.slice(0, 2)) not in digests


def test_a_changed_column_has_another_fingerprint():
    run = make_run(Planted(differs={"param": 39}, tensors=(5,)), steps=40)
    baseline, candidate = Fleet(run.trials, run.traces).traces.values()
    assert not baseline.has_same("input_digest", candidate), "not known before the signatures"
    baseline.signature(), candidate.signature()
    assert baseline.has_same("input_digest", candidate) and baseline.has_same("param_grad_digests", candidate)
    assert not baseline.has_same("param_digests", candidate)
