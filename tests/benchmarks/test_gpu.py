"""benchmarks/gpu.py, tried on the CPU: a lent GPU must not meet a script that breaks."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def measure(out, *parts):
    command = [sys.executable, str(SCRIPT), "--pretend", "--out", str(out), "--parts", *parts]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_parts_are_measured_once_and_summarized(tmp_path):
    done = measure(tmp_path, "facts", "digest", "steps: autoencoder")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["facts", "digest", "steps: autoencoder"]
    assert all(not each["unequal"] and not each["changed_bits_missed"] for each in results["digest"].values())
    assert list(results["steps: autoencoder"]) == ["bare", "recorded", "recorded and audited"]
    assert "| autoencoder | recorded and audited |" in (tmp_path / "summary.md").read_text()
    assert "facts: stored already" in measure(tmp_path, "facts").stdout
