"""benchmarks/gpu.py, tried on the CPU: a lent GPU must not meet a script that breaks."""

import json

from conftest import ROOT, warm_command

SCRIPT = ROOT / "benchmarks" / "gpu.py"


# The script, once for each list of parts, in a process that imports torch once.
RUN_EACH = """
import json, runpy, sys
script, out, several = sys.argv[1:]
for parts in json.loads(several):
    sys.argv = [script, "--pretend", "--out", out, "--parts", *parts]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        print("status", ended.code)
print("a loop was recorded in this process:", "parity.recorder" in sys.modules)
"""


def measure(out, *several):
    return warm_command("-c", RUN_EACH, SCRIPT, out, json.dumps(several))


def test_parts_are_measured_once_and_summarized(tmp_path):
    done = measure(tmp_path, ["facts", "digest", "steps: autoencoder"], ["facts"])
    first, _, again = done.stdout.partition("status 0\n")
    # What is timed has a process of its own.
    here = "a loop was recorded in this process: False\n"
    assert again == f"facts: stored already\nStored in {tmp_path}\nstatus 0\n{here}", done.stdout + done.stderr
    assert "facts: stored already" not in first
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["facts", "digest", "steps: autoencoder"]
    for each in results["digest"].values():
        assert not any(each[kind + name] for kind in ("", "words_") for name in ("unequal", "changed_bits_missed"))
    assert list(results["steps: autoencoder"]) == ["bare", "recorded", "recorded and audited"]
    summary = (tmp_path / "summary.md").read_text()
    assert "| words | the GPU | 140 | 7 | 0 | 0 |" in summary
    assert "| autoencoder | recorded and audited |" in summary
