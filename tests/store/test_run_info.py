"""What run.json says while a run is in progress."""

import importlib.metadata
import json

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
