"""No room left: said with the file's name, and the run is gone on with once there is some."""

import resource
import signal
import subprocess
import sys

import pandas as pd
import pytest

from parity import run

from conftest import QUICK, ROOT, bits

pytestmark = pytest.mark.kills
RUN = [*QUICK, "--steps", "150", "--audit-every", "50"]


def limited(size):
    """Lets the process write no file of more bytes: as on a full disk, a writing stops in its midst."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return limit


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run.main([*RUN, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(("size", "save_every", "full"), [(60_000, 1000, "journal"), (1_000_000, 0.01, "states")])
def test_what_was_told_before_the_disk_was_full_is_kept(undisturbed, tmp_path, size, save_every, full):
    out = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-m", "parity.run", *RUN, "--save-every", str(save_every), "--out", out],
        cwd=ROOT,
        preexec_fn=limited(size),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"parity: {out / full}")
    assert "File too large" in ended.stderr and "Traceback" not in ended.stderr
    assert f"What was trained is kept: continue it with --resume {out}." in ended.stderr
    assert run.main(["--resume", str(out)]) == 0
    pd.testing.assert_frame_equal(bits(out), bits(undisturbed), check_exact=True)
    assert {path.name for path in out.iterdir()} == {path.name for path in undisturbed.iterdir()}
