"""The trial of a recorded loop, as run.json has it, and its tables where its process was killed; needs no torch."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from parity.devices import Device
from parity.gather import Gatherer, forget_journal
from parity.progress import TrialProgress
from parity.storage import StoragePath
from parity.store import complete, hold, read_info
from parity.trial import Settings, Trial
from parity.user_code import CodeSpec

TASK = "recorded"


def make_trial(asked: Mapping[str, Any]) -> Trial:
    """What is known of a loop before its first step.

    Args:
        asked: The part "recorded" of run.json.
    """
    settings = Settings(
        task=CodeSpec(name=TASK, attr=TASK),
        rows=1,
        batch_size=1,
        steps=0,
        lr=float("nan"),
        audit_every=asked["audit_every"],
    )
    loss, oracle = (CodeSpec(name=asked[name], attr=asked[name]) for name in ("name", "oracle"))
    device = Device(**asked["device"])
    return Trial(
        loss=loss, oracle=oracle, device=device, seed=asked["seed"], replica=asked["replica"], settings=settings
    )


def finish(directory: StoragePath) -> None:
    """Makes the tables of a recording whose process was killed, from its journal; the trial counts as interrupted.

    Raises:
        Trouble: It is in use, or damaged.
    """
    with hold(directory):
        info = read_info(directory)
        if info["state"] == "complete":
            return
        trial = make_trial(info["recorded"])
        with ExitStack() as held:
            progress = held.enter_context(TrialProgress([trial.name], steps=1))
            gatherer = Gatherer([trial], directory, progress)
            held.callback(gatherer.close)
            gatherer.write_tables()
            complete(directory, info | {"steps": gatherer.rows})
        forget_journal(directory)
