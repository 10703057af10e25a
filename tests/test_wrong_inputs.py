"""Wrong command lines and calls: each says on one line what was found, what is allowed and what to do, at once."""

import re
import sys

import pytest
import torch

import parity
from parity import run
from parity.__main__ import main
from parity.cluster import starting
from parity.ground.errors import Trouble
from parity.plan.neighbours import first_lacking
from parity.plan.python_file import relative_import
from parity.train.inline import Inline

WRONG = "tests/wrong_losses.py"
RUN = ["run", "--inline"]
WHOLE = "a whole number of at least"
KNOWN_LOSSES = "Known losses: builtin, numpy; or give module:attr or file.py:attr."
KNOWN_COMMANDS = "Known commands: run, report, check, devices, columns, submit, open."
SEE = "lists the options."

# The arguments, what was found, and what is allowed or to be done.
LINES = [
    # Commands.
    (["rum"], "Unknown command 'rum'.", KNOWN_COMMANDS),
    (["reprot", "x"], "Unknown command 'reprot'.", "Did you mean parity report?"),
    (["chek", "x"], "Unknown command 'chek'.", "Did you mean parity check?"),
    (["--steps", "3"], "Unknown command '--steps'.", "parity --help explains them."),
    ([""], "Unknown command ''.", KNOWN_COMMANDS),
    (["--completion"], "--completion does not name one shell.", "Known shells: bash, zsh, fish."),
    (["--completion", "bahs"], "--completion bahs does not name one shell.", "Did you mean bash?"),
    (["--completion", "bash", "zsh"], "--completion bash zsh does not name one shell.", "Known shells:"),
    # Options that there are not, or that are not complete.
    ([*RUN, "--speed", "9"], "Unknown option --speed.", f"Did you mean --seed? parity run --help {SEE}"),
    ([*RUN, "--losss", "numpy"], "Unknown option --losss.", "Did you mean --loss?"),
    ([*RUN, "--devices=cpu"], "Unknown option --devices.", "Did you mean --device?"),
    ([*RUN, "-x"], "Unknown option -x.", f"parity run --help {SEE}"),
    ([*RUN, "--step", "3"], "Option --step is not unique", "--steps, --step-timeout. Write one of them in full."),
    ([*RUN, "--steps"], "--steps has no value.", "Write --steps N"),
    ([*RUN, "--loss"], "--loss has no value.", "Write --loss LOSS ..."),
    ([*RUN, "--format"], "--format has no value.", "Write --format {text,markdown,json,junit}"),
    ([*RUN, "--resume"], "--resume has no value.", "Write --resume DIR"),
    ([*RUN, "--quick=yes"], "--quick takes no value, and 'yes' was given.", "Write --quick alone."),
    (["run", "numpy"], "Unexpected argument 'numpy'", f"parity run --help {SEE}"),
    (["run", f"{WRONG}:Doubled"], f"Unexpected argument '{WRONG}:Doubled'", "Did you mean --loss builtin"),
    ([*RUN, "--format", "jsn"], "--format 'jsn' is unknown.", "Known: text, markdown, json, junit. Did you mean json?"),
    (["run", "--each", "nodes"], "--each 'nodes' is unknown.", "Known: node, gpu. Did you mean node?"),
    # Numbers.
    ([*RUN, "--steps", "-3"], f"--steps '-3' is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ([*RUN, "--steps", "0"], f"--steps '0' is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ([*RUN, "--steps", "ten"], f"--steps 'ten' is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ([*RUN, "--steps", "1e3"], f"--steps '1e3' is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ([*RUN, "--steps", "1_000"], f"--steps '1_000' is not {WHOLE} 1.", "Give the number of optimizer steps"),
    ([*RUN, "--steps", "٣"], f"--steps '٣' is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ([*RUN, "--epochs", "0"], f"--epochs '0' is not {WHOLE} 1.", "Give the number of passes over the data"),
    ([*RUN, "--batch-size", "0"], f"--batch-size '0' is not {WHOLE} 1.", "Give the number of rows in a batch."),
    ([*RUN, "--batch-size", "60001"], "--batch-size 60001 is larger than the data", "Choose at most 60000."),
    ([*RUN, "--lr", "0"], "--lr '0' is not a number greater than 0.", "Give a learning rate, such as 1e-3."),
    ([*RUN, "--lr", "nan"], "--lr 'nan' is not a number greater than 0.", "Give a learning rate, such as 1e-3."),
    ([*RUN, "--lr", "inf"], "--lr 'inf' is not a number greater than 0.", "Give a learning rate, such as 1e-3."),
    ([*RUN, "--seed", "x"], f"--seed 'x' is not {WHOLE} 0.", "Give the seed of the random generators."),
    ([*RUN, "--seed", "0", "-1"], f"--seed '-1' is not {WHOLE} 0.", "Give the seed of the random generators."),
    ([*RUN, "--seed", "0", "0"], "--seed 0 0 names a seed twice.", "To repeat trials, use --replicas."),
    ([*RUN, "--replicas", "many"], f"--replicas 'many' is not {WHOLE} 1.", "Give the number of times"),
    ([*RUN, "--noise", "-1"], f"--noise '-1' is not {WHOLE} 0.", "or 0 for none."),
    ([*RUN, "--audit-every", "-1"], f"--audit-every '-1' is not {WHOLE} 0.", "or 0 for no audit."),
    ([*RUN, "--save-every", "0"], "--save-every '0' is not a number greater than 0.", "Give a time in seconds."),
    (["run", "--step-timeout", "-1"], "--step-timeout '-1' is not a number greater", "Give a time in seconds."),
    (["run", "--wait-for-nodes", "0"], f"--wait-for-nodes '0' is not {WHOLE} 1.", "Give the number of nodes"),
    # Losses.
    ([*RUN, "--loss", "numppy"], "Unknown loss 'numppy'.", f"{KNOWN_LOSSES} Did you mean numpy?"),
    ([*RUN, "--loss", "bulitin", "numpy"], "Unknown loss 'bulitin'.", "Did you mean builtin?"),
    ([*RUN, "--loss", ""], "Unknown loss ''.", KNOWN_LOSSES),
    ([*RUN, "--loss", "mse:"], "Unknown loss 'mse:'.", KNOWN_LOSSES),
    ([*RUN, "--loss", "numpy", "numpy"], "Loss 'numpy' is given 2 times.", "Give each once"),
    ([*RUN, "--loss", WRONG], f"Loss file '{WRONG}' is given without the name of a loss in it.", "It has: Doubled,"),
    ([*RUN, "--loss", f"{WRONG}:"], "is given without the name of a loss in it.", f"Give {WRONG}:NAME."),
    ([*RUN, "--loss", f"{WRONG}:Doubeld"], "has no attribute 'Doubeld'.", f"Did you mean {WRONG}:Doubled?"),
    ([*RUN, "--loss", "builtin", "tests/two_ranks.py"], "is given without the name", "Give tests/two_ranks.py:NAME."),
    ([*RUN, "--loss", "builtin", "nowhere.py:mse"], "Loss file 'nowhere.py' does not exist", "Check the path."),
    ([*RUN, "--loss", "builtin", "nowhere.py"], "Loss file 'nowhere.py' does not exist", "Check the path."),
    ([*RUN, "--loss", "builtin", "tests/.py:mse"], "Loss file 'tests/.py' does not exist", "Check the path."),
    ([*RUN, "--loss", "builtin", "nowhere:mse"], "Module 'nowhere' was not found", "give path/to/file.py:attr."),
    ([*RUN, "--loss", "builtin", "torch.nn:MSELos"], "has no attribute 'MSELos'.", "Did you mean torch.nn:MSELoss?"),
    ([*RUN, "--loss", "builtin", "math:pi"], "Module 'math': pi is of type float.", "A loss is a function"),
    (["check", "numppy"], "Unknown loss 'numppy'.", "Did you mean numpy?"),
    (["check"], "FILE:ATTR is missing.", "Write parity check FILE:ATTR"),
    (["check", "numpy", "--baseline", "numpy"], "Loss 'numpy' is given 2 times.", "Give each once"),
    (["check", "numpy", "--steps", "0"], f"--steps '0' is not {WHOLE} 1.", "Give the number of optimizer steps"),
    (["check", "numpy", "--device", "auto"], "--device auto is for parity run.", "Name each device: --device cpu cuda"),
    # Tasks.
    ([*RUN, "--task", "mnist-autoencodr"], "Unknown task 'mnist-autoencodr'.", "Did you mean mnist-autoencoder?"),
    ([*RUN, "--task", "cifar"], "Unknown task 'cifar'.", "Known tasks: mnist-autoencoder, mnist-classifier; or give"),
    ([*RUN, "--task", "nowhere.py:Task"], "Task file 'nowhere.py' does not exist", "Check the path."),
    ([*RUN, "--task", "tests/tree_tasks.py"], "is given without the name of a task in it.", "It has: "),
    ([*RUN, "--task", "tests/tree_tasks.py:Nothing"], "has no attribute 'Nothing'.", "It has: "),
    # Devices.
    ([*RUN, "--device", "gpu"], "Unknown device 'gpu'.", "Known devices: cpu, "),
    ([*RUN, "--device", "cpuu"], "Unknown device 'cpuu'.", "Did you mean cpu?"),
    ([*RUN, "--device", "cpu:thread=2"], "unknown option 'thread'.", "Did you mean threads?"),
    (
        [*RUN, "--device", "cpu:threads=0"],
        f"threads=0 is not {WHOLE} 1.",
        "Give a number of threads, such as threads=2.",
    ),
    ([*RUN, "--device", "cpu:threads=100000"], "threads=100000 is too many.", "Give at most 1024."),
    ([*RUN, "--device", "cpu:isa=sse"], "isa=sse is unknown.", "Known: default, avx2, avx512."),
    ([*RUN, "--device", "cuda:0"], "Device 'cuda:0' has a number", "Write cuda, or cuda@NODE#0 for one as "),
    ([*RUN, "--device", "cuda:threads=2"], "unknown option 'threads'.", "Known options of cuda: tf32."),
    ([*RUN, "--device", "cpu", "cpu"], "Device 'cpu' is given twice.", "to repeat trials, use --replicas."),
    ([*RUN, "--device", "cpu@h1"], "--device cpu@h1 needs a Ray cluster", "Leave out one of them."),
    ([*RUN, "--each", "node"], "--each needs a Ray cluster", "Leave out one of them."),
    ([*RUN, "--device", "cpu@"], "'' does not name a node.", "Give cpu@NODE"),
    # Folders and files.
    ([*RUN, "--out", ""], "'' is not a path: it is empty.", "Give a folder, or a URI such as s3://BUCKET/DIR."),
    ([*RUN, "--out", "tests"], "tests already exists.", "Choose another --out"),
    ([*RUN, "--out", "README.md/run"], "--out README.md/run cannot be made", "Choose a folder that you can write to."),
    ([*RUN, "--out", "nix://b/x"], "nix://b/x cannot be used", "Give a path, or a URI such as s3://BUCKET/DIR."),
    ([*RUN, "--out", "a\udcffb"], "is not valid UTF-8", "Rename the file."),
    (["run", "--resume", "nowhere"], "nowhere does not exist (looked in ", "Give the --out of a run."),
    (["run", "--resume", ""], "'' is not a path: it is empty.", "Give a folder, or a URI"),
    (["run", "--resume", "docs"], "docs is not a run directory: it has no run.json.", "Give the --out of a run."),
    (["report"], "DIR is missing.", "Write parity report DIR [DIR ...]"),
    (["report", ""], "'' is not a path: it is empty.", "Give a folder, or a URI"),
    (["report", "nowhere"], "nowhere does not exist (looked in ", "Give the --out of a run."),
    (["report", "README.md"], "README.md is a file, and not the folder of a run.", "Give the --out of a run."),
    (["report", "docs", "docs"], "docs is not a run directory: it has no run.json.", "Give the --out of a run."),
    (["report", "docs", "--htm"], "--html has no value.", "Write --html FILE"),
    (["open"], "DIR is missing.", "Write parity open DIR"),
    (["open", ""], "'' is not a path: it is empty.", "Give the --out of a run."),
    (["open", "nowhere"], "nowhere does not exist (looked in ", "Give the --out of a run."),
    (["open", "s3://bucket/run"], "is on an object store", "parity report s3://bucket/run --html report.html"),
    (["columns", "trials"], "Unexpected argument 'trials'", f"parity columns --help {SEE}"),
    (["devices", "--adress", "x"], "Unknown option --adress.", "Did you mean --address?"),
    (["submit", "--out", "/x"], "--address is missing.", "Write parity submit --address URL"),
    (["submit", "--address", "nowhere:8265", "--out", "x"], "--out x is relative", "Give --out an absolute path"),
    (["submit", "--address", "x", "--out", "/x", "--stepps", "3"], "Unknown option --stepps.", "Did you mean --steps?"),
    (["submit", "--address", "x", "--out", "/x", "--inline"], "--inline of parity.run cannot be used", "Leave it out."),
]


@pytest.mark.usefixtures("_nothing_starts")
@pytest.mark.parametrize("inline", [["--inline"], [], ["--address", "local"]])
def test_a_missing_import_of_a_loss_is_reported_before_anything_starts(inline, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("import math\nfrom numpyy.linalg import norm\ndef mse(output, target): ...\n")
    arguments = ["--loss", "builtin", f"{path}:mse", "--out", str(tmp_path / "run")]
    assert main(["run", *inline, *arguments]) == 2
    said = f"{path} imports 'numpyy' in line 2, and there is no such module here. Install it, or correct the name."
    assert capsys.readouterr().err == f"parity: {said}\n"
    assert not (tmp_path / "run").exists()
    with pytest.raises(Trouble, match="imports 'numpyy' in line 2"):
        parity.check(f"{path}:mse", steps=1)


@pytest.mark.parametrize(
    "source",
    [
        "import helper\n",
        "from helper import x\nfrom . import y\n",
        "try:\n    import numpyy\nexcept ImportError:\n    pass\n",
        "if False:\n    import numpyy\n",
        "def f():\n    import numpyy\n",
        "import sys\nsys.path.append('x')\nimport numpyy\n",
        "import sys, types\nsys.modules['numpyy'] = types.ModuleType('numpyy')\nimport numpyy\n",
        "import helper\nimport numpyy\n",  # which may have put another folder on the path
        "import sys\n@sys.modules.setdefault\ndef f(): ...\nimport numpyy\n",
        "import sys\nclass C:\n    sys.path.append('x')\nimport numpyy\n",
        "import torch.nn, os.path, parity\nfrom __future__ import annotations\n",
    ],
)
def test_an_import_that_may_succeed_is_left_to_the_loading(source, tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    assert first_lacking(source, tmp_path) is None


def test_a_file_of_a_package_is_to_be_given_as_its_module(tmp_path, capsys):
    package = tmp_path / "losses" / "mine"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    code = "import math\nfrom .helper import x\ndef mse(output, target): ...\n"
    (package / "squared.py").write_text(code)
    (tmp_path / "alone.py").write_text(code)
    for path, advice in (
        (package / "squared.py", f"Give the module: losses.mine.squared:mse, in the folder {tmp_path}."),
        (tmp_path / "alone.py", "Write the import without the dots."),
    ):
        assert main(["run", "--inline", "--loss", "builtin", f"{path}:mse", "--out", str(tmp_path / "run")]) == 2
        said = "imports from its own package in line 2, but a file that is given by its path belongs to no package."
        assert capsys.readouterr().err == f"parity: {path} {said} {advice}\n"
    # It may say itself what package it is in.
    (tmp_path / "alone.py").write_text(f'__package__ = "losses"\n{code}')
    assert not relative_import((tmp_path / "alone.py").read_text())


def test_code_that_makes_its_module_known_is_trained_with(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far_away.py").write_text("FACTOR = 1.0\n")
    (tmp_path / "extends_path.py").write_text("import sys\nsys.path.append(__file__[:-15] + 'elsewhere')\n")
    for begin in (
        "import extends_path\nfrom far_away import FACTOR\n",
        "import sys, types\nsys.modules['fakemod'] = types.ModuleType('fakemod')\nimport fakemod\n",
    ):
        path = tmp_path / "mine.py"
        path.write_text(f"{begin}def mse(output, target):\n    return ((output - target) ** 2).mean()\n")
        assert parity.check(f"{path}:mse", steps=1).passed
    del sys.modules["fakemod"]


@pytest.fixture
def _nothing_starts(monkeypatch):
    """Whatever would train, or start Ray, is a bug: all of these are reported before."""

    def started(*_, **__):
        raise AssertionError("it was started")

    monkeypatch.setattr(Inline, "train", started)
    monkeypatch.setattr(starting, "LocalRay", started)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("_nothing_starts")
@pytest.mark.parametrize(("arguments", "found", "to_do"), LINES, ids=[" ".join(line[0]) for line in LINES])
def test_a_wrong_command_line_is_one_line_and_exit_status_2(arguments, found, to_do, tmp_path, capsys):
    if arguments[0] == "run" and not {"--out", "--resume"} & {*arguments}:
        arguments = [*arguments, *(["--out", str(tmp_path / "run")] if arguments[-1] not in BARE else [])]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not re.match(r"\d+ s: ", line)]
    assert (printed.out, len(lines)) == ("", 1), printed
    assert lines[0].startswith("parity: ") and lines[0].endswith((".", "?", "report.html"))
    assert found in lines[0] and to_do in lines[0], lines[0]
    assert not (tmp_path / "run").exists()


# Options whose value would otherwise be the next argument.
BARE = ("--steps", "--loss", "--format", "--resume")


def test_there_are_at_least_sixty_wrong_command_lines():
    assert len({tuple(arguments) for arguments, _, _ in LINES}) == len(LINES) >= 60


@pytest.mark.usefixtures("_nothing_starts")
def test_this_check_can_fail(tmp_path):
    """A right command line is started."""
    assert run.main(["--inline", "--device", "cpu", "--steps", "1", "--out", str(tmp_path / "run")]) == 2


def mse(output, target):
    return ((output - target) ** 2).mean()


class Plain:
    pass


class Scaler:
    def get_scale(self):
        return 1.0


class Weighted:
    def __init__(self, weight):
        self.weight = weight


# The arguments of parity.check beside a right loss, what was found, and what is allowed or to be done.
CALLS = [
    ({"candidate": None}, "The loss None is of type NoneType.", "A loss is a function (output, target)"),
    ({"candidate": [mse, None]}, "The loss None is of type NoneType.", "A loss is a function (output, target)"),
    ({"baseline": None}, "The loss None is of type NoneType.", "A loss is a function (output, target)"),
    ({"candidate": {"numpy"}}, "The loss {'numpy'} is of type set.", "A loss is a function (output, target)"),
    ({"candidate": 3}, "The loss 3 is of type int.", "A loss is a function (output, target)"),
    ({"candidate": "numppy"}, "Unknown loss 'numppy'.", f"{KNOWN_LOSSES} Did you mean numpy?"),
    ({"candidate": WRONG}, "is given without the name of a loss in it.", "It has: Doubled,"),
    ({"candidate": Weighted}, "The loss Weighted is a class that cannot be made without weight.", "Give an instance"),
    ({"candidate": ()}, "Nothing to compare", "give a candidate, a second device or replicas."),
    ({"candidate": ["numpy", "numpy"]}, "Loss 'numpy' is given 2 times.", "Give each once"),
    ({"task": None}, "The task None is of type NoneType.", "A task is a class or an object with the functions data,"),
    ({"task": "mnist-autoencodr"}, "Unknown task 'mnist-autoencodr'.", "Did you mean mnist-autoencoder?"),
    ({"task": Plain()}, "Task Plain has no data(), model()", "A task is a class or an object with the functions data,"),
    ({"device": "auto"}, "--device auto is for parity run.", "(device=['cpu', 'cuda'] in Python)."),
    ({"device": None}, "device=None is not a text, nor a list of texts.", "Give one such as 'cpu' or 'cuda'."),
    ({"device": ["cpu", 2]}, "device=['cpu', 2] is not a text, nor a list", "Give one such as 'cpu' or 'cuda'."),
    ({"device": []}, "names none, and without one nothing is trained.", "Give at least one."),
    ({"device": "cpu:thread=2"}, "unknown option 'thread'.", "Did you mean threads?"),
    ({"device": "cpu:threads=100000"}, "threads=100000 is too many.", "Give at most 1024."),
    ({"seed": []}, "seed=[] names none, and without one nothing is trained.", "Give at least one."),
    ({"seed": "x"}, f"seed='x' is not {WHOLE} 0.", "Give the seed of the random generators."),
    ({"seed": None}, f"seed=None is not {WHOLE} 0.", "Give the seed of the random generators."),
    ({"steps": 0}, f"steps=0 is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ({"steps": -1}, f"steps=-1 is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ({"steps": 1.5}, f"steps=1.5 is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ({"steps": True}, f"steps=True is not {WHOLE} 1.", "Give the number of optimizer steps to compare"),
    ({"epochs": 0}, f"epochs=0 is not {WHOLE} 1.", "Give the number of passes over the data"),
    ({"batch_size": 0}, f"batch_size=0 is not {WHOLE} 1.", "Give the number of rows in a batch."),
    ({"batch_size": -5}, f"batch_size=-5 is not {WHOLE} 1.", "Give the number of rows in a batch."),
    ({"batch_size": 60001}, "60001 is larger than the data", "Choose at most 60000."),
    ({"replicas": 0}, f"replicas=0 is not {WHOLE} 1.", "Give the number of times that each trial is trained."),
    ({"noise": -1}, f"noise=-1 is not {WHOLE} 0.", "or 0 for none."),
    ({"lr": float("nan")}, "lr=nan is not a number greater than 0.", "Give a learning rate, such as 1e-3."),
    ({"audit_every": -1}, f"audit_every=-1 is not {WHOLE} 0.", "or 0 for no audit."),
    ({"out": ""}, "out='' is not a directory of this machine.", "Give a new one, or None"),
    ({"out": "tests"}, "tests already exists.", "a new directory."),
]


@pytest.mark.usefixtures("_nothing_starts")
@pytest.mark.parametrize(
    ("arguments", "found", "to_do"), CALLS, ids=[f"{'-'.join(call[0])}-{number}" for number, call in enumerate(CALLS)]
)
def test_a_wrong_call_raises_trouble_before_anything_is_trained(arguments, found, to_do):
    with pytest.raises(Trouble) as trouble:
        parity.check(**{"candidate": mse, "steps": 1, **arguments})
    assert found in str(trouble.value) and to_do in str(trouble.value), str(trouble.value)


GIVE_OUT = "Give a directory, such as 'runs/mine', or a URI."
NO_MODEL = "Give the model itself; several go into a torch.nn.ModuleDict."
NO_LOSS = "Give a function (output, target) -> scalar, such as torch.nn.MSELoss(), or None."

# The arguments of parity.Recorder beside a right model, what was found, and what is allowed or to be done.
RECORDERS = [
    ({"out": 3}, "out is an object of class int.", GIVE_OUT),
    ({"out": None}, "out is an object of class NoneType.", GIVE_OUT),
    ({"out": b"runs"}, "out is an object of class bytes.", GIVE_OUT),
    ({"out": ""}, "out is empty.", "Give a directory, such as 'runs/mine'."),
    ({"model": None}, "model is an object of class NoneType, which is not a torch.nn.Module.", NO_MODEL),
    ({"name": None}, "name is an object of class NoneType.", "Give a string."),
    ({"criterion": "mse"}, "criterion is an object of class str, which is not a loss.", NO_LOSS),
    ({"criterion": "auto"}, "criterion is an object of class str, which is not a loss.", NO_LOSS),
    ({"optimizers": None}, "an object of class NoneType, which is not a torch.optim.Optimizer.", "Give the optimizer"),
    ({"optimizers": "adam"}, "an object of class str, which is not a torch.optim.Optimizer.", "Give the optimizer"),
    ({"scaler": 3}, "scaler is an object of class int, which has no scale.", "Give a torch.amp.GradScaler, or None."),
    ({"scaler": 2.0**16}, "scaler is an object of class float, which has no scale.", "Give a torch.amp.GradScaler"),
    ({"scaler": False}, "scaler is an object of class bool, which has no scale.", "Give a torch.amp.GradScaler"),
    ({"scaler": Scaler}, "scaler is the class Scaler, which has no scale.", "Give a torch.amp.GradScaler, or None."),
    ({"also": 3}, "also is an object of class int.", "Give a dictionary of models by their names."),
    ({"also": {"ema": None}}, "also['ema'] is an object of class NoneType", NO_MODEL),
    ({"also": {3: None}}, "also has the key 3, an object of class int.", "Give each model a string as its name."),
    ({"first_step": None}, f"first_step=None is not {WHOLE} 0.", "Give the number of steps that were taken before"),
    ({"steps_per_epoch": "10"}, f"steps_per_epoch='10' is not {WHOLE} 1.", "or None for one epoch without an end."),
    ({"audit_every": True}, f"audit_every=True is not {WHOLE} 0.", "Give 1 to audit every step"),
    ({"audit_every": None}, f"audit_every=None is not {WHOLE} 0.", "or 0 for no audit."),
    ({"seed": "0"}, f"seed='0' is not {WHOLE} 0.", "Give the seed of the random generators."),
    ({"replica": 0.0}, f"replica=0.0 is not {WHOLE} 0.", "Give 0, or the number of the repeat."),
    ({"digest": "sha1"}, "digest='sha1' is not a kind of digest.", "Give 'auto', 'xxh3' or 'words'."),
    ({"digest": None}, "digest=None is not a kind of digest.", "Give 'auto', 'xxh3' or 'words'."),
    ({"overwrite": "no"}, "overwrite is an object of class str.", "Give True or False."),
    ({"overwrite": None}, "overwrite is an object of class NoneType.", "Give True or False."),
    ({"quiet": 1}, "quiet is an object of class int.", "Give True, False, or None."),
]


@pytest.mark.parametrize(
    ("arguments", "found", "to_do"),
    RECORDERS,
    ids=[f"{'-'.join(each[0])}-{number}" for number, each in enumerate(RECORDERS)],
)
def test_a_wrong_argument_of_the_recorder_is_refused_before_anything_is_recorded(arguments, found, to_do, tmp_path):
    with pytest.raises(Trouble) as trouble:
        parity.Recorder(**{"out": tmp_path / "run", "model": torch.nn.Linear(1, 1), **arguments})
    said = str(trouble.value)
    assert found in said and to_do in said and said.startswith(("parity.Recorder: ", f"{next(iter(arguments))}="))
    assert [*tmp_path.iterdir()] == []


def test_there_are_at_least_twenty_two_wrong_calls():
    assert len(CALLS) >= 22
