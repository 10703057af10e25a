"""What the tests of recorded trainings ask of two recordings."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from parity import report
from parity.ground.errors import Trouble

from conftest import bits


def trace(directory):
    return pd.read_parquet(str(directory / "traces")).sort_values("step", ignore_index=True)


def trial(directory):
    (row,) = pq.read_table(directory / "trials.parquet").to_pylist()
    return row


def same_traces(one, other):
    """Asserts that all columns are equal but for the generators, from which the libraries draw between their steps."""
    found = [bits(each).drop(columns="generator_digests") for each in (one, other)]
    pd.testing.assert_frame_equal(*found, check_exact=True)


def compare(baseline, candidate, capsys):
    """The one pair of two recordings, as summary.json has it."""
    capsys.readouterr()  # what the trainings have printed
    report.main([str(baseline), str(candidate), "--format", "json"])
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    return pair


KNOWN = "Known arguments: also, audit_every, digest, name, overwrite, quiet, replica, seed, steps_per_epoch."
# Arguments that parity.hf, parity.lightning and parity.accelerate refuse: what was found, and what is to be done.
WRONG = [
    ({"out": 3}, "out is an object of class int.", "Give a directory, such as 'runs/mine', or a URI."),
    ({"out": ""}, "out is empty.", "Give a directory, such as 'runs/mine'."),
    ({"criterion": 3}, "criterion is an object of class int, which is not a loss.", "or None."),
    ({"criterion": "mse"}, "criterion is an object of class str, which is not a loss.", "Give a function"),
    ({"name": 3}, "name is an object of class int.", "Give a string."),
    ({"also": [3]}, "also is an object of class list.", "Give a dictionary of models by their names."),
    ({"steps_per_epoch": 0}, "steps_per_epoch=0 is not a whole number of at least 1.", "or None for one epoch"),
    ({"audit_every": -1}, "audit_every=-1 is not a whole number of at least 0.", "or 0 for no audit."),
    ({"seed": None}, "seed=None is not a whole number of at least 0.", "Give the seed of the random generators."),
    ({"replica": "1"}, "replica='1' is not a whole number of at least 0.", "Give 0, or the number of the repeat."),
    ({"digest": 3}, "digest=3 is not a kind of digest.", "Give 'auto', 'xxh3' or 'words'."),
    ({"overwrite": 1}, "overwrite is an object of class int.", "Give True or False."),
    ({"quiet": "yes"}, "quiet is an object of class str.", "Give True, False, or None."),
    ({"nam": "mine"}, "unknown argument 'nam'.", f"{KNOWN} Did you mean name?"),
    ({"scaler": None}, "unknown argument 'scaler'.", KNOWN),
]


def refuses(make, arguments, found, to_do):
    """Asserts that a call is refused with what was found and what is to be done."""
    with pytest.raises(Trouble) as trouble:
        make(**arguments)
    assert found in str(trouble.value) and to_do in str(trouble.value), str(trouble.value)
