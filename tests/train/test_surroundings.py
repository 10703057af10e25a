"""A check in a process of somebody else's: it depends on nothing there, and leaves nothing of a loss behind."""

import doctest
import os
import re
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.__main__ import main
from parity.ground.errors import Trouble
from parity.observe.settings import settings_restored
from parity.train import surroundings

from conftest import command


def run(*arguments):
    return main(["run", "--loss", "builtin", *arguments, "--inline"])


def right(output, target):
    return nn.functional.mse_loss(output, target)


class Small:
    """A task of a few rows."""

    def data(self):
        return {"points": np.ones((32, 4), np.float32)}

    def model(self):
        return nn.Linear(4, 4)

    def optimizer(self, parameters, lr):
        return torch.optim.SGD(parameters, lr)

    def batch(self, data, start, stop):
        return (torch.tensor(data["points"][start:stop]),)

    def forward(self, model, batch):
        return model(batch[0]), batch[0]

    def loss(self, output, target):
        return right(output, target)


def test_the_examples_are_true():
    tried = doctest.testmod(surroundings)
    assert (tried.failed, tried.attempted >= 2) == (0, True)


def test_checks_in_two_threads_do_not_disturb_each_other():
    found = {}

    def check(number):
        found[number] = parity.check(right, steps=4, batch_size=64, progress=False).verdict

    threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == dict.fromkeys(range(4), "identical")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_check_of_a_thread_that_it_lacks():
    checking, ended = threading.Event(), threading.Event()

    def loss(output, target):
        checking.set()
        assert ended.wait(60)
        return right(output, target)

    thread = threading.Thread(target=lambda: parity.check(loss, task=Small, steps=1, batch_size=16, progress=False))
    thread.start()
    assert checking.wait(60)
    if (process := os.fork()) == 0:
        os._exit(0 if parity.api._one_at_a_time.acquire(blocking=False) else 1)
    ended.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_loss_that_ends_the_process_has_failed():
    def ending(output, target):
        if (copy := os.fork()) == 0:
            os._exit(7)  # a process of its own
        assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 7
        os._exit(0)

    genuine = os._exit
    if (process := os.fork()) == 0:
        result = parity.check(ending, task=Small, steps=1, batch_size=16, progress=False)
        right_away = result.verdict == "failed" and "SystemExit: os._exit(0)" in str(result)
        os._exit(3 if right_away and os._exit is genuine else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_another_thread_may_end_the_process():
    def watched(output, target):
        watching = threading.Thread(target=os._exit, args=(5,))
        watching.start()
        watching.join()
        return right(output, target)

    if (process := os.fork()) == 0:
        parity.check(watched, task=Small, steps=1, batch_size=16, progress=False)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 5


def test_a_loss_may_make_a_check_itself():
    made = []

    def checking(output, target):
        if not made:  # once, since each takes its time
            made.append(parity.check(right, task=Small, steps=1, batch_size=16, progress=False).passed)
        return right(output, target)

    assert parity.check(checking, task=Small, steps=1, batch_size=16, progress=False).verdict == "identical"
    assert made == [True]


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
    ids=["no_grad", "inference", "autocast", "meta"],
)
def test_what_surrounds_a_check_does_not_change_its_numbers(around):
    plain = parity.check(right, steps=2, batch_size=64, progress=False)
    with around():
        within = parity.check(right, steps=2, batch_size=64, progress=False)
    assert within.verdict == "identical"
    assert within.traces.param_digest.tolist() == plain.traces.param_digest.tolist()


def test_the_default_dtype_of_a_process_is_none_of_a_shipped_tasks(monkeypatch):
    torch.set_default_dtype(torch.float64)
    try:
        assert parity.check(right, steps=2, batch_size=64, progress=False).verdict == "identical"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def switching(output, target):
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.autograd.set_detect_anomaly(True)
    torch.set_grad_enabled(False)
    with torch.enable_grad():
        return right(output, target)


def test_what_one_loss_switches_is_gone_for_the_next_one_and_afterwards():
    result = parity.check([switching, right], steps=2, batch_size=64, progress=False)
    verdicts = {pair.pair.candidate.loss_name: pair.verdict for pair in result.judgement.pairs}
    assert verdicts["right"] == "identical"
    assert (torch.get_default_dtype(), torch.get_default_device().type) == (torch.float32, "cpu")
    assert torch.is_grad_enabled() and not torch.is_anomaly_enabled()
    assert torch.get_deterministic_debug_mode() == 0


def test_a_loss_that_changes_the_folder_and_stdout_moves_neither_run_nor_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import io, os, sys\n"
        "def loss(output, target):\n"
        "    os.chdir('/')\n"
        "    sys.stdout = sys.stderr = io.StringIO()\n"
        "    return ((output - target) ** 2).mean()\n"
    )
    streams = sys.stdout, sys.stderr
    assert run("mine.py:loss", "--steps", "2", "--out", "runs/mine") == 0
    assert (Path.cwd(), (sys.stdout, sys.stderr)) == (tmp_path, streams)
    assert (tmp_path / "runs/mine/report.html").exists()
    assert "Stored in runs/mine" in capsys.readouterr().out


def test_a_folder_that_was_removed_stays_removed(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    with surroundings.CallersPlace():
        os.chdir(tmp_path)
        gone.rmdir()
    assert Path.cwd() == tmp_path


def test_a_target_that_the_loss_lets_require_a_gradient_trains_as_without():
    def requiring(output, target):
        target.requires_grad_()
        return right(output, target)

    assert parity.check(requiring, steps=2, batch_size=64, progress=False).verdict == "identical"


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_batch_that_is_a_view_of_the_data_does_not_reach_the_next_trial():
    class Writing(Small):
        def batch(self, data, start, stop):
            return (torch.from_numpy(data["points"][start:stop]),)

        def forward(self, model, batch):
            batch[0].mul_(2)
            return model(batch[0]), batch[0]

    assert parity.check(right, task=Writing, steps=4, batch_size=16, progress=False).verdict == "identical"


def test_a_lazy_module_is_a_loss():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(1)

        def forward(self, output, target):
            return right(output, target)

    assert parity.check(Lazy, steps=1, batch_size=64, progress=False).verdict == "identical"


def test_a_lazy_model_is_refused_in_words(tmp_path):
    class LazyTask(Small):
        def model(self):
            return nn.Sequential(nn.LazyLinear(4))

    result = parity.check(right, task=LazyTask, steps=1, batch_size=16, progress=False)
    assert "has the parameter 0.weight without a shape; let model() call it once" in " ".join(result.message.split())
    with pytest.raises(Trouble, match=r"the parameter weight without a shape. Call the model on a batch first"):
        parity.Recorder(tmp_path / "run", nn.LazyLinear(4))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Linear(4, 4, device="meta")), "the parameter 0.weight"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False, device="meta")), "the buffer 1.running_mean"),
    ],
    ids=["parameter", "buffer"],
)
def test_a_model_without_values_is_refused_in_words(tmp_path, model, found):
    message = (
        f"parity.Recorder: model has {found} on the device meta, where tensors have no values. Move the model to a "
        "device with model.to_empty(device=...), and load its weights, before it is recorded."
    )
    with pytest.raises(Trouble, match=f"^{re.escape(message)}$"):
        parity.Recorder(tmp_path / "run", model)
    assert not (tmp_path / "run").exists()


def test_a_loss_with_other_arguments_is_not_blamed_on_a_line_of_parity():
    def three(output, target, weight):
        return right(output, target) * weight

    message = parity.check(three, steps=1, batch_size=64, progress=False).message
    assert "Make the loss a function of two arguments, (output," in message
    assert "step.py" not in message


def test_an_error_of_the_engine_names_no_line_to_fix():
    class WrongShape(torch.autograd.Function):
        @staticmethod
        def forward(ctx, output, target):
            return right(output, target)

        @staticmethod
        def backward(ctx, grad):
            return torch.zeros(3), None

    message = parity.check(WrongShape, steps=1, batch_size=64, progress=False).message
    assert "Fix the RuntimeError" not in message and "step.py" not in message


def test_two_sides_of_nothing_but_nan_are_said_to_be_so():
    class Empty(Small):
        def data(self):
            return {"points": np.full((32, 4), np.nan, np.float32)}

    result = parity.check(right, task=Empty, steps=2, batch_size=16, progress=False)
    assert "(losses are NaN)" in " ".join(result.message.split())
    assert "one of the losses" not in result.report and "No action needed" not in result.report


def test_what_is_no_exception_ends_a_command_with_2(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "class Stop(BaseException):\n    pass\ndef loss(output, target):\n    raise Stop('enough')\n"
    )
    assert run(f"{tmp_path}/mine.py:loss", "--steps", "2", "--out", str(tmp_path / "run")) == 2
    assert "parity: Stop was raised, which is not an Exception" in capsys.readouterr().err


def test_a_command_with_a_space_in_its_path_can_be_copied(tmp_path, capsys):
    out = str(tmp_path / "a b")
    assert run("numpy", "--steps", "1", "--out", out) == 0
    assert run("numpy", "--steps", "1", "--out", out) == 2
    assert f"continue it with --resume '{out}'." in capsys.readouterr().err


def test_a_training_that_nobody_goes_on_with_changes_nothing_whenever_it_ends(tmp_path, monkeypatch):
    """Python ends it when it finds that nobody has it any more, in the midst of something else."""

    def training():
        with settings_restored(), surroundings.CallersPlace() as place:
            torch.set_num_threads(2)
            os.chdir(tmp_path)
            with place.callers():
                yield Path.cwd()

    begun = training()
    assert next(begun) == Path.cwd() != tmp_path, "what is stored meanwhile goes where the caller is"
    torch.set_num_threads(3)
    monkeypatch.chdir(tmp_path.parent)
    begun.close()
    assert (torch.get_num_threads(), Path.cwd()) == (3, tmp_path.parent)
    # One that ends by itself puts everything back.
    assert len([*training()]) == 1
    assert (torch.get_num_threads(), Path.cwd()) == (3, tmp_path.parent)


def started(tmp_path, *lines):
    """How a run ends in a process of its own with a loss that begins with these lines."""
    body = "".join(f"    {line}\n" for line in lines)
    (tmp_path / "odd.py").write_text(
        f"import os, pathlib, sys\n\n\ndef odd(output, target):\n{body}    return ((output - target) ** 2).mean()\n"
    )
    arguments = ["--inline", "--steps", "3", "-q", "--loss", "builtin", f"{tmp_path}/odd.py:odd"]
    return command("-m", "parity.run", *arguments, "--out", str(tmp_path / "run"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("calls", ["True", "len(output) > 8"], ids=["in its contract", "in the training"])
def test_a_copy_of_the_process_that_a_loss_forks_does_not_train_on(tmp_path, calls):
    # Once only: whatever becomes of the copy, there is one.
    forked = f"mark = pathlib.Path({str(tmp_path / 'forked')!r})"
    noted = f"open({str(tmp_path / 'calls')!r}, 'a').write(f'{{os.getpid()}}\\n')"
    ended = started(tmp_path, forked, f"if {calls} and not mark.exists():", "    mark.touch()", "    os.fork()", noted)
    assert (tmp_path / "forked").exists()
    # The copy returns from the call that it was forked in, and makes no other one.
    original, copy = Counter((tmp_path / "calls").read_text().split()).most_common()
    assert original[1] > copy[1] == 1
    assert ended.stderr.count("the loss or task forked a process that returned") == 1
    # An item of the contract sees that the loss has changed something, or all is well.
    assert ended.status in (0, 1) and ended.stdout.count("mnist-autoencoder, 3 steps: ") == 1
    assert command("-m", "parity.report", str(tmp_path / "run")).status == ended.status


def test_a_loss_that_closes_stdout_leaves_the_run(tmp_path):
    ended = started(tmp_path, "sys.stdout.close()")
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr == "parity: something closed stdout, perhaps the loss. What was stored is kept.\n"
    assert command("-m", "parity.report", str(tmp_path / "run")).status == 0
