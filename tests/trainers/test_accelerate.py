"""Loops with Accelerate, recorded by one wrapper: the same trace as by hand."""

import contextlib
import weakref

import accelerate
import pytest
import torch
from recordings import WRONG, compare, refuses, same_traces, trace, trial
from torch import nn

import parity
import parity.accelerate
from parity.ground.errors import Trouble
from parity.observe.replaced_method import replaced

PARTS = 2
pytestmark = pytest.mark.usefixtures("one_thread", "own_state")


class WithLoss(nn.Sequential):
    """A model that computes its loss itself, as those of transformers do."""

    def forward(self, inputs, labels):
        output = super().forward(inputs)
        return {"loss": nn.functional.mse_loss(output, labels), "logits": output}


def prepared(kind=nn.Sequential, *, scaled=False):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=PARTS)
    if scaled:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    torch.manual_seed(0)
    model = kind(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    return accelerator, *accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=1e-2))


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 6, generator=generator), torch.randn(4, 2, generator=generator)) for _ in range(3 * PARTS)]


def train(accelerator, model, optimizer, loss_of, *, after=None, stepped=None):
    for inputs, target in batches():
        with accelerator.accumulate(model):
            loss = loss_of(inputs, target)
            accelerator.backward(loss)
            if after:
                after(accelerator)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            if stepped:
                stepped(accelerator)
            optimizer.zero_grad()


def record(out, kind=nn.Sequential, *, scaled=False):
    """A loop with the wrapper, whose loss is called for other purposes too; returns what it has trained."""
    accelerator, model, optimizer = prepared(kind, scaled=scaled)
    criterion = None if kind is WithLoss else nn.MSELoss()
    with parity.accelerate.record(out, accelerator, model, optimizers=optimizer, criterion=criterion) as measure:

        def loss_of(inputs, target):
            if kind is WithLoss:
                return model(inputs, labels=target)["loss"]
            with torch.no_grad():
                measure(model(inputs), target)
            return measure(model(inputs), target)

        train(accelerator, model, optimizer, loss_of)
    assert "backward" not in vars(accelerator) and "step" not in vars(optimizer)
    return model


def by_hand(out):
    accelerator, model, optimizer = prepared()
    criterion = nn.MSELoss()
    with parity.Recorder(out, model, optimizers=optimizer, criterion=criterion) as recorder:

        def loss_of(inputs, target):
            output = model(inputs)
            loss = criterion(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss, factor=1 / PARTS)
            return loss

        def whole(call):
            return lambda accelerator: accelerator.sync_gradients and call()

        train(accelerator, model, optimizer, loss_of, after=whole(recorder.backward), stepped=whole(recorder.step))
    return model


def test_the_trace_is_that_of_the_calls_by_hand(tmp_path):
    hand, wrapped = by_hand(tmp_path / "hand"), record(tmp_path / "wrapped")
    same_traces(tmp_path / "hand", tmp_path / "wrapped")
    assert all(map(torch.equal, hand.parameters(), wrapped.parameters()))
    found = trace(tmp_path / "wrapped")
    assert list(found.step) == [0, 1, 2] and list(found["rows"]) == [8, 8, 8]
    assert (found.param_grad_norm > 0.2).all() and (abs(found.step_grad_norm - 0.1) < 1e-6).all()
    assert (found.grad_error_u < 16).all()


def test_no_bit_of_the_training_is_changed(tmp_path):
    recorded = record(tmp_path / "out")
    accelerator, model, optimizer = prepared()
    train(accelerator, model, optimizer, lambda inputs, target: nn.functional.mse_loss(model(inputs), target))
    assert all(map(torch.equal, model.parameters(), recorded.parameters()))


def test_a_model_with_a_loss_of_its_own_and_a_scaled_loss_leave_the_same_gradients(tmp_path):
    record(tmp_path / "plain")
    record(tmp_path / "own", WithLoss)
    record(tmp_path / "scaled", scaled=True)
    plain, own, scaled = (trace(tmp_path / name) for name in ("plain", "own", "scaled"))
    for name in ("loss_digest", "output_digest", "output_grad_digest", "param_grad_digest"):
        assert list(plain[name]) == list(own[name]), name
        # accelerate unscales before clipping only in float16, which the CPU does not train in: later steps differ.
        assert plain[name][0] == scaled[name][0], name


def test_a_loop_that_raises_has_failed_and_all_is_put_back(tmp_path):
    accelerator, model, optimizer = prepared()
    with (
        pytest.raises(ArithmeticError),
        parity.accelerate.record(tmp_path / "out", accelerator, model, optimizers=optimizer),
    ):
        raise ArithmeticError
    assert trial(tmp_path / "out")["status"] == "failed"
    assert "backward" not in vars(accelerator)


@contextlib.contextmanager
def recording_that_misses_a_backward(out, accelerator, model, optimizer):
    with (
        pytest.warns(RuntimeWarning, match=r"step\(\) came without backward\(\)"),
        parity.accelerate.record(out, accelerator, model, optimizers=optimizer, criterion=nn.MSELoss()) as mse,
    ):
        yield mse


def test_a_backward_that_accelerate_does_not_see_ends_the_recording(tmp_path):
    accelerator, model, optimizer = prepared()
    with recording_that_misses_a_backward(tmp_path / "out", accelerator, model, optimizer) as mse:
        for inputs, target in batches():
            mse(model(inputs), target).backward()
            optimizer.step()
    assert trial(tmp_path / "out")["status"] == "interrupted"


def test_an_optimizer_that_is_not_prepared_is_refused(tmp_path):
    accelerator, model, optimizer = prepared()
    with (
        pytest.raises(Trouble, match="an optimizer has not been prepared"),
        parity.accelerate.record(tmp_path / "out", accelerator, model, optimizers=optimizer.optimizer),
    ):
        pass
    assert not (tmp_path / "out").exists()


def record_calls(out, loss_of):
    """A loop whose loss is `loss_of(yielded, output, target)`."""
    accelerator, model, optimizer = prepared()
    with parity.accelerate.record(out, accelerator, model, optimizers=optimizer, criterion=nn.MSELoss()) as mse:
        train(accelerator, model, optimizer, lambda inputs, target: loss_of(mse, model(inputs), target))


def logged(mse, output, target):
    loss = mse(output, target)
    mse(output, target.flip(0)).item()
    return loss


def test_a_criterion_that_is_called_for_a_log_too_changes_nothing(tmp_path, capsys):
    record_calls(tmp_path / "once", lambda mse, output, target: mse(output, target))
    record_calls(tmp_path / "twice", logged)
    same_traces(tmp_path / "once", tmp_path / "twice")
    assert compare(tmp_path / "once", tmp_path / "twice", capsys)["verdict"] == "identical"


def test_a_loss_of_several_calls_is_not_audited(tmp_path):
    record_calls(tmp_path / "sum", lambda mse, output, target: mse(output, target) + mse(output, target.flip(0)))
    assert trial(tmp_path / "sum")["audit_error"] == "the loss is computed from several calls of the criterion"
    assert trace(tmp_path / "sum").grad_error_u.isna().all() and len(trace(tmp_path / "sum")) == 3


def summed_in_place(mse, output, target):
    loss = mse(output, target)
    loss += mse(output, target.flip(0))
    return loss


def halved_in_place(mse, output, target):
    loss = mse(output, target)
    loss *= 0.5
    return loss


def halved_and_logged(mse, output, target):
    mse(output, target.flip(0)).item()
    return mse(output, target) * 0.5


def test_the_target_is_that_of_the_call_which_the_loss_is_computed_from(tmp_path):
    record_calls(tmp_path / "half", lambda mse, output, target: mse(output, target) * 0.5)
    for name, loss_of in (("in-place", halved_in_place), ("logged", halved_and_logged)):
        record_calls(tmp_path / name, loss_of)
        same_traces(tmp_path / "half", tmp_path / name)
    record_calls(tmp_path / "sum", summed_in_place)
    assert trial(tmp_path / "sum")["audit_error"] == "the loss is computed from several calls of the criterion"


def only_logged(mse, output, target):
    mse(output, target.flip(0)).item()
    return nn.functional.mse_loss(output, target)


@pytest.mark.parametrize("loss_of", [lambda _, *given: nn.functional.mse_loss(*given), only_logged])
def test_a_loss_that_the_criterion_was_not_called_for_ends_the_recording(tmp_path, loss_of):
    with pytest.warns(RuntimeWarning, match="yields was not called for what enters backward. Call it for the loss"):
        record_calls(tmp_path / "none", loss_of)
    assert (trial(tmp_path / "none")["status"], trial(tmp_path / "none")["rows"]) == ("interrupted", 0)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # looked at by dynamo
def test_a_criterion_that_is_compiled_within_the_block_is_not_broken_up(tmp_path):
    def compiled(mse, output, target):
        return torch.compile(lambda *given: mse(*given), backend="eager", fullgraph=True)(output, target)

    record_calls(tmp_path / "plain", lambda mse, output, target: mse(output, target))
    record_calls(tmp_path / "compiled", compiled)
    same_traces(tmp_path / "plain", tmp_path / "compiled")


def test_replacements_that_end_in_any_order_leave_nothing():
    def add(number):
        return lambda plain: lambda: [*plain(), number]

    class Owner:
        def call(self):
            return [0]

    owner = Owner()
    one, two = (replaced(owner, "call", add(number)) for number in (1, 2))
    one.__enter__()
    two.__enter__()
    assert owner.call() == [0, 1, 2]
    one.__exit__(None, None, None)
    two.__exit__(None, None, None)
    assert owner.call() == [0] and not vars(owner)


def test_an_evaluation_within_the_recording_is_computed_as_without(tmp_path, monkeypatch):
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
    model = nn.Sequential(layer)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    # The fast computation, whose bits are others, and which a layer with hooks does not take.
    fast, calls = torch._transformer_encoder_layer_fwd, []
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *given: calls.append(1) or fast(*given))

    def evaluate():
        calls.clear()
        with torch.no_grad():
            model.eval()(torch.randn(4, 5, 16))
        return len(calls)

    with parity.accelerate.record(tmp_path / "out", accelerator, model, optimizers=optimizer):
        assert evaluate() == 1
        layer.register_forward_hook(lambda *_: None)
        assert evaluate() == 0


def test_what_is_not_recorded_any_more_is_not_kept(tmp_path):
    accelerator, model, optimizer = prepared()
    kept = []

    def step(inputs, target):
        output = model(inputs)
        kept.append(weakref.ref(output))
        mse(output, target).backward()  # not seen, which ends the recording
        optimizer.step()

    with recording_that_misses_a_backward(tmp_path / "out", accelerator, model, optimizer) as mse:
        for inputs, target in batches():
            step(inputs, target)
        assert [each() for each in kept] == [None] * len(kept)
    step(*batches()[0])
    assert kept[-1]() is None


@pytest.mark.parametrize(
    ("arguments", "found", "to_do"),
    [
        *(each for each in WRONG if "scaler" not in each[0]),
        ({"accelerator": 3}, "accelerator is an object of class int.", "Give the accelerate.Accelerator of the loop."),
        ({"model": 3}, "model is an object of class int, which is not a torch.nn.Module.", "Give the model itself"),
        ({"optimizers": None}, "an optimizer has not been prepared.", "Give what accelerator.prepare(...) returned."),
        ({"first_step": -1}, "first_step=-1 is not a whole number of at least 0.", "Give the number of steps"),
        ({"criterion": "auto"}, "criterion is an object of class str, which is not a loss.", "or None."),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_recorded(arguments, found, to_do, tmp_path):
    accelerator, model, optimizer = prepared()

    def begin(**given):
        right = {"out": tmp_path / "out", "accelerator": accelerator, "model": model, "optimizers": optimizer}
        with parity.accelerate.record(**right | given):
            pass

    refuses(begin, arguments, found, to_do)
    assert [*tmp_path.iterdir()] == [] and "backward" not in vars(accelerator)
