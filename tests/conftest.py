"""What several tests share."""

import compileall
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import warm_footers
from filelock import FileLock, Timeout

from benchmarks.hosts import why_not
from parity import run
from parity.ground.temporary import LOCK, PREFIX
from parity.plan import neighbours
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task
from parity.store import footer_probe
from parity.store.events import Advanced
from parity.store.journal import JOURNAL, Journal
from parity.tasks import mnist
from parity.train.seat import FORKS

from cluster_process import cluster_process

ROOT = Path(__file__).parent.parent
TESTS = "tests"
WARM = ROOT / TESTS / "warm"
# Options of runs of which many are trained: in this process, with small batches.
QUICK = ["--inline", "--device", "cpu", "--batch-size", "64"]
# In the environment of all that a module starts.
MARK = "PARITY_TESTS"
# In the environment of a program that is forked from the process that imported torch; it has one thread, as the device
# `cpu` has.
WARM_PROGRAM = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PARITY_WARM_PROGRAM": "1"}
# Variable with the address of the servers of the whole suite, which is empty or unset where it runs in one process.
OF_ALL = "PARITY_TESTS_WARM"
# OpenMP threads that wait for each other sleep instead of spinning. On two busy cores, 20 steps on two threads took
# 10 s of processor time instead of 28, with the same bits. OpenMP reads it when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# What other packages have registered with hypothesis takes half a second to import, and nothing here draws from it.
os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")
# Fixtures that start Ray: tests that use them get the mark `ray`.
STARTS_RAY = {"head", "nodes", "on_two_gpus", "ray_run", "running", "stranger"}
# Most processes of the suite: each may start a Ray cluster, which needs about 2 GB of memory.
MOST_WORKERS = 4
# More than there are cores, since a test that waits for a cluster, or for a limit of time, leaves its core idle.
WORKERS_BESIDE = 1
# Nothing that the collection makes is garbage, and each look for some went through all that was imported, for 0.6 s.
gc.disable()
# A shell's background job ignores Ctrl-C, and all that is started here would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Ray's own processes end themselves once their driver is gone.
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str


def command(*arguments, timeout_s=240, **environment):
    """Runs `python ARGUMENTS` in the project's folder."""
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    return Finished(ended.returncode, ended.stdout, ended.stderr)


def parity_command(module, *arguments, **environment):
    """Runs `python -m MODULE ARGUMENTS`, a command of parity that nobody interrupts; see tests/warm."""
    return command("-m", module, *arguments, PARITY_WARM_COMMAND="1", **environment)


def warm_command(*arguments, **environment):
    """Runs `python -c PROGRAM` or `python -m MODULE` as `command` does, forked from the process that imported torch.

    For a test of what the program does: not of its imports, nor of what happens at them. It has one thread.
    """
    return command(*arguments, **WARM_PROGRAM, **environment)


@contextmanager
def own_environment():
    """Takes back what an inline run sets for the whole process."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def own_imports():
    """Takes back what loading a user's code leaves in this process: folders to import from, and modules in them."""
    path, added, modules = [*sys.path], {*neighbours.ADDED}, {*sys.modules}
    try:
        yield
    finally:
        sys.path[:] = path
        neighbours.ADDED.intersection_update(added)
        for name in sys.modules.keys() - modules:
            file = Path(getattr(sys.modules[name], "__file__", None) or ROOT)
            if not (file.is_relative_to(ROOT) or neighbours.in_environment(file)):
                del sys.modules[name]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Number of processes for the `-n auto` of pyproject.toml: only the whole suite is spread over several."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min((os.cpu_count() or 1) + WORKERS_BESIDE, MOST_WORKERS)


def pytest_runtest_setup():
    """Torch begins each test with one thread, as a trial has: their number changes the bits, and cores are few."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def pytest_configure(config):
    """Compiles parity: each process of a test would do so for up to 0.2 s, where PYTHONDONTWRITEBYTECODE is set.

    And starts the servers of which the suite's processes fork theirs.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for folder in ("parity", "jobs", "benchmarks"):
            compileall.compile_dir(ROOT / folder, quiet=2)
        if FORKS and config.getoption("tx", None):
            stack = ExitStack()
            config.add_cleanup(stack.close)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True))
            stack.enter_context(warm_servers(f"{folder}/warm"))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv(OF_ALL, f"{folder}/warm")


def pytest_collection_finish(session):
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)  # of what a test makes, little is garbage that only a look finds
    gc.enable()


def pytest_collection_modifyitems(items):
    """Moves the longest modules to the front, so that no process is left alone with one of them at the end.

    Behind those that are marked come the others by the sizes of their files, which are a fair guess at their seconds.
    """
    for item in items:
        if STARTS_RAY & set(item.fixturenames):
            item.add_marker("ray")
    long = {item.path for item in items if any(map(item.get_closest_marker, ("ray", "slow", "kills")))}
    sizes = {path: path.stat().st_size for path in {item.path for item in items}}
    items.sort(key=lambda item: (item.path not in long, -sizes[item.path]))


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory):
    """Gives this process a temporary folder of its own, so that whatever is left in it was left by its tests.

    Its name is short, since the paths of Ray's sockets must fit into 107 bytes.
    """
    tmp_path_factory.getbasetemp()  # stays in the usual place, where pytest keeps the last three
    with (
        tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk():
    """Lets the system write files when it likes, since no test cuts the power; each wait took 3 ms."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda descriptor: None, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _warm(_own_temporary_folder):
    """Runs the processes of seats as forks of one that has imported torch, and Ray's workers as forks of another.

    Each seat that a test starts would import torch for 3 to 5 seconds of a core. See tests/warm. Yields both.
    """
    if not FORKS:
        yield []
        return
    address = f"{tempfile.gettempdir()}/warm"
    paths = [str(WARM), *filter(None, [os.environ.get("PYTHONPATH")])]
    with warm_servers(address) as servers, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARITY_WARM", address)
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        yield servers


@contextmanager
def warm_servers(address):
    """The servers of tests/warm at an address: forks of those of the whole suite, where it runs in several processes.

    They are killed at the end.
    """
    paths = os.pathsep.join([str(WARM), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    of_all = os.environ.get(OF_ALL, "")
    own = os.environ | {"PYTHONPATH": paths, "PARITY_WARM": of_all}
    parent = "parent" if of_all else str(os.getpid())
    with ExitStack() as stack:
        started = []
        for at, more in ((address, WARM_PROGRAM), (f"{address}.ray", {"PARITY_WARM_COMMAND": "1"})):
            line = [sys.executable, WARM / "server.py", at, parent]
            started.append(stack.enter_context(subprocess.Popen(line, env=own | more)))
            stack.callback(started[-1].kill)
        # Else the first process would do without them.
        listening = (address, f"{address}.ray")
        while not all(map(os.path.exists, listening)) and all(each.poll() is None for each in started):
            time.sleep(0.01)
        yield [*map(listening_at, listening)]


def listening_at(address):
    """The process that listens at a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return psutil.Process(int.from_bytes(peer[:4], sys.byteorder))


@pytest.fixture
def driver_process(_warm):
    """Starts `python -m parity.run` as `warm_command` does; yields what waits for it, and the process itself.

    Signals are for the latter: the former ends as that does.
    """

    @contextmanager
    def start(*arguments):
        line = [sys.executable, "-m", "parity.run", *map(str, arguments)]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            line, cwd=ROOT, env=os.environ | WARM_PROGRAM, stdout=pipe, stderr=pipe, text=True
        ) as waiting:
            while _warm and not (found := writing_to(waiting.stdout, _warm[0].children())) and waiting.poll() is None:
                time.sleep(0.01)
            yield waiting, found[0] if _warm else psutil.Process(waiting.pid)

    return start


def writing_to(pipe, processes):
    """Those of the processes whose stdout is a pipe; not what a server starts and ends while it imports torch."""
    name, found = os.readlink(f"/proc/self/fd/{pipe.fileno()}"), []  # noqa: PTH115 - not a path
    for each in processes:
        with suppress(OSError):  # it has ended
            if os.readlink(f"/proc/{each.pid}/fd/1") == name:  # noqa: PTH115
                found.append(each)
    return found


@pytest.fixture(scope="session", autouse=True)
def _warm_footers(_warm):
    """Forks the processes that read the footers of changed files, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(footer_probe, "subprocess", SimpleNamespace(run=warm_footers.run))
        yield


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left(_own_temporary_folder, _warm):
    """After each module: no process that it started, whoever is its parent, and no folder of a cluster that is gone."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    before = abandoned()
    # The fixtures of the module may have set for the process what a process that is passed on would then differ in.
    with own_environment(), own_imports():
        yield
    del os.environ[MARK]
    end = time.monotonic() + PATIENCE_S
    while (left := [*marked(mark), *children(_warm)]) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left
    assert abandoned() - before == set()


@pytest.fixture(scope="session")
def _no_hosts():
    """For what a simulated cluster shows, too, where tests/hosts cannot show it on hosts that are really apart."""
    if why_not() is None:
        pytest.skip("tests/hosts has it on hosts that are really apart")


def abandoned():
    """Temporary folders of drivers that have ended; those of others that run now are held."""
    found = set()
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(Timeout, FileNotFoundError), FileLock(lock, timeout=0):
            found.add(lock.parent)
    return found


def marked(mark):
    """The command lines of the processes that have the mark, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append((process.pid, " ".join(process.cmdline())[:200]))
        except psutil.Error:  # it has ended, is a zombie, or is somebody else's
            continue
    return found


def children(warm):
    """The processes that were forked for those of this module, and do not have its mark."""
    return [child for server in warm for child in server.children(recursive=True)]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)
    with own_environment(), own_imports():
        yield


@pytest.fixture(scope="session")
def data():
    return mnist.load()


@pytest.fixture
def few_images(monkeypatch, data):
    """Has runs read 12 batches of 256 images, of which the last one has 96, as the last of all 60,000 images has."""
    few = {name: values[: 11 * 256 + 96] for name, values in data.items()}
    monkeypatch.setattr(mnist, "load", lambda: few)
    return few


@pytest.fixture
def one_thread():
    """Gives torch one thread for an operation, as a trial has; the number of threads changes the bits."""
    import torch  # here, since some tests do without it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own_state():
    """Takes back what a training of a library leaves in this process: environment, and what accelerate shares."""
    from accelerate.state import AcceleratorState  # here, since most tests do without it

    with own_environment():
        AcceleratorState._reset_state(True)
        yield
        AcceleratorState._reset_state(True)


@pytest.fixture
def make_trials():
    """Makes trials of the reference experiment."""

    def make(
        *losses, device="cpu", task="mnist-autoencoder", steps=3, seeds=(0,), replicas=1, audit_every=1, batch_size=256
    ):
        settings = make_settings(
            task=parse_task(task),
            rows=60_000,
            batch_size=batch_size,
            epochs=2,
            steps=steps,
            lr=1e-3,
            audit_every=audit_every,
        )
        specs = parse_losses(losses or ["builtin"], shipped=SHIPPED_LOSSES)
        return plan(specs, parse_devices([device]), seeds=seeds, replicas=replicas, settings=settings)

    return make


def made_once(tmp_path_factory, name, *options, devices=("cpu",), status=0):
    """Returns the directory of an inline run, trained by the first of the suite's processes that asks for it."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    out = folder / name
    with FileLock(folder / f"{name}.lock"):
        if not (made := folder / f"{name}.made").exists():
            with own_environment():
                assert run.main(["--inline", "--device", *devices, *options, "--out", str(out)]) == status
            made.touch()
    return out


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The directory of the whole reference run, trained by this process or by another one of the suite. Read-only."""
    return made_once(tmp_path_factory, "reference")


@pytest.fixture(scope="session")
def equal_pair(tmp_path_factory):
    """The directory of a short run whose two losses are the same to the bit. Read-only."""
    losses = ["builtin", "tests/right_losses.py:functional"]
    return made_once(tmp_path_factory, "equal", "--steps", "8", "--loss", *losses)


@pytest.fixture
def copy_of(tmp_path):
    """Copies a run directory, so that it may be damaged."""

    def copy(directory):
        return Path(shutil.copytree(directory, tmp_path / "copy"))

    return copy


def bits(directory):
    """All that a run's traces must have whatever the run went through: every column but the step's time."""
    table = pd.read_parquet(str(directory / "traces")).drop(columns="step_s")
    table = table.astype({"trial": str, "loss_name": str, "device": str})
    return table.sort_values(["trial", "step"], ignore_index=True)


def trials_with_steps(directory):
    """Names of the trials that have a stored step in an unfinished run.

    The journal is read from a copy, since reading truncates an unfinished end.
    """
    if not (directory / JOURNAL).exists():
        return set()
    with tempfile.TemporaryDirectory(prefix="journal-") as folder, ExitStack() as stack:
        journal = Journal(Path(shutil.copy(directory / JOURNAL, folder)))
        stack.callback(journal.close)
        return {event.trial for _, event in journal.replay() if isinstance(event, Advanced)}


def plant(directory, trial, column, step, change):
    """Changes one stored value of a trace, and nothing else."""
    (path,) = [path for path in (directory / "traces").iterdir() if trial in path.name]
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[step] = change(values[step])
    index = table.schema.get_field_index(column)
    planted = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(index, table.schema.field(column), planted), path)


def rewrite(directory, **facts):
    """Another machine, or other software, in trials.parquet alone."""
    path = directory / "trials.parquet"
    table = pq.read_table(path)
    for name, value in facts.items():
        index = table.schema.get_field_index(name)
        kind = table.schema.field(index).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        values = pa.array([value] * len(table), plain)
        table = table.set_column(index, table.schema.field(index), values.cast(kind))
    pq.write_table(table, path)


STRANGER = """
import ray, sys
from parity.cluster.lean_ray import only_what_a_run_uses
with only_what_a_run_uses(ray):
    context = ray.init(address="local", include_dashboard=False, num_cpus=2, _temp_dir=sys.argv[1], log_to_driver=False)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def stranger():
    """Another user's cluster on this machine: its address, and the environment to join it with."""
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "planted-token-of-a-stranger-0123456789",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    with cluster_process(STRANGER, "stranger-", **environment) as process:
        yield process.stdout.readline().strip(), environment
