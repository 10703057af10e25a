"""What the tests of recorded trainings ask of two recordings."""

import json

import pandas as pd
import pyarrow.parquet as pq

from parity import report

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
