"""A seat imports torch once and forks a process for each trial: none meets another's changes, and each end is known.

What a process of its own is asked of has one, with `cold`; the others are forks of the server of tests/warm.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import psutil
import pyarrow as pa
import pytest

from parity.cluster import last_words
from parity.ground.errors import Trouble
from parity.plan.device import environment, parse_devices
from parity.store.events import Advanced, Began, Ended
from parity.train import seat as seat_code
from parity.train.perform import perform
from parity.train.seat import FORKS, ProcessEnded, Seat
from parity.train.shared_arrays import map_arrays, write_arrays
from parity.train.warm import Forked, warm_process

from conftest import ROOT, own_environment

LOSSES = "tests/train/seat_losses.py"
pytestmark = pytest.mark.skipif(not FORKS, reason="on this system a process that has imported torch should not fork")


@pytest.fixture
def cold(monkeypatch):
    """Has what a test starts import torch by itself, as everywhere but in the tests."""
    monkeypatch.delenv("PARITY_WARM", raising=False)


@contextmanager
def trial_environment():
    """The environment of a worker for trials on one thread, without what pytest says in it to each test."""
    with own_environment():
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        os.environ.update(environment(*parse_devices(["cpu"])))
        yield


# Begins the program of a seat: writes to a file, as JSON, what its imports have done beside importing.
REPORTING_IMPORTS = """
import json, os, sys
sys.path[:] = sys.argv[4:]
import torch
from parity.train import seat_process

def import_training(genuine=seat_process.import_training, count=torch._C._cuda_getDeviceCount):
    asked = []
    torch._C._cuda_getDeviceCount = lambda: asked.append("CUDA") or 0
    genuine()
    torch._C._cuda_getDeviceCount = count
    fresh = torch.Generator()
    fresh.manual_seed(torch.default_generator.initial_seed())
    facts = {
        "asked": asked,
        "cuda": torch.cuda.is_initialized(),
        "undrawn": torch.equal(torch.get_rng_state(), fresh.get_state()),
        "threads": [open(f"/proc/self/task/{each}/comm").read().strip() for each in os.listdir("/proc/self/task")],
    }
    with open(FILE, "w") as file:
        json.dump(facts, file)

seat_process.import_training = import_training
"""


@pytest.fixture(scope="module")
def import_facts(tmp_path_factory):
    """The file in which a seat writes what its imports have done beside importing."""
    return tmp_path_factory.mktemp("seat") / "imports.json"


@pytest.fixture(scope="module")
def seats():
    """Those that have been made."""
    seats = []
    yield seats
    for each in seats:
        each.close()


@pytest.fixture
def seat(seats, import_facts, data):
    """One for all tests, until one kills its process: what is planted in one of them must not be seen by the next."""
    if not seats or seats[-1]._process.poll() is not None:
        seats.append(Seat(data))
        with trial_environment(), pytest.MonkeyPatch.context() as patch:
            patch.delenv("PARITY_WARM", raising=False)
            patch.setattr(
                seat_code,
                "_PROGRAM",
                f"{REPORTING_IMPORTS.replace('FILE', repr(str(import_facts)))}\n{seat_code._PROGRAM}",
            )
            seats[-1]._launch()
    return seats[-1]


@pytest.fixture
def trial_of(make_trials):
    """The trial of one of the planted losses."""

    def make(loss, **options):
        spec = loss if loss in ("builtin", "numpy") else f"{LOSSES}:{loss}"
        # The baseline comes first in a plan, and gets no contract.
        return make_trials(spec, **options)[0]

    return make


def train(seat, trial):
    """The events of a trial."""
    seat.start(trial, None, None)
    events = [seat.advance()]
    while not isinstance(events[-1], Ended):
        events.append(seat.advance())
    return events


def said(seat, trial):
    """The words of the error that the trial's loss raised."""
    return train(seat, trial)[-1].error.partition("ValueError: ")[2].split()


def rows(events):
    table = pa.concat_tables(event.table for event in events if isinstance(event, Advanced))
    return table.drop_columns(["step_s"])


def process_of(seat):
    return psutil.Process(seat._process.pid)


def until_gone(*pids, limit_s=20):
    end = time.monotonic() + limit_s
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < end, f"{pids}: still there"
        time.sleep(0.05)


def test_the_trace_is_that_of_a_plain_call(seat, trial_of, data):
    (trial,) = [trial_of("numpy", steps=8)]
    assert rows(train(seat, trial)).equals(rows(perform(trial, data)))


def test_a_seat_computes_nothing_draws_nothing_and_leaves_cuda_alone(seat, trial_of, import_facts):
    said(seat, trial_of("reporting"))  # by then it has imported all
    found = json.loads(import_facts.read_text())
    assert (found["asked"], found["cuda"], found["undrawn"]) == ([], False, True)
    # jemalloc, which pyarrow brings, stops its thread for a fork and starts it again in both processes.
    assert len([name for name in found["threads"] if name != "jemalloc_bg_thd"]) == 1


def test_each_trial_has_a_process_of_its_own_and_all_have_one_parent_which_has_imported_torch(seat, trial_of):
    first, second = (said(seat, trial_of("reporting")) for _ in range(2))
    assert first[0] != second[0]
    assert first[1] == second[1] == str(seat._process.pid)
    assert any("libtorch" in each.path for each in process_of(seat).memory_maps())


def test_generators_and_signals_are_those_of_a_new_process(seat, trial_of):
    first, second = (said(seat, trial_of("reporting")) for _ in range(2))
    assert first[2] != second[2] and first[3] != second[3]
    assert first[4:] == second[4:] == ["True", "True"]


def test_what_a_loss_changes_does_not_reach_the_next_trial(seat, trial_of):
    before = rows(train(seat, trial_of("builtin")))
    assert said(seat, trial_of("polluting")) == ["polluted"]
    assert said(seat, trial_of("unpolluted")) == ["False", "torch.float32", "False"]
    assert rows(train(seat, trial_of("builtin"))).equals(before)


ENDS = {
    "crashing": "SIGSEGV",
    "terminated": "SIGTERM",
    "killed": None,
    "stopping": "exit code 1, after Stopped: the licence of this kernel has expired",
    "leaving": "exit code 3",
    "leaving_in_c": "exit code 4",
    "leaving_as_if_all_were_well": "exit code 0",
}


@pytest.mark.kills
@pytest.mark.parametrize(("loss", "how"), ENDS.items(), ids=ENDS)
def test_how_a_trial_ended_its_process_is_known_and_ends_no_other_trial(seat, trial_of, loss, how):
    with pytest.raises(ProcessEnded) as ended:
        train(seat, trial_of(loss))
    assert ended.value.how == how
    assert train(seat, trial_of("right"))[-1].status == "complete"
    assert process_of(seat).children() == []


@pytest.mark.kills
def test_a_process_that_a_loss_leaves_behind_ends_with_its_trial(seat, trial_of):
    (left,) = said(seat, trial_of("leaving_a_process_behind"))
    assert not psutil.pid_exists(int(left))


def test_what_a_trial_raises_reaches_the_caller_with_its_traceback(seat, trial_of):
    with pytest.raises(Trouble, match="sees no mps on this machine") as trouble:
        train(seat, trial_of("right", device="mps"))
    assert "in require" in str(trouble.value.__cause__)


def test_a_node_without_torch_says_so(trial_of, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: cannot open shared object file')")
    trial = trial_of("right")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    seat = Seat({})
    for _ in range(2):
        with pytest.raises(OSError, match="libtorch") as error:
            train(seat, trial)
        assert "import torch" in str(error.value.__cause__)
    seat.close()


ABANDONED = """
import os, sys, time
from parity.cluster import worker
from parity.plan.device import environment, parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task
from parity.tasks import mnist
from parity.train import seat
from parity.train.warm import Warm

loss, how, warm = sys.argv[1:]
settings = make_settings(
    task=parse_task("mnist-autoencoder"), rows=60_000, batch_size=256, epochs=1, steps=3, lr=1e-3, audit_every=0
)
devices = parse_devices(["cpu"])
(trial,) = plan(parse_losses([loss], shipped=SHIPPED_LOSSES), devices, seeds=[0], replicas=1, settings=settings)
worker.this_node = lambda: "here"
worker.Seat = lambda data, warm: seat.Seat(data, forks=how != "spawns", warm=warm)
it = worker.Worker(environment(devices[0]), [Warm(*eval(warm))] if warm else [])
print(*it.start(trial, mnist.load(), None, None), flush=True)
it.advance()
print(type(it._seat._process).__name__, flush=True)
while True:
    it.advance()
"""


@pytest.fixture
def warm(tmp_path):
    """A warm process for trials on one thread."""
    with ExitStack() as stack:
        with trial_environment():
            started = stack.enter_context(warm_process(tmp_path / "warm", {}))
        yield started


@pytest.fixture
def worker(tmp_path, request):
    """Starts a worker with a loss, as a process of its own, without Ray; its log is the file."""
    started = []

    def start(loss, how):
        log = tmp_path / "log"
        warm = request.getfixturevalue("warm") if how == "warm" else None
        given = repr((warm.path, warm.environment, warm.pid)) if warm else ""
        with log.open("wb") as stderr, trial_environment():
            process = subprocess.Popen(
                [sys.executable, "-c", ABANDONED, f"{LOSSES}:{loss}", how, given],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        started.append(process)
        assert process.stdout.readline() == f"here {log}\n"
        return process, log

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.kills
@pytest.mark.parametrize("how", ["forks", "spawns"])
@pytest.mark.usefixtures("cold")
def test_nothing_outlives_a_worker_that_is_killed(worker, how):
    process, _ = worker("hanging", how)
    assert process.stdout.readline() == "Popen\n"
    left = psutil.Process(process.pid).children(recursive=True)
    assert len(left) == (1 if how == "spawns" else 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until_gone(*(each.pid for each in left))


@pytest.mark.kills
def test_no_seat_of_a_warm_process_outlives_a_worker_that_is_killed(worker, _warm):
    process, _ = worker("hanging", "warm")
    assert process.stdout.readline() == "Forked\n"
    # The warm process, which is the server's child here, lives as long.
    (parent,) = _warm[0].children()
    left = parent.children(recursive=True)
    assert len(left) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    until_gone(*(each.pid for each in left))


@pytest.mark.kills
@pytest.mark.parametrize("how", ["forks", "spawns", "warm"])
def test_a_worker_ends_with_its_trial_and_notes_how_that_ended(worker, how):
    process, log = worker("crashing", how)
    assert process.wait(timeout=120) == -signal.SIGKILL
    assert last_words.look_up(str(log)) == "SIGSEGV"
    assert "Fatal Python error: Segmentation fault" in log.read_text()


@pytest.mark.kills
def test_a_trial_ends_with_the_warm_process_and_the_next_seat_does_without(tmp_path, trial_of, data):
    """The system kills its seats with it."""
    trial = trial_of("hanging")
    with trial_environment(), warm_process(tmp_path / "warm", environment(trial.device)) as started:
        one = Seat(data, warm=[started])
        one.start(trial, None, None)
        assert isinstance(one.advance(), Began)
        assert isinstance(one._process, Forked)
        psutil.Process(started.pid).kill()
        with pytest.raises(ProcessEnded) as ended:
            one.advance()
        assert ended.value.how is None
        one.close()
        another = Seat(data, warm=[started])
        another.start(trial_of("builtin"), None, None)
        assert isinstance(another._process, subprocess.Popen) and isinstance(another.advance(), Began)
        another.close()


def test_a_seat_with_another_environment_does_not_use_the_warm_process(warm):
    with trial_environment():
        os.environ.update(RAY_JOB_ID="1", PYTHONBREAKPOINT="ray.util.rpdb.set_trace")  # as Ray does in a worker
        assert warm.fits()
        for name in ("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ANYTHING"):
            with trial_environment():
                os.environ[name] = "2"
                assert not warm.fits()


def test_each_warm_process_has_one_seat(trial_of, data, tmp_path):
    with ExitStack() as stack, trial_environment():
        warm = [stack.enter_context(warm_process(tmp_path / f"warm-{each}", {})) for each in range(2)]
        seats = [Seat(data, warm=warm) for _ in range(3)]
        said = [train(each, trial_of("unpolluted"))[-1].error for each in seats]
        assert [isinstance(each._process, Forked) for each in seats] == [True, True, False]
        for each in seats:
            each.close()
    assert len(set(said)) == 1 and "torch.float32" in said[0]


HASH = """
def hash_of_a_text(output, target):
    raise RuntimeError(f"hash {hash('text')} of a text")
"""


@pytest.mark.usefixtures("cold")
def test_the_seats_of_a_machine_hash_texts_differently_and_leave_the_same_traces(
    seat, warm, trial_of, make_trials, data, tmp_path
):
    """As without warm processes: a loss that depends on the order of a set is seen where replicas disagree."""
    (tmp_path / "mine.py").write_text(HASH)
    trial = make_trials(f"{tmp_path / 'mine.py'}:hash_of_a_text")[0]
    errors, tables = [], []
    with trial_environment():
        of_warm = Seat(data, warm=[warm])
        for each in (of_warm, seat):
            errors.append(train(each, trial)[-1].error)
            tables.append(rows(train(each, trial_of("numpy"))))
        assert [isinstance(each._process, Forked) for each in (of_warm, seat)] == [True, False]
        of_warm.close()
    assert len(set(errors)) == 2 and all("of a text" in error for error in errors)
    assert tables[0].equals(tables[1]) and len(tables[0]) == 3


TELLS = """
import os, sys

def tells(output, target):
    raise RuntimeError(f"{os.environ['RAY_TOLD']}, {os.getcwd()}, {'/told' in sys.path}")
"""


def test_a_fork_of_a_warm_process_has_the_environment_the_folder_and_the_import_path_of_the_one_that_asks(
    warm, make_trials, data, tmp_path, monkeypatch
):
    (tmp_path / "mine.py").write_text(TELLS)
    trial = make_trials(f"{tmp_path / 'mine.py'}:tells")[0]
    with trial_environment():
        # Since the warm process was started; what begins with RAY_ may differ.
        monkeypatch.setenv("RAY_TOLD", "this one")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path, "/told"])
        own = Seat(data, warm=[warm])
        (*_, ended) = train(own, trial)
        assert isinstance(own._process, Forked)
        own.close()
    assert f"this one, {tmp_path}, True" in ended.error


@pytest.mark.kills
def test_a_seat_whose_process_was_killed_says_so(seat, trial_of):
    trial = trial_of("hanging")
    seat.start(trial, None, None)
    seat.advance()  # it has begun
    (child,) = process_of(seat).children()
    process_of(seat).kill()
    with pytest.raises(ProcessEnded) as ended:
        seat.advance()
    assert ended.value.how is None
    until_gone(child.pid)
    with pytest.raises(ProcessEnded):
        seat.start(trial, None, None)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"empty": np.zeros((0, 3), np.float32)},
        {"rows": np.arange(6, dtype=np.uint8), "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
        {"rows": np.arange(3), "empty": np.zeros(0), "flags": np.array([True]), "words": np.array(["a", "bc"])},
        {"days": np.array(["2026-11-26"], "M8[D]"), "pairs": np.zeros(2, [("a", "i4"), ("b", "f8")])},
    ],
    ids=["none", "empty", "both orders", "an empty one among others", "other dtypes"],
)
def test_arrays_are_mapped_as_they_were_written(arrays):
    file, layout = write_arrays(arrays)
    found = map_arrays(file, layout)
    os.close(file)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        if array.size:
            assert found[name].strides == array.strides
            assert not found[name].flags.writeable


def test_arrays_of_objects_and_of_another_order_arrive():
    arrays = {"texts": np.array(["a", None], object), "turned": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2)[::-1]}
    file, layout = write_arrays(arrays)
    found = map_arrays(file, layout)
    os.close(file)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
