"""A module or file that one host lacks is that node's trouble; what is lacking everywhere is the loss's."""

from dataclasses import replace

import pytest

from parity.cluster.lacking import blame_node
from parity.store.events import Ended
from parity.train.perform import perform

FAILED = Ended("mine@cpu@h2-s0", status="failed", failure="raised", error="loading the loss raised", traceback="…")


@pytest.fixture
def trial(make_trials, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def mine(output, target):\n    return ((output - target) ** 2).mean()\n")
    (tmp_path / "helper.py").touch()
    (trial,) = make_trials(f"{path}:mine", steps=3)
    return trial


def test_a_file_that_the_driver_has_is_lacking_on_the_node(trial, tmp_path):
    path = tmp_path / "weights.txt"
    path.touch()
    ended = replace(FAILED, lacks_file=str(path))
    assert blame_node(ended, trial, "h2") == replace(
        ended,
        failure="node",
        error=f"node h2 has no file '{path}', which the machine of the driver has. "
        "Copy it there, or put it on storage that all nodes share",
    )


@pytest.mark.parametrize("name", ["helper", "parity.plan.lines"])
def test_a_module_that_the_driver_finds_is_lacking_on_the_node(trial, name):
    ended = blame_node(replace(FAILED, lacks_module=name), trial, "h2")
    assert (ended.failure, ended.error) == (
        "node",
        f"node h2 has no module '{name}', which the machine of the driver has. "
        "Install it there, or put it on storage that all nodes share",
    )


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"lacks_module": "no_such_module"},
        {"lacks_file": "/no/such/file"},
        {"lacks_module": "helper", "failure": "result"},
    ],
    ids=str,
)
def test_what_is_lacking_everywhere_is_the_failure_of_the_loss(trial, what):
    ended = replace(FAILED, **what)
    assert blame_node(ended, trial, "h2") is ended


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("import no_such.module", ("no_such", None)),
        ("open('/no/such/file')", (None, "/no/such/file")),
        ("try:\n    open('/no/such/file')\nexcept OSError:\n    raise ValueError('no data')", (None, "/no/such/file")),
        ("from json import nothing", (None, None)),
        ("raise FileNotFoundError('what?')", (None, None)),
        ("1 / 0", (None, None)),
    ],
)
def test_a_trial_says_what_its_code_did_not_find(make_trials, data, tmp_path, code, lacks):
    path = tmp_path / "mine.py"
    indented = code.replace("\n", "\n        ")
    path.write_text(f"def mine(output, target):\n    if True:\n        {indented}\n")
    (trial,) = make_trials(f"{path}:mine", steps=3)
    *_, ended = perform(trial, data)
    assert (ended.status, ended.failure) == ("failed", "raised")
    assert (ended.lacks_module, ended.lacks_file) == lacks
