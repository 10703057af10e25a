"""Collects the files that a Ray job needs: parity itself, the user's losses and task, and the modules they import."""

import argparse
import fnmatch
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import decode_source
from pathlib import Path, PurePosixPath

from parity.cluster.jobs import refused_files
from parity.ground.current_folder import current_folder
from parity.ground.errors import Trouble
from parity.plan.neighbours import imported_names

# Files and folders that are not sent: tools make them, or Ray would read them as lists of what to leave out.
SKIPPED_NAMES = {"__pycache__", ".git", ".hg", ".svn", ".venv", "venv", ".gitignore", ".rayignore", ".DS_Store"}
# Where the module that `--fetch` runs in the job is placed in its working directory.
_JOBS = PurePosixPath("jobs")
# Ray refuses a working directory that, zipped, is larger than a gRPC message of 512 MiB
# (ray/_private/runtime_env/packaging.py); this leaves room for files that do not compress.
LARGEST_BYTES = 400 * 2**20


@dataclass
class Packing:
    """The files that will be sent.

    Attributes:
        files: For each path in the job's working directory, the file on this machine.
    """

    files: dict[PurePosixPath, Path] = field(default_factory=dict)

    def add(self, path: Path, root: Path, *, under: PurePosixPath) -> PurePosixPath:
        """Adds one file; returns its path in the job's working directory.

        Args:
            path: The file.
            root: The folder that the file must be in, after links have been followed.
            under: The root's path in the job's working directory.

        Raises:
            Trouble: The file may hold a credential, leads out of the root, cannot be read, or would replace another.
        """
        _check_link(path, root)
        # A file that is named itself may be in a folder of secrets.
        here = current_folder()
        refused_files.check_name(path, path.relative_to(here if path.is_relative_to(here) else root))
        packed = under / PurePosixPath(*path.relative_to(root).parts)
        # A file that two losses import is added twice, which is fine as long as it is one file.
        present = self.files.get(packed)
        if present and present.resolve() != path.resolve() and present.read_bytes() != path.read_bytes():
            raise Trouble(f"{path} and {present} would both be {packed} in the job. Rename one of them.")
        if not os.access(path, os.R_OK):
            raise Trouble(f"{path} cannot be read, and the job needs it. Check its permissions.")
        refused_files.check_content(path)
        self.files[packed] = path
        return packed

    def add_folder(self, folder: Path, *, under: PurePosixPath, pattern: str = "*") -> None:
        """Adds the files of a folder and of all folders in it.

        Args:
            folder: The folder.
            under: Its path in the job's working directory.
            pattern: Pattern that the names of the files must match.

        Raises:
            Trouble: The folder contains the home folder or a link to a folder, or a file may not be sent.
        """
        _check_folder(folder)
        refused_files.check_name(folder, Path(folder.name))
        for directory, folders, names in os.walk(folder):
            # In place: `os.walk` then does not enter what is left out.
            folders[:] = sorted(name for name in folders if name not in SKIPPED_NAMES)
            for name in folders:
                # `os.walk` does not enter it, so its files would be missing in the job without a message.
                if (Path(directory) / name).is_symlink():
                    raise Trouble(
                        f"{Path(directory) / name} is a link to a folder, which is not followed. "
                        "Name the folder itself with --include."
                    )
                refused_files.check_name(Path(directory) / name, Path(name))
            for name in sorted(names):
                if name not in SKIPPED_NAMES and fnmatch.fnmatch(name, pattern):
                    self.add(Path(directory) / name, folder, under=under)

    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(path.stat().st_size for path in self.files.values())

    def listing(self) -> str:
        """A line for each file with its size, and one with the total."""
        rows = [f"{path.stat().st_size:>12,}  {packed}" for packed, path in sorted(self.files.items())]
        return "\n".join([*rows, f"{self.total_bytes():>12,}  bytes in {len(self.files)} files"])

    def digest(self) -> str:
        """The SHA-256 of all paths and contents, in hexadecimal."""
        total = hashlib.sha256()
        # Sorted: the order in which the files were found must not change the digest, nor the id of the job with it.
        for packed, path in sorted(self.files.items()):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            # NUL cannot be in a path, so no other files give the same bytes.
            total.update(f"{packed}\0{content}\n".encode())
        return total.hexdigest()

    def write(self, folder: Path) -> None:
        """Copies the files into the folder."""
        for packed, path in self.files.items():
            target = folder / packed
            target.parent.mkdir(parents=True, exist_ok=True)
            # Only the contents, which are all that the digest covers.
            shutil.copyfile(path, target)


def pack(
    options: argparse.Namespace, given: Sequence[str], include: Sequence[Path], *, named: Sequence[str] = ()
) -> tuple[Packing, list[str]]:
    """Collects the files that the job needs.

    Args:
        options: The parsed options of parity.run.
        given: The arguments that they were parsed from.
        include: Other files and folders to send.
        named: The losses and the task of the run that the job continues, with the paths that their files have in the
            job.

    Returns:
        The files, and the arguments with the paths that the files have in the job.

    Raises:
        Trouble: A file does not exist, or may not be sent.
    """
    packing = Packing()
    _add_parity(packing)
    sent = {}
    for text in [*(options.loss or []), options.task]:
        origin, colon, attr = text.rpartition(":")
        if colon and origin.endswith(".py"):
            sent[text] = f"{_add_file(packing, Path(origin))}:{attr}"
        elif colon and origin:
            _add_module(packing, origin)
    for text in named:
        if text not in sent.values():
            _add_named(packing, text)
    for path in include:
        if not path.exists():
            raise Trouble(f"--include {path} does not exist (looked in {current_folder()}). Check the path.")
        root = current_folder()
        here = _absolute(path)
        under = _packed_folder(here if here.is_dir() else here.parent, root)
        if here.is_dir():
            packing.add_folder(here, under=under)
        else:
            packing.add(here, here.parent, under=under)
    if packing.total_bytes() > LARGEST_BYTES:
        raise Trouble(
            f"{packing.total_bytes():,} bytes would be sent, and the limit is {LARGEST_BYTES:,}. "
            "Put large data on the cluster's storage, and give its path there."
        )
    return packing, [_rewritten(text, sent) for text in given]


def _rewritten(text: str, sent: dict[str, str]) -> str:
    """The argument with the path that its file has in the job; also in the form --loss=PATH."""
    option, equals, value = text.partition("=")
    if equals and option in ("--loss", "--task"):
        return f"{option}={sent.get(value, value)}"
    return sent.get(text, text)


def _add_parity(packing: Packing) -> None:
    """Adds this parity, so that the job runs the version that was asked, and the module that `--fetch` runs there."""
    package = Path(__file__).resolve().parents[2]
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            packing.add(path, package, under=PurePosixPath("parity"))
    packing.add(Path(__file__).resolve().with_name("pack_run.py"), Path(__file__).resolve().parent, under=_JOBS)


def _add_named(packing: Packing, text: str) -> None:
    """Adds the file or module of a loss or task that run.json names.

    Raises:
        Trouble: There is no such file below the current folder.
    """
    origin, colon, _ = text.rpartition(":")
    # What a run that was not started by a job names by its absolute path can only be on the cluster.
    if not colon or not origin or PurePosixPath(origin).is_absolute():
        return
    if not origin.endswith(".py"):
        _add_module(packing, origin)
        return
    if ".." in PurePosixPath(origin).parts or not Path(origin).is_file():
        raise Trouble(
            f"The run was started with {text}, which is not a file below {current_folder()}. Run the command in the "
            "folder that it was first run in, and give --loss and --task again if their files were in another folder."
        )
    _add_file(packing, Path(origin))


def _add_file(packing: Packing, path: Path) -> PurePosixPath:
    """Adds a file and what it imports from its own folder; returns the file's path in the job."""
    if not path.is_file():
        raise Trouble(f"{path} does not exist (looked in {current_folder()}). Check the path.")
    folder = _absolute(path).parent
    under = _packed_folder(folder, current_folder())
    packed = packing.add(folder / path.name, folder, under=under)
    _add_imports(packing, folder / path.name, folder, under=under)
    return packed


def _add_module(packing: Packing, module: str) -> None:
    """Adds a module of the current folder and what it imports from there; installed packages must be on the cluster."""
    top = module.partition(".")[0]
    if top not in ("parity", "jobs"):
        _add_neighbour(packing, top, current_folder(), under=PurePosixPath())


def _add_imports(packing: Packing, path: Path, folder: Path, *, under: PurePosixPath) -> None:
    for name in _imported(path):
        # parity is in the job already.
        if name != "parity":
            _add_neighbour(packing, name, folder, under=under)


def _add_neighbour(packing: Packing, name: str, folder: Path, *, under: PurePosixPath) -> None:
    """Adds the module or package of that name and what it imports, if the folder contains one."""
    module, package = folder / f"{name}.py", folder / name
    if package.is_dir() and any(package.rglob("*.py")):
        if any(under / name in packed.parents for packed in packing.files):
            return  # it has been added, or is being added
        packing.add_folder(package, under=under / name, pattern="*.py")
        for path in [path for path in list(packing.files.values()) if package in path.parents]:
            _add_imports(packing, path, folder, under=under)
    elif module.is_file() and under / module.name not in packing.files:
        packing.add(module, folder, under=under)
        _add_imports(packing, module, folder, under=under)


def _imported(path: Path) -> tuple[str, ...]:
    """The top-level name of each module that a file imports, in any of its statements.

    Raises:
        Trouble: The file is not valid Python.
    """
    try:
        names = imported_names(decode_source(path.read_bytes()))
    except (SyntaxError, ValueError) as error:
        raise Trouble(f"{path} is not valid Python ({error}). Correct it.") from error
    # What is imported relatively is in the same package, all of which is sent.
    return tuple(dict.fromkeys(name.partition(".")[0] for name in names))


def _absolute(path: Path) -> Path:
    """The absolute path without `..`; links are kept, so that they can be checked."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def _packed_folder(folder: Path, root: Path) -> PurePosixPath:
    """A folder's path in the job: as it is below the current folder, or made of a digest and its name elsewhere."""
    if folder.is_relative_to(root):
        return PurePosixPath(*folder.relative_to(root).parts)
    return PurePosixPath("outside") / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}-{folder.name}"


def _check_folder(folder: Path) -> None:
    """Raises `Trouble` for the home folder and any folder around it."""
    # Links are followed on both sides, since the home folder itself may be one.
    home = Path.home().resolve()
    if home.is_relative_to(folder.resolve()):
        raise Trouble(f"{folder} contains your home folder, which is never sent. Name the files or folders to send.")


def _check_link(path: Path, root: Path) -> None:
    """Raises `Trouble` for a link that leads out of the root."""
    target = path.resolve()
    if not target.is_relative_to(root.resolve()):
        raise Trouble(f"{path} is a link that leads outside, to {target}. Name that file itself, or copy it here.")
