"""A cluster of hosts that are really apart: what a run leaves there, what it survives, and what others can reach."""

import json
import os
import re
import signal
import sys
import time
from contextlib import ExitStack, contextmanager

import pandas as pd
import psutil
import pytest

import benchmarks.hosts
from benchmarks.hosts import APP, CUSTOM, SHARED, HostError, hosts, other_commit, why_not
from parity.run import main

from conftest import bits, command, own_environment, trials_with_steps

pytestmark = [pytest.mark.ray, pytest.mark.kills, pytest.mark.slow]

TRAINING = ("--loss", "tests/hosts/slow_loss.py:slow", "--steps", "60", "--batch-size", "32", "--save-every", "0.3")
# The head notices a silent host within about 5 s, instead of a minute.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
# In a temporary folder: made by Ray as long as the cluster lives, and by torch whenever it is imported.
OF_OTHERS = {"ray", "torchinductor_root"}
LIMIT_S = 300.0
DIVERGED = 1
# Either a single trial was trained and nothing was compared, or there is no evidence either way.
NOTHING_TO_COMPARE = INCONCLUSIVE = 3
# Prints the ports at which somebody answers.
KNOCK = """
import socket, sys
for port in sys.argv[2:]:
    try:
        socket.create_connection((sys.argv[1], int(port)), timeout=10).close()
        print(port)
    except ConnectionRefusedError:
        pass
"""
LISTEN = """
import socket, time
with socket.create_server(("", 0)):
    print("listening", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def apart():
    """Hosts h1 to h4. A Ray cluster spans the first three; h4 is in no cluster."""
    if reason := why_not():
        pytest.skip(reason)
    with hosts(4) as made, warm(made):
        made.start_ray(["h1", "h2", "h3"], system_config=json.dumps(QUICK))
        yield made


@contextmanager
def warm(made):
    """Servers of all hosts that run the processes of seats and Ray's workers; see tests/warm.

    They see the files of the first host, but all processes: so they can enter whichever host asks.
    """
    folder, at = f"{APP}/tests/warm", f"{SHARED}/warm"
    made.environment |= {"PARITY_WARM": at, "PYTHONPATH": f"{folder}:{CUSTOM}:{APP}"}
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # as on the device `cpu`
    with ExitStack() as stack:
        for address, more in ((at, threads), (f"{at}.ray", {})):
            command = [sys.executable, "-u", f"{folder}/server.py", address, str(os.getpid()), "hosts"]
            server = stack.enter_context(made.beside("h1", *command, **more))
            stack.callback(server.kill)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The bits of the same training in this process."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with own_environment():
        assert main(["--inline", "--device", "cpu", "--quick", *TRAINING, "--out", str(out)]) == NOTHING_TO_COMPARE
    return bits(out).drop(columns=["trial", "device"])


@pytest.fixture
def start(apart, request):
    """Starts a run on a host; returns the command and, here, its directory."""
    begun = []

    def start(host, *arguments, training=TRAINING):
        name = request.node.name
        options = (*training, *arguments, "--out", str(SHARED / name))
        begun.append(apart.parity(host, "parity.run", *options, PARITY_WARM_COMMAND="1"))
        return begun[-1], apart.shared / name

    yield start
    for each in begun:
        each.send(signal.SIGKILL)


# Makes a host, prints the id of its first process, and is killed.
KILLED = """
import os, signal
from benchmarks.hosts import hosts
with hosts(1) as made:
    sleeping = made.start("h1", "sleep", "600")
    while not made.processes("h1", "sleep"):
        pass
    print(made.processes("h1", "sleep")[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def _allowed():
    if reason := why_not():
        pytest.skip(reason)


def test_why_there_can_be_no_hosts_is_reported(monkeypatch):
    monkeypatch.setattr(benchmarks.hosts, "TRIAL", "echo no room >&2; exit 1")
    assert "separate hosts need root and Linux namespaces (" in why_not()
    monkeypatch.setenv("PATH", "")
    assert why_not() == "separate hosts need the command ip, of iproute2 or util-linux"


def test_a_number_of_hosts_that_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^21 hosts: give 1 to 20$"):
        benchmarks.hosts.Hosts(tmp_path, 21)


@pytest.mark.usefixtures("_allowed")
def test_a_host_ends_with_the_process_that_made_it_even_if_that_is_killed():
    ended = command("-c", KILLED)
    assert ended.status == -signal.SIGKILL, ended.stderr
    assert until(lambda: not psutil.pid_exists(int(ended.stdout)), limit_s=10)


@pytest.mark.usefixtures("_allowed")
def test_two_groups_of_hosts_with_the_same_addresses_do_not_meet():
    with hosts(2) as one, hosts(2) as other:
        listener = one.start("h1", sys.executable, "-c", LISTEN)
        assert until(lambda: "listening" in listener.text(), limit_s=30)
        ports = one.listening("h1")
        assert len(ports) == 1
        assert (reached(one, "h2", "h1", ports), reached(other, "h2", "h1", ports)) == (ports, set())
        (one.path("h1", "/tmp") / "mine").touch()
        assert not list(one.path("h2", "/tmp").iterdir()) and not list(other.path("h1", "/tmp").iterdir())
        assert one.start("h2", "sh", "-c", "test $(hostname) = h2 && test ! -e /tmp/mine").wait() == 0
        one.crash("h1")
        one.boot("h1")
        assert not list(one.path("h1", "/tmp").iterdir())


@pytest.mark.usefixtures("_allowed")
def test_a_host_that_cannot_be_made_is_an_error(tmp_path):
    with hosts(1) as made:
        made.crash("h1")
        with pytest.raises(HostError, match=r"^A host did not boot: "):
            made.boot("h1", code=tmp_path / "nothing")
        made.boot("h1")
        with pytest.raises(HostError, match=r"^ray start on h1 ended with 2: "):
            made.start_ray(system_config_of_another_version="{}")


def processes(apart, host):
    return {process.pid: " ".join(process.cmdline())[:100] for process in apart.processes(host)}


def until(what, *, limit_s=LIMIT_S):
    """Waits until something is the case; returns whether it came to that."""
    end = time.monotonic() + limit_s
    while not what() and time.monotonic() < end:
        time.sleep(0.2)
    return what()


def until_training(run, out, trials):
    assert until(lambda: trials_with_steps(out) == trials or run.entered.poll() is not None)
    assert run.entered.poll() is None, run.text()


def check(run, out, undisturbed, trials):
    """The run has ended well, all of its trials have the bits of the undisturbed one, and nobody is accused."""
    assert run.wait(LIMIT_S) == 0, run.text()
    check_bits(out, undisturbed, trials)
    summary = json.loads((out / "summary.json").read_text())
    assert {pair["verdict"] for pair in summary["pairs"]} == {"identical"}
    assert "\nOdd: " not in run.text()


def check_bits(out, undisturbed, trials, *, besides=frozenset()):
    found = bits(out)
    assert set(found.trial) == trials | besides
    for trial in trials:
        rows = found[found.trial == trial].drop(columns=["trial", "device"])
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), undisturbed)


def test_a_run_on_three_hosts_has_the_bits_of_one_process_and_accuses_the_broken_device_and_leaves_nothing(
    apart, start, undisturbed
):
    before = {host: processes(apart, host) for host in apart.names}
    broken = "cpu:plant=flip-5@h2"
    run, out = start("h1", "--address", apart.cluster, "--each", "node", "--quick", "--device", "cpu", broken)
    assert run.wait(LIMIT_S) == DIVERGED, run.text()
    check_bits(out, undisturbed, {"slow@cpu@h1-s0", "slow@cpu@h3-s0"}, besides={f"slow@{broken}-s0"})
    pairs = json.loads((out / "summary.json").read_text())["pairs"]
    assert {pair["candidate_device"]: pair["verdict"] for pair in pairs} == {broken: "diverged", "cpu@h3": "identical"}
    assert f"{broken} differs from the 2 other devices of its class" in " ".join(run.text().split())
    assert "ode differs" not in run.text()
    trials = pd.read_parquet(out / "trials.parquet")
    assert set(trials.node) == {"h1", "h2", "h3"} and trials.node_id.nunique() == 3
    for host in apart.names:
        assert until(lambda host=host: not processes(apart, host).keys() - before[host].keys(), limit_s=30), (
            host,
            processes(apart, host),
        )
        assert {path.name for path in apart.path(host, "/tmp").iterdir()} <= OF_OTHERS
        assert not list(apart.path(host, "/dev/shm").iterdir())
        assert [path.name for path in apart.path(host, "/mnt/home").iterdir()] == [".ray"]
    assert not token_in(apart, apart.token, [out, *(apart.path(host, "/tmp") for host in apart.names)])
    assert apart.token not in run.text()


def test_other_code_on_a_host_accuses_no_device_and_withholds_the_verdicts_on_what_it_is_of(apart, start):
    # h2 has another helper of `one` and none of `other`; h3 has another commit of parity.
    for host in ("h1", "h2", "h3"):
        apart.path(host, f"{CUSTOM}/one_helper.py").write_text(f"FACTOR = {2.0 if host == 'h2' else 1.0}\n")
        if host != "h2":
            apart.path(host, f"{CUSTOM}/other_helper.py").write_text("FACTOR = 1.0\n")
    other_commit(apart.shared)
    assert apart.start("h3", "mount", "--bind", str(SHARED / "other"), APP).wait() == 0
    losses = ("--loss", "builtin", *(f"tests/hosts/helped_losses.py:{name}" for name in ("one", "other")))
    training = (*losses, "--steps", "10", "--batch-size", "32", "--quick")
    run, out = start("h1", "--address", apart.cluster, "--each", "node", training=training)
    try:
        assert run.wait(LIMIT_S) == INCONCLUSIVE, run.text()
    finally:
        assert apart.start("h3", "umount", "--lazy", APP).wait() == 0
    found = {
        f"{pair['candidate_loss']}@{pair['candidate_device']}": (pair["verdict"], pair["cause"])
        for pair in json.loads((out / "summary.json").read_text())["pairs"]
        if pair["axis"] == "device"
    }
    lacks, cause = found.pop("other@cpu@h2")
    assert lacks == "inconclusive"
    assert "node h2 has no module 'other_helper', which the machine of the driver has" in cause
    of_parity = ("inconclusive", "code differs between nodes: the package parity on h3")
    assert found.pop("builtin@cpu@h3") == of_parity
    assert found.pop("builtin@cpu@h2") == ("identical", None)
    assert found.pop("one@cpu@h2") == ("inconclusive", "code differs between nodes: one_helper.py on h1 and on h2")
    assert {each: verdict for each, (verdict, _) in found.items()} == dict.fromkeys(
        ("one@cpu@h3", "other@cpu@h3"), "inconclusive"
    )
    assert "Odd:" not in run.text()


def test_the_trials_of_hosts_that_are_cut_off_or_lose_ray_continue_in_their_class(apart, start, undisturbed):
    trials = {f"slow@cpu@{host}-s0" for host in ("h1", "h2", "h3")}
    run, out = start("h1", "--address", apart.cluster, "--each", "node", "--quick")
    until_training(run, out, trials)
    apart.cut("h2")
    assert apart.signal("h3", signal.SIGKILL, "raylet") == 1
    check(run, out, undisturbed, trials)
    for host in ("h2", "h3"):
        assert re.search(rf"slow@cpu@{host}-s0 (begins again|continues at step \d+): node {host}", run.text()), (
            run.text()
        )
        assert moved(out, f"slow@cpu@{host}-s0") == "h1"
        assert f"slow@cpu@{host}-s0 was trained on h1, so {host} was not tested." in " ".join(run.text().split())
    left = [each for each in apart.processes("h3") if each.name().startswith("ray::")]
    assert until(lambda: not any(each.is_running() for each in left), limit_s=30), left


def moved(out, trial):
    """Where a trial ended that has lost a worker."""
    found = pd.read_parquet(out / "trials.parquet").set_index("trial").loc[trial]
    assert found.attempts >= 2
    return found.node


def test_nothing_of_a_local_run_can_be_reached_from_another_host_and_its_token_is_nowhere(apart, start):
    before = processes(apart, "h4")
    run, out = start("h4", "--device", "cpu", "--quick")
    until_training(run, out, {"slow@cpu-s0"})
    ports = apart.listening("h4")
    assert len(ports) >= 3  # Ray's head, the raylet and its object manager
    (held,) = apart.path("h4", "/tmp").glob("parity-*/auth_token")
    token = held.read_text()
    assert len(token) == 64
    listener = apart.start("h4", sys.executable, "-c", LISTEN)
    assert until(lambda: "listening" in listener.text())
    (control,) = apart.listening("h4") - ports
    # Where somebody else can listen, nobody of the run does.
    assert reached(apart, "h2", "h4", ports | {control}) == {control}
    assert token not in "".join(" ".join(process.cmdline()) for process in apart.processes("h4"))
    assert token_in(apart, token, [apart.path("h4", "/tmp")]) == {held.name}
    listener.send(signal.SIGKILL)
    assert run.wait(LIMIT_S) == NOTHING_TO_COMPARE, run.text()
    assert not token_in(apart, token, [out, apart.path("h4", "/tmp"), apart.path("h4", "/mnt/home")])
    assert token not in run.text()
    assert until(lambda: processes(apart, "h4").keys() == before.keys(), limit_s=30), processes(apart, "h4")
    assert {path.name for path in apart.path("h4", "/tmp").iterdir()} <= OF_OTHERS


def reached(apart, source, target, ports):
    """Of a host's ports, those that another host can connect to."""
    apart.heal(source)  # an earlier test may have cut it off
    knocked = apart.start(source, sys.executable, "-c", KNOCK, apart.address(target), *map(str, sorted(ports)))
    assert knocked.wait() == 0, knocked.text()
    return {int(line) for line in knocked.text().split()}


def token_in(apart, token, folders):
    """Names of the files that have a token in them."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.name for path in files if token.encode() in path.read_bytes()}
