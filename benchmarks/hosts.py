"""Separate hosts on one machine, for tests and campaigns on a Ray cluster whose nodes share no more than a network.

Each host is a process with Linux namespaces of its own: an address, a host name, processes, a home, a temporary folder
and shared memory. All of its files are in memory, but for a shared folder that each host has. The hosts are connected
by a bridge in one more network namespace, from which no packet gets out. Nothing of this has a name outside that a
second group of hosts could meet: no network number, no interface, no file. A host ends when the pipe to its first
process is closed, so it ends with the process that started it, however that ends, and takes all its processes with it.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
# What every host has at the same place: the code, the folder of runs, its home, and a folder for modules of its own.
APP, SHARED, HOME, CUSTOM = "/mnt/app", Path("/mnt/shared"), "/mnt/home", "/mnt/custom"
GCS_PORT = 6379
# The router, and the hosts, which are known to each other as h1, h2 and so on.
NETWORK = "10.77.0."
MOST_HOSTS = 20
BOOT_S = 30.0
COMMAND_S = 300.0
# Ray gives a node 30 s to start, which may be too short on a busy machine.
RAY_STARTS = 3
# `ray start` without Ray's dashboard, log monitor and agents, which a run does not use.
START_RAY = """
import ray
from parity.cluster.lean_ray import only_what_a_run_uses
from ray.scripts.scripts import main
with only_what_a_run_uses(ray):
    main()
"""
# The first process of a host. It reaps those whose parents have ended, and ends with its standard input.
FIRST = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
"""
# The folders that the hosts do not share are replaced last, since what is mounted comes from below one of them.
BOOT = """
set -e
name=$1 size=$2 known=$3 code=$4 shared=$5 stage=$6 python=$7 first=$8
shift 8
hostname "$name"
mount -t tmpfs none "$stage"
mkdir "$stage/mnt" "$stage/tmp"
mount -t tmpfs -o "size=$size,mode=1777" none "$stage/tmp"
mkdir -p "$stage/mnt/app" "$stage/mnt/shared" "$stage/mnt/home" "$stage/mnt/custom"
mount --bind "$code" "$stage/mnt/app"
mount --bind "$shared" "$stage/mnt/shared"
for hidden in "$@"; do
    mkdir -p "$stage$hidden"
    mount --bind "$hidden" "$stage$hidden"
done
mount -t tmpfs -o size=1g,mode=1777 none /dev/shm
printf '%s' "$known" > "$stage/hosts"
: > "$stage/nobody"
mount --bind "$stage/hosts" /etc/hosts
[ ! -e /etc/resolv.conf ] || mount --bind "$stage/nobody" /etc/resolv.conf
mount --rbind "$stage/mnt" /mnt
mount --rbind "$stage/tmp" /tmp
exec "$python" -c "$first"
"""
# What `Hosts` needs of the system, tried out.
TRIAL = "hostname trial && mount -t tmpfs none /mnt && ip link add br0 type bridge && ip link add p-h1 type veth"
APART = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")


class HostError(Exception):
    """A host did not do what was asked of it."""


def why_not() -> str | None:
    """Why hosts cannot be made here, or None if they can."""
    for tool in ("ip", "mount", "nsenter", "unshare"):
        if not shutil.which(tool):
            return f"separate hosts need the command {tool}, of iproute2 or util-linux"
    tried = subprocess.run(["unshare", *APART, "sh", "-c", TRIAL], capture_output=True, text=True, timeout=BOOT_S)
    if tried.returncode != 0:
        return f"separate hosts need root and Linux namespaces ({' '.join(tried.stderr.split())})"
    return None


@dataclass
class Command:
    """A command on a host.

    Attributes:
        entered: The process here that has entered the host and waits for the command.
        printed: The file with what the command prints, to stdout and stderr.
    """

    entered: subprocess.Popen[bytes]
    printed: Path

    @property
    def process(self) -> psutil.Process | None:
        """The command itself, or None once it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return next(iter(psutil.Process(self.entered.pid).children()), None)
        return None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the command, if it has not ended."""
        if process := self.process:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def text(self) -> str:
        """What it has printed so far."""
        return self.printed.read_text(errors="replace")

    def wait(self, limit_s: float = COMMAND_S) -> int:
        """Waits for the command; returns its exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: It takes longer.
        """
        return self.entered.wait(limit_s)


@dataclass
class _Host:
    """A host that has been booted: `unshare`, and the host's first process by the machine's own id."""

    unshared: subprocess.Popen[str]
    first: int


class Hosts:
    """Hosts h1, h2 and so on, with a Ray cluster whose head is h1; see `hosts`."""

    def __init__(self, folder: Path, count: int) -> None:
        if not 1 <= count <= MOST_HOSTS:
            raise ValueError(f"{count} hosts: give 1 to {MOST_HOSTS}")
        self.names = [f"h{number + 1}" for number in range(count)]
        self.token = secrets.token_hex(32)
        # Variables of all commands beside those that every host has.
        self.environment: dict[str, str] = {}
        self.shared = folder / "shared"
        self._logs = folder / "logs"
        self._stage = folder / "stage"
        self._numbered = iter(range(10**9))
        self._hosts: dict[str, _Host] = {}
        self._entered: list[subprocess.Popen[bytes]] = []
        self._router: subprocess.Popen[str] | None = None
        for each in (self.shared, self._logs, self._stage):
            each.mkdir()

    def up(self) -> None:
        """Boots all hosts, connected with each other.

        Raises:
            HostError: A host does not boot.
        """
        self._router = _unshared(["--net", sys.executable, "-c", FIRST])
        for arguments in (["lo", "up"], ["br0", "type", "bridge"], ["br0", "up"]):
            self._link("add" if "type" in arguments else "set", *arguments)
        for name in self.names:
            self.boot(name)

    def down(self) -> None:
        """Ends all hosts with all that runs there, and then the network between them."""
        for name in self.running:
            _end(self._hosts.pop(name).unshared)
        for entered in self._entered:  # all that they waited for has been killed
            entered.wait(BOOT_S)
        if self._router:
            _end(self._router)

    def boot(self, name: str, *, tmp_mib: int = 1024, code: Path = ROOT) -> None:
        """Boots a host that does not run, with nothing in its folders but the token.

        Args:
            name: Which one.
            tmp_mib: Size of its temporary folder, in MiB.
            code: The copy of the project that it has.

        Raises:
            HostError: It does not boot.
        """
        known = "".join(f"{self.address(each)} {each}\n" for each in self.names)
        arguments = [
            name,
            f"{tmp_mib}m",
            f"127.0.0.1 localhost\n{known}",
            str(code),
            str(self.shared),
            str(self._stage),
        ]
        script = ["sh", "-c", BOOT, "boot", *arguments, sys.executable, FIRST, *_hidden()]
        unshared = _unshared([*APART, "--propagation", "private", *script])
        (first,) = psutil.Process(unshared.pid).children()
        self._hosts[name] = _Host(unshared, first.pid)
        self._link("add", f"p-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(first.pid))
        self._link("set", f"p-{name}", "master", "br0", "up")
        for arguments in (["addr", "add", f"{self.address(name)}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            self._ip(name, *arguments)
        self._ip(name, "link", "set", "lo", "up")
        folder = self.path(name, f"{HOME}/.ray")
        folder.mkdir(mode=0o700)
        (folder / "auth_token").touch(mode=0o600)
        (folder / "auth_token").write_text(self.token)

    def crash(self, name: str) -> None:
        """Ends all processes of a host at once, as the loss of power does; its files are lost as well."""
        if host := self._hosts.pop(name, None):
            _end(host.unshared)
            # The system takes away the link of a host that has gone, but in its own time.
            with contextlib.suppress(HostError):
                self._link("delete", f"p-{name}")

    @property
    def running(self) -> list[str]:
        """The names of the hosts that are booted."""
        return [name for name in self.names if name in self._hosts]

    def address(self, name: str) -> str:
        """A host's address."""
        return f"{NETWORK}{name[1:]}"

    @property
    def cluster(self) -> str:
        """The address of the Ray cluster."""
        return f"{self.address(self.names[0])}:{GCS_PORT}"

    def path(self, name: str, inside: str) -> Path:
        """The path, here, of a file of a host."""
        return Path(f"/proc/{self._hosts[name].first}/root{inside}")

    def start_ray(self, names: Iterable[str] | None = None, **options: str) -> None:
        """Starts Ray with a token on hosts, or on all of them: h1, if it is among them, as the head of the cluster.

        Args:
            names: On which.
            options: Options of `ray start`, "" for one that has no value, and with "_" for "-": for the head only.

        Raises:
            HostError: Ray does not start.
        """
        chosen = list(self.names if names is None else names)
        if self.names[0] in chosen:
            chosen.remove(self.names[0])
            more = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
            self._start_ray(self.names[0], "--head", f"--port={GCS_PORT}", "--include-dashboard=False", *more)
        with ThreadPoolExecutor(max_workers=MOST_HOSTS) as pool:
            for started in [pool.submit(self._start_ray, name, f"--address={self.cluster}") for name in chosen]:
                started.result()

    def _start_ray(self, name: str, *options: str) -> None:
        settings = [f"--node-ip-address={self.address(name)}", "--num-cpus=1", "--object-store-memory=100000000"]
        for attempt in range(RAY_STARTS):
            command = self.start(
                name, sys.executable, "-c", START_RAY, "start", *options, *settings, "--disable-usage-stats"
            )
            if (status := command.wait()) == 0:
                return
            self.signal(name, signal.SIGKILL)  # what it has left
            if "timed out during startup" not in command.text() or attempt + 1 == RAY_STARTS:
                raise HostError(f"ray start on {name} ended with {status}: {command.text()[-600:]}")

    def start(self, name: str, *command: str, **environment: str) -> Command:
        """Starts a command on a host, in the folder of the code there, with an environment of its own."""
        host = self._hosts[name]
        printed = self._logs / f"{next(self._numbered)}-{name}"
        enter = ["nsenter", f"--target={host.first}", "--mount", "--uts", "--ipc", "--net", "--pid", f"--wdns={APP}"]
        with printed.open("wb") as file:
            entered = subprocess.Popen(
                [*enter, *self._with_environment(environment), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._entered.append(entered)
        return Command(entered, printed)

    def beside(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a process that sees the files of a host, as a command there does, and otherwise is of this machine."""
        enter = ["nsenter", f"--target={self._hosts[name].first}", "--mount", f"--wdns={APP}"]
        return subprocess.Popen([*enter, *self._with_environment(environment), *command], stdin=subprocess.DEVNULL)

    def _with_environment(self, environment: Mapping[str, str]) -> list[str]:
        """What runs a command with the environment of the hosts and these variables."""
        own = {
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{CUSTOM}:{APP}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_WAIT_POLICY": "passive",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            **self.environment,
            **environment,
        }
        return ["env", "-i", *(f"{key}={value}" for key, value in own.items())]

    def parity(self, name: str, *arguments: str, **environment: str) -> Command:
        """Starts a command of parity on a host: the module's name and its arguments."""
        return self.start(name, sys.executable, "-m", *arguments, **environment)

    def cut(self, name: str) -> None:
        """Takes a host's link down."""
        self._link("set", f"p-{name}", "down")

    def heal(self, name: str) -> None:
        """Takes a host's link up again."""
        self._link("set", f"p-{name}", "up")

    def processes(self, name: str, called: str | None = None) -> list[psutil.Process]:
        """The processes of a host but for the first one, or those of a name (the kernel's, of 15 characters)."""
        first = self._hosts[name].first
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                inside = process.pid != first and _space(process.pid) == _space(first)
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    comm = Path(f"/proc/{process.pid}/comm").read_text().strip()
                    found += [process] if called in (None, comm) else []
        return found

    def signal(self, name: str, number: signal.Signals, called: str | None = None) -> int:
        """Sends a signal to a host's processes, or to those of a name; returns to how many."""
        found = self.processes(name, called)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return len(found)

    def listening(self, name: str) -> set[int]:
        """The TCP ports at which a host's processes listen."""
        ports = set()
        for family in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self._hosts[name].first}/net/{family}").read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if state == "0A":
                    ports.add(int(local.rpartition(":")[2], 16))
        return ports

    def set_clock(self, name: str, ahead_s: float) -> None:
        """Makes the clock of all Python processes that start on the host from now on go ahead.

        Linux has one clock for all namespaces. Ray's own programs, which are not Python, read the true one.
        """
        code = f"import time\ngenuine = time.time\ntime.time = lambda: genuine() + {ahead_s!r}\n"
        code += "time.time_ns = lambda: int(time.time() * 1e9)\n"
        # It is the clock of the host, and no code of a run, which would differ from that of the other hosts.
        code += "del __file__\n"
        self.path(name, f"{CUSTOM}/sitecustomize.py").write_text(code)

    def _link(self, *arguments: str) -> None:
        assert self._router
        _checked(["nsenter", f"--target={self._router.pid}", "--net", "ip", "link", *arguments])

    def _ip(self, name: str, *arguments: str) -> None:
        _checked(["nsenter", f"--target={self._hosts[name].first}", "--net", "ip", *arguments])


@contextlib.contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """Hosts without Ray, until the block ends.

    Raises:
        HostError: They do not boot.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hosts-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as end,
    ):
        made = Hosts(Path(folder), count)
        end.callback(made.down)
        made.up()
        yield made


def other_commit(folder: Path) -> Path:
    """Makes a copy of the project with another parity, and returns where it is.

    Args:
        folder: Where to put it; an earlier copy there is used again.
    """
    code = folder / "other"
    if not code.exists():
        for name in ("parity", "tests"):
            shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
        with (code / "parity" / "train" / "step.py").open("a") as file:
            file.write("\n# Of another commit.\n")
    return code


def _hidden() -> list[str]:
    """What of the interpreter is below a folder that a host has for itself."""
    places = {Path(sys.prefix), Path(sys.base_prefix)}
    return [str(place) for place in sorted(places) if {Path("/tmp"), Path("/mnt")} & set(place.parents)]


def _unshared(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a process in namespaces of its own; returns once it is there.

    Raises:
        HostError: It did not start.
    """
    process = subprocess.Popen(
        ["unshare", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a Ctrl-C is for the one who started it, and reaches the hosts as the end of a pipe
        text=True,
    )
    assert process.stdout
    line = process.stdout.readline()
    if line != "ready\n":
        rest, _ = process.communicate()
        raise HostError(f"A host did not boot: {line}{rest}".strip())
    return process


def _end(process: subprocess.Popen[str]) -> None:
    """Ends what `_unshared` started, and waits for that."""
    assert process.stdin and process.stdout
    process.stdin.close()
    try:
        process.wait(BOOT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _checked(command: Sequence[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=BOOT_S)
    if ended.returncode != 0:
        raise HostError(f"{' '.join(command)}: {ended.stderr.strip()}")


def _space(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())
