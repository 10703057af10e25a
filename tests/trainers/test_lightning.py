"""Lightning's Trainer, recorded by one argument: the same trace as by hand, and no bit of the training is changed."""

import copy
import io

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from recordings import WRONG, compare, refuses, same_traces, trace, trial
from torch import nn
from torch.utils.data import DataLoader

import parity
from parity.ground.errors import Trouble
from parity.lightning import ParityCallback

STEPS, PARTS = 3, 2
OPTIONS = {
    "max_steps": STEPS,
    "accumulate_grad_batches": PARTS,
    "gradient_clip_val": 0.1,
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore", "error:parity"),
]


def loader(count=8):
    generator = torch.Generator().manual_seed(0)
    return DataLoader([(torch.randn(4, 6, generator=generator), torch.randn(4, 2, generator=generator))
                       for _ in range(count)], batch_size=None)  # fmt: skip


class Module(lightning.LightningModule):
    """A model with batch norm, which an evaluation does not touch, and a loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)

    def configure_optimizers(self):
        return {
            "optimizer": self.optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5), "interval": "step"},
        }

    def training_step(self, batch, _):
        return self.criterion(self.model(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.criterion(self.model(batch[0]), batch[1])


class ByHand(Module):
    """The same with a Recorder of its own."""

    def __init__(self, out):
        super().__init__()
        self.recorder = parity.Recorder(out, self.model, optimizers=self.optimizer, criterion=self.criterion)

    def training_step(self, batch, _):
        output = self.model(batch[0])
        loss = self.criterion(output, batch[1])
        self.recorder.forward(batch[0], output=output, target=batch[1], loss=loss, factor=1 / PARTS)
        return loss

    def on_after_backward(self):
        if not self.trainer.fit_loop._should_accumulate():
            self.recorder.backward()

    def on_train_batch_end(self, _, batch, number):
        if (number + 1) % PARTS == 0:
            self.recorder.step()

    def on_fit_end(self):
        self.recorder.close()


def fit(module, out=None, *, resume=None, data=None, **options):
    callbacks = [ParityCallback(out)] if out else []
    trainer = lightning.Trainer(callbacks=callbacks, **OPTIONS | options)
    trainer.fit(module, data or loader(), loader(2), ckpt_path=resume)
    return trainer


def test_the_trace_is_that_of_the_calls_by_hand_and_no_bit_of_the_training_is_changed(tmp_path):
    fit(ByHand(tmp_path / "hand"))
    module, plain = Module(), Module()
    # Evaluated before the first step (the sanity check), and after each step.
    fit(module, tmp_path / "callback", val_check_interval=2)
    fit(plain, val_check_interval=2)
    same_traces(tmp_path / "hand", tmp_path / "callback")
    assert all(map(torch.equal, module.state_dict().values(), plain.state_dict().values()))
    found = trace(tmp_path / "callback")
    assert list(found.step) == [0, 1, 2] and list(found["rows"]) == [8, 8, 8]
    assert (found.param_grad_norm > 0.2).all() and (abs(found.step_grad_norm - 0.1) < 1e-6).all()
    assert "training_step" not in vars(module) and not any(each._forward_hooks for each in module.modules())


def test_a_resumed_training_is_compared_from_its_first_step_on(tmp_path, capsys):
    # An epoch for each step: within an epoch Lightning begins with the first batch again.
    fit(Module(), tmp_path / "whole", data=loader(PARTS))
    fit(Module(), data=loader(PARTS), max_steps=1).save_checkpoint(tmp_path / "one.ckpt")
    fit(Module(), tmp_path / "resumed", data=loader(PARTS), resume=tmp_path / "one.ckpt")
    assert list(trace(tmp_path / "resumed").step) == [1, 2]
    pair = compare(tmp_path / "whole", tmp_path / "resumed", capsys)
    # Lightning stores no generators, from one of which the loader draws.
    assert (pair["steps"], pair["onset"]) == (2, None) and "every tensor is equal to the bit, but" in pair["cause"]


class Failing(Module):
    """Raises in its third batch, which is the first of the second step."""

    def training_step(self, batch, number):
        if number == 2:
            raise ArithmeticError("no loss")
        return super().training_step(batch, number)


def test_a_training_that_raises_has_failed_and_its_steps_are_kept(tmp_path):
    module = Failing()
    with pytest.raises(ArithmeticError):
        fit(module, tmp_path / "failed")
    row = trial(tmp_path / "failed")
    assert (row["status"], row["rows"], row["failed_step"]) == ("failed", 1, 1)
    assert "ArithmeticError: no loss" in row["error"]
    assert "training_step" not in vars(module)


class ByItself(Module):
    """Optimizes by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


def test_a_module_that_optimizes_by_hand_is_refused_before_it_trains(tmp_path):
    options = {"accumulate_grad_batches": 1, "gradient_clip_val": None}
    with pytest.raises(Trouble, match=r"ByItself optimizes by hand .* Call parity.Recorder in its training_step"):
        fit(ByItself(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


class TwoHeads(Module):
    """Two models with a loss that is no module, from an image that is flattened first."""

    def __init__(self):
        super().__init__()
        self.body, self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 2), nn.Linear(5, 2)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)

    def training_step(self, batch, _):
        hidden = self.body(batch[0].view(-1, 6)).relu()
        return {"loss": nn.functional.mse_loss(self.one(hidden), batch[1]) + self.two(hidden).square().mean()}


def test_all_that_the_loss_is_computed_from_is_the_output(tmp_path):
    fit(TwoHeads(), tmp_path / "out")
    assert trial(tmp_path / "out")["output_names"] == ["0", "1"]
    assert trial(tmp_path / "out")["param_names"][0] == "model.0.weight"
    found = trace(tmp_path / "out")
    # The nn.MSELoss that the module keeps is not its loss.
    assert len(found) == STEPS and found.grad_error_u.isna().all()
    assert trial(tmp_path / "out")["audit_error"].startswith("training_step returns something else than the result of")


class Direct(Module):
    """Computes its loss from a parameter, without a module."""

    def training_step(self, batch, _):
        return (batch[0] @ self.model[0].weight.T).square().mean()


class Skips(Module):
    """Has no loss for its second batch."""

    def training_step(self, batch, number):
        return None if number == 1 else super().training_step(batch, number)


@pytest.mark.parametrize(
    ("kind", "rows", "reason"),
    [
        (Direct, 0, "no tensor was found that the loss is computed from. Call parity.Recorder with the output."),
        (Skips, 1, "step() came without backward()"),
    ],
)
def test_what_cannot_be_recorded_ends_the_recording_and_not_the_training(tmp_path, kind, rows, reason):
    with pytest.warns(RuntimeWarning, match="The training goes on unrecorded"):
        trainer = fit(kind(), tmp_path / "out", accumulate_grad_batches=1)
    row = trial(tmp_path / "out")
    assert trainer.global_step == STEPS
    assert (row["status"], row["rows"], reason in row["error"]) == ("interrupted", rows, True)


@pytest.mark.parametrize("precision", ["bf16", "scaled"])
def test_mixed_precision_is_recorded(tmp_path, precision):
    scaled = MixedPrecision("bf16-mixed", "cpu")
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    fit(Module(), tmp_path / "out", **{"precision": "bf16-mixed"} if precision == "bf16" else {"plugins": [scaled]})
    found = trace(tmp_path / "out")
    assert len(found) == STEPS and (found.grad_error_u < 16).all()
    # Neither is scaled.
    assert (found.param_grad_norm < 10).all() and (abs(found.step_grad_norm - 0.1) < 1e-3).all()


class Stores(Module):
    """Copies and stores itself while it is trained, and has a training step of its own on the instance."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.training_step = self.own

    def own(self, batch, number):
        self.calls.append(number)
        return Module.training_step(self, batch, number)


class Storing(lightning.Callback):
    """Stores the module while it is trained."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        torch.save(pl_module, io.BytesIO())
        assert "training_step" not in vars(copy.deepcopy(pl_module))


def test_the_module_is_left_as_it_is(tmp_path):
    module = Stores()
    own = module.training_step
    fit(module, tmp_path / "own")
    assert module.training_step == own and len(module.calls) == STEPS * PARTS
    callbacks = [ParityCallback(tmp_path / "one"), Storing(), ParityCallback(tmp_path / "two")]
    trainer = lightning.Trainer(**OPTIONS, callbacks=callbacks)
    trainer.fit(Module(), loader(), loader(2))
    same_traces(tmp_path / "one", tmp_path / "own")
    same_traces(tmp_path / "one", tmp_path / "two")
    assert "training_step" not in vars(trainer.strategy)


def test_a_target_that_cannot_be_taken_ends_the_recording_and_not_the_training(tmp_path):
    callback = ParityCallback(tmp_path / "out", target=lambda batch: batch["label"])
    with pytest.warns(RuntimeWarning, match="The training goes on unrecorded"):
        trainer = lightning.Trainer(**OPTIONS, callbacks=[callback])
        trainer.fit(Module(), loader(), loader(2))
    assert trainer.global_step == STEPS and trial(tmp_path / "out")["status"] == "interrupted"


@pytest.mark.parametrize(
    ("arguments", "found", "to_do"),
    [*WRONG, ({"target": 1}, "target is an object of class int.", "Give a function of a batch")],
)
def test_a_wrong_argument_is_refused_where_it_is_given(arguments, found, to_do, tmp_path):
    refuses(lambda **given: ParityCallback(**{"out": tmp_path / "out"} | given), arguments, found, to_do)
