"""What run.json says while a run is in progress."""

import importlib.metadata
import json

import pytest

from parity.store import run_info


def test_a_package_that_is_not_installed_has_no_version(make_trials, monkeypatch):
    """Training in this process, and a Recorder, need no Ray."""
    genuine = importlib.metadata.version

    def version(name):
        if name == "ray":
            raise importlib.metadata.PackageNotFoundError(name)
        return genuine(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(run_info, "_version", run_info._version.__wrapped__)  # which keeps no answer
    versions = json.loads(json.dumps(run_info.describe("test", make_trials(), data=None)))["versions"]
    assert versions["ray"] is None
    assert versions["torch"] == genuine("torch")


CLUSTER = {"address": "h1:6379", "classes": [{"cpu_model": "x"}], "nodes": {"h1": 0}}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"devices": "cpu"}, "its 'devices' is 'cpu'"),
        ({"devices": [None]}, "its 'devices' are not all texts"),
        ({"cluster": CLUSTER | {"address": 1}}, "the address of its cluster is 1"),
        ({"cluster": CLUSTER | {"classes": [1]}}, "the classes of its cluster are not all objects"),
        ({"cluster": CLUSTER | {"nodes": {"h1": 1}}}, "the nodes of its cluster do not each have one of its 1 classes"),
        (
            {"cluster": CLUSTER | {"nodes": {"h1": [0]}}},
            "the nodes of its cluster do not each have one of its 1 classes",
        ),
    ],
)
def test_what_a_run_is_continued_on_is_checked(wrong, expected):
    info = {"devices": ["cpu@h1"], "cluster": CLUSTER}
    assert run_info.find_wrong_value(info) is None
    assert run_info.find_wrong_value(info | wrong) == expected
