"""No room left: said with the file's name, and the run is gone on with once there is some."""

import resource
from contextlib import contextmanager

import pandas as pd
import pytest

from parity import run

from conftest import QUICK, bits

pytestmark = pytest.mark.kills
RUN = [*QUICK, "--steps", "60", "--audit-every", "30"]


@contextmanager
def limited(size):
    """Lets this process write no file of more bytes: as on a full disk, a writing stops in its midst.

    The signal that comes with it, SIGXFSZ, is ignored by Python.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run.main([*RUN, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(("size", "save_every", "full"), [(24_000, 1000, "journal"), (1_000_000, 0.01, "states")])
def test_what_was_told_before_the_disk_was_full_is_kept(undisturbed, tmp_path, capfd, size, save_every, full):
    out = tmp_path / "run"
    with limited(size):
        assert run.main([*RUN, "--save-every", str(save_every), "--out", str(out)]) == 2
    shown = capfd.readouterr().err
    assert shown.splitlines()[-1].startswith(f"parity: {out / full}")
    assert "File too large" in shown and "Traceback" not in shown
    assert f"What was trained is kept: continue it with --resume {out}." in shown
    assert run.main(["--resume", str(out)]) == 0
    pd.testing.assert_frame_equal(bits(out), bits(undisturbed), check_exact=True)
    assert {path.name for path in out.iterdir()} == {path.name for path in undisturbed.iterdir()}
