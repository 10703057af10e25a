"""Loops written by hand, recorded: the traces of `parity.run`, and what clipping, scaling and the like do to them."""

import gc
import itertools
import random
import signal
import threading
import weakref

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from one_step import take_step
from torch import nn

import parity
from parity import report, run
from parity.ground.errors import Trouble
from parity.observe.observer import Observer
from parity.train.planted import planted

from conftest import bits, plant, rewrite, warm_command

BATCH = 256
STEPS = 13  # one more than an epoch, whose last batch has 96 rows


def autoencoder():
    """The reference experiment's, without parity's code."""
    sizes = [784, 128, 64, 12, 3]
    encoder, decoder = [], []
    for layers, widths in ((encoder, sizes), (decoder, sizes[::-1])):
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Linear(narrow, wide), nn.ReLU()]
    encoder.pop()
    decoder[-1] = nn.Sigmoid()
    return nn.Sequential(nn.Sequential(*encoder), nn.Sequential(*decoder))


@pytest.fixture
def images(few_images):
    return torch.from_numpy(np.array(next(iter(few_images.values())))).reshape(-1, 784).float() / 255


pytestmark = pytest.mark.usefixtures("one_thread")


def little(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def little_batches(steps, rows=8):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(rows, 6, generator=generator), torch.randn(rows, 2, generator=generator)) for _ in range(steps)
    ]


def record(out, *, clip=None, model=None, steps=6, given=True, lr=1e-2, loss=None, criterion=True, **options):
    """A plain loop; returns its parameters."""
    model = model or little()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    mse = nn.MSELoss()
    if given:
        options |= {"optimizers": optimizer}
    if criterion:
        options |= {"criterion": mse}
    with parity.Recorder(out, model, **options) as recorder:
        for inputs, target in little_batches(steps):
            optimizer.zero_grad()
            output = model(inputs)
            value = (loss or mse)(output, target)
            recorder.forward(inputs, output=output, target=target, loss=value)
            value.backward()
            recorder.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            recorder.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def trace(directory):
    return pd.read_parquet(str(directory / "traces")).sort_values("step", ignore_index=True)


def trial(directory):
    (row,) = pq.read_table(directory / "trials.parquet").to_pylist()
    return row


def compared(capsys, *directories):
    """Exit status and report of several runs."""
    status = report.main([str(directory) for directory in directories])
    return status, capsys.readouterr().out


def test_a_hand_written_loop_has_the_trace_of_parity_run_bit_for_bit(tmp_path, images):
    arguments = ["--inline", "--device", "cpu", "--loss", "builtin", "--steps", str(STEPS)]
    assert run.main([*arguments, "--out", str(tmp_path / "run")]) == 3  # one trial makes no pair
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    model, criterion = autoencoder(), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with parity.Recorder(
        tmp_path / "loop", model, name="builtin", optimizers=optimizer, criterion=criterion, steps_per_epoch=12
    ) as recorder:
        for step in range(STEPS):
            batch = images[step % 12 * BATCH : (step % 12 + 1) * BATCH]
            optimizer.zero_grad()
            output = model(batch)
            loss = criterion(output, batch)
            recorder.forward(batch, output=output, target=batch, loss=loss)
            loss.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
    whole, recorded = bits(tmp_path / "run"), bits(tmp_path / "loop")
    pd.testing.assert_frame_equal(whole, recorded, check_exact=True)
    assert list(recorded["rows"][[0, 11, 12]]) == [256, 96, 256]
    before, after = trial(tmp_path / "run"), trial(tmp_path / "loop")
    for name in ("trial", "steps", "batches", "batch_size", "lr", "optimizer", "param_names", "loss_dtype", "torch"):
        assert before[name] == after[name], name
    assert before["initial_norms"] == after["initial_norms"]
    errors = [pq.read_table(tmp_path / name / "step_errors.parquet") for name in ("run", "loop")]
    assert errors[0].equals(errors[1])
    assert set(errors[0]["step"].to_pylist()) == {0, 10, 11}


def test_recording_changes_no_bit_of_the_training(tmp_path):
    model = little()
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=1e-2), nn.MSELoss()
    for inputs, target in little_batches(6):
        optimizer.zero_grad()
        criterion(model(inputs), target).backward()
        optimizer.step()
    recorded = record(tmp_path / "loop")
    for plain, other in zip(model.parameters(), recorded, strict=True):
        assert torch.equal(plain, other)


def test_loops_that_differ_in_clipping_part_at_step_grad(tmp_path, capsys):
    record(tmp_path / "plain")
    record(tmp_path / "clipped", clip=0.1)
    status, out = compared(capsys, tmp_path / "plain", tmp_path / "clipped")
    assert status == 1
    out = " ".join(out.split())
    assert "where step 0 (epoch 0, batch 0), step_grad 0.weight" in out
    assert "the gradient that the optimizer received of 0.weight is 71 % away from the baseline's" in out
    plain, clipped = trace(tmp_path / "plain"), trace(tmp_path / "clipped")
    assert plain.param_grad_digest[0] == clipped.param_grad_digest[0]
    assert plain.param_digest[0] != clipped.param_digest[0]
    assert (plain.step_grad_norm == plain.param_grad_norm).all()
    assert clipped.step_grad_norm[0] == pytest.approx(0.1, rel=1e-3)


def test_where_nobody_saw_what_the_optimizer_got_clipping_is_not_claimed(tmp_path, capsys):
    record(tmp_path / "plain", given=False)
    record(tmp_path / "clipped", given=False, clip=0.1)
    status, out = compared(capsys, tmp_path / "plain", tmp_path / "clipped")
    # What Adam makes of a scaled gradient is rounding in its first step alone.
    assert (status, "clipping" in out) == (1, False)
    assert "where step 1 (epoch 0, batch 1), update" in " ".join(out.split())
    assert "first step 0 (epoch 0, batch 0), param 0.weight" in " ".join(out.split())
    assert trace(tmp_path / "plain").step_grad_norm.isna().all()


def test_learning_rates_that_differ_are_named(tmp_path, capsys):
    record(tmp_path / "one")
    record(tmp_path / "two", lr=2e-2)
    status, out = compared(capsys, tmp_path / "one", tmp_path / "two")
    assert status == 1
    assert "one and two differ in lr: 0.01, 0.02" in out
    out = " ".join(out.split())
    assert "start step 0 from different states: learning rate: 0.01 and 0.02" in out
    assert "where step 0 (epoch 0, batch 0), state" in out
    assert "first step 0 (epoch 0, batch 0), state learning rate 0.01 != 0.02" in out


def by_hand(output, target):
    return ((output - target) ** 2).sum() / output.numel()


def doubled(output, target):
    loss = by_hand(output, target)
    return 2 * loss - loss.detach()


def test_a_loss_of_ones_own_is_rounding_and_a_wrong_one_diverged(tmp_path, capsys):
    record(tmp_path / "builtin")
    record(tmp_path / "mine", loss=by_hand, name="mine")
    record(tmp_path / "wrong", loss=doubled, name="wrong")
    status, out = compared(capsys, tmp_path / "builtin", tmp_path / "mine")
    assert (status, "differ in loss: loop, mine" in out) == (0, True)
    status, out = compared(capsys, tmp_path / "builtin", tmp_path / "wrong")
    assert status == 1
    assert "gradient is 2× too large" in " ".join(out.split())


def slightly_off(output, target):
    loss = by_hand(output, target)
    return loss * 1.0001 - 0.0001 * loss.detach()


def test_without_a_criterion_equal_outputs_decide_what_is_far(tmp_path, capsys):
    record(tmp_path / "builtin", criterion=False)
    record(tmp_path / "wrong", loss=doubled, name="wrong", criterion=False)
    status, out = compared(capsys, tmp_path / "builtin", tmp_path / "wrong")
    assert (status, "How the audit decided" in out) == (1, False)
    assert "after outputs and targets that are equal to the bit" in " ".join(out.split())


def test_without_a_criterion_rounding_is_not_claimed(tmp_path, capsys):
    record(tmp_path / "builtin", criterion=False)
    record(tmp_path / "off", loss=slightly_off, name="off", criterion=False)
    status, out = compared(capsys, tmp_path / "builtin", tmp_path / "off")
    assert status == 3
    out = " ".join(out.split())
    assert "the output gradient is 0.011 % away from the baseline's" in out
    assert "; no audit: the Recorder was given no criterion" in out


def test_losses_held_against_different_criteria_differ(tmp_path, capsys):
    for name, criterion in (("squared", nn.MSELoss()), ("absolute", nn.L1Loss())):
        model = little()
        optimizer = torch.optim.Adam(model.parameters())
        with parity.Recorder(tmp_path / name, model, optimizers=optimizer, criterion=criterion) as recorder:
            for inputs, target in little_batches(3):
                take_step(model, optimizer, criterion, inputs, target, recorder)
    status, out = compared(capsys, tmp_path / "squared", tmp_path / "absolute")
    assert status == 1
    out = " ".join(out.split())
    assert "where step 0 (epoch 0, batch 0), output_grad" in out
    assert "they are audited against different losses: MSELoss and L1Loss" in out


def accumulate(out, *, parts, divide=True, other=None):
    model, criterion = little(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    factor = 1 / parts if divide else 1.0
    with parity.Recorder(out, model, optimizers=optimizer, criterion=criterion) as recorder:
        for step, (inputs, target) in enumerate(little_batches(4)):
            optimizer.zero_grad()
            if step == other:
                inputs[-1, 0] += 1
            for some, wanted in zip(inputs.chunk(parts), target.chunk(parts), strict=True):
                output = model(some)
                loss = criterion(output, wanted)
                recorder.forward(some, output=output, target=wanted, loss=loss, factor=factor)
                (loss * factor).backward()
            recorder.backward()
            optimizer.step()
            recorder.step()


def test_accumulated_batches_are_one_step(tmp_path, capsys):
    accumulate(tmp_path / "whole", parts=1)
    accumulate(tmp_path / "four", parts=4)
    accumulate(tmp_path / "again", parts=4)
    whole, four = trace(tmp_path / "whole"), trace(tmp_path / "four")
    assert list(four.step) == [0, 1, 2, 3]
    assert list(four["rows"]) == list(whole["rows"]) == [8] * 4
    assert list(four.elements) == [16] * 4
    np.testing.assert_allclose(four.loss, whole.loss, rtol=1e-5)
    np.testing.assert_allclose(four.param_grad_norm, whole.param_grad_norm, rtol=1e-4)
    np.testing.assert_allclose(four.grad_ratio, 1.0, atol=1e-5)  # the factor is taken out
    assert (four.grad_error_u < 16).all()
    assert compared(capsys, tmp_path / "four", tmp_path / "again")[0] == 0


def test_the_digest_of_a_step_is_that_of_its_rows(tmp_path):
    accumulate(tmp_path / "four", parts=4)
    accumulate(tmp_path / "two", parts=2)
    accumulate(tmp_path / "other", parts=4, other=2)
    four, two, other = (trace(tmp_path / name) for name in ("four", "two", "other"))
    assert list(four.input_digest) == list(two.input_digest)
    assert list(four.input_digest == other.input_digest) == [True, True, False, True]


def scaled(out, scale, *, overflow=False):
    model, criterion = little(), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    with parity.Recorder(out, model, optimizers=optimizer, criterion=criterion, scaler=scaler) as recorder:
        for step, (inputs, target) in enumerate(little_batches(6)):
            optimizer.zero_grad()
            output = model(inputs)
            loss = criterion(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            scaler.scale(loss).backward()
            if overflow and step == 3:
                model[0].weight.grad[0, 0] = float("inf")
            recorder.backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            scaler.step(optimizer)
            scaler.update()
            recorder.step()


def test_the_scale_of_mixed_precision_is_taken_out(tmp_path, capsys):
    record(tmp_path / "plain")
    scaled(tmp_path / "scaled", 1024.0)
    scaled(tmp_path / "otherwise", 65536.0)
    assert compared(capsys, tmp_path / "scaled", tmp_path / "otherwise")[0] == 0
    plain, loop = trace(tmp_path / "plain"), trace(tmp_path / "scaled")
    for name in ("loss_digest", "output_grad_digest", "param_grad_digest", "param_digest", "step_grad_norm"):
        assert list(plain[name]) == list(loop[name]), name


def test_a_step_that_the_scaler_skips_has_its_row(tmp_path):
    scaled(tmp_path / "scaled", 1024.0, overflow=True)
    found = trace(tmp_path / "scaled")
    assert len(found) == 6
    assert np.isinf(found.param_grad_norm[3])
    assert found.param_digest[3] == found.param_digest[2]
    assert np.isnan(found.step_grad_norm[3])
    assert found.param_digest[4] != found.param_digest[3]


def test_narrow_outputs_are_recorded(tmp_path):
    model, criterion = little(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with parity.Recorder(tmp_path / "narrow", model, optimizers=optimizer, criterion=criterion) as recorder:
        for inputs, target in little_batches(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(inputs)
                loss = criterion(output.float(), target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
    found = trace(tmp_path / "narrow")
    assert np.isfinite(found.output_grad_norm).all() and (found.output_grad_norm > 0).all()
    assert (found.grad_error_u < 16).all()  # in u of bfloat16


def test_several_optimizers_train_as_one(tmp_path, capsys):
    record(tmp_path / "one")
    model, criterion = little(), nn.MSELoss()
    optimizers = [torch.optim.Adam(model[index].parameters(), lr=1e-2) for index in (0, 2)]
    with parity.Recorder(tmp_path / "two", model, optimizers=optimizers, criterion=criterion) as recorder:
        for inputs, target in little_batches(6):
            model.zero_grad()
            output = model(inputs)
            loss = criterion(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            for optimizer in optimizers:
                optimizer.step()
            recorder.step()
    status, out = compared(capsys, tmp_path / "one", tmp_path / "two")
    out = " ".join(out.split())
    assert (status, ": rounding" in out) == (0, True)
    assert "every tensor is equal to the bit at each step; the state of the optimizer is kept in different forms" in out
    assert trial(tmp_path / "two")["optimizer"].count("Adam(") == 2


def test_a_compiled_model_has_the_names_and_bits_of_its_own(tmp_path, capsys):
    record(tmp_path / "plain")
    record(tmp_path / "compiled", model=torch.compile(little(), backend="eager"))
    status, out = compared(capsys, tmp_path / "plain", tmp_path / "compiled")
    assert (status, "identical" in out) == (0, True)
    assert trial(tmp_path / "compiled")["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_no_graph_outlives_its_step(tmp_path):
    model, criterion = little(), nn.MSELoss()
    gc.disable()
    try:
        with parity.Recorder(tmp_path / "loop", model, criterion=criterion) as recorder:
            seen = []
            for inputs, target in little_batches(3):
                output = model(inputs)
                loss = criterion(output, target)
                recorder.forward(inputs, output=output, target=target, loss=loss)
                loss.backward()
                recorder.backward()
                recorder.step()
                seen.append(weakref.ref(output))
                del output, loss
        assert [reference() for reference in seen] == [None] * 3
    finally:
        gc.enable()


def test_a_loop_on_other_software_is_rounding_by_its_own_steps_in_float64(tmp_path, capsys):
    """A loop whose sums have another order, as another library's would."""

    class Otherwise(nn.Linear):
        def forward(self, inputs):
            halves = zip(inputs.chunk(2, 1), self.weight.chunk(2, 1), strict=True)
            return sum(some @ weight.T for some, weight in halves) + self.bias

    model = little()
    for index in (0, 2):
        plain, model[index] = model[index], Otherwise(*reversed(model[index].weight.shape))
        model[index].load_state_dict(plain.state_dict())
    record(tmp_path / "old")
    record(tmp_path / "new", model=model)
    rewrite(tmp_path / "new", torch="9.9.0")
    status, out = compared(capsys, tmp_path / "old", tmp_path / "new")
    out = " ".join(out.split())
    assert "output differs by" in out  # they part at all
    assert (status, "rounding" in out) == (0, True)


def test_a_loop_on_a_device_that_rounds_too_much_is_diverged(tmp_path, capsys):
    record(tmp_path / "old")
    model, criterion = little(), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with parity.Recorder(tmp_path / "new", model, optimizers=optimizer, criterion=criterion) as recorder:
        for inputs, target in little_batches(3):
            optimizer.zero_grad()
            with planted("tf32"):
                output = model(inputs)
            loss = criterion(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
    rewrite(tmp_path / "new", torch="9.9.0")
    status, out = compared(capsys, tmp_path / "old", tmp_path / "new")
    assert status == 1
    assert "output is" in out and "away from float64" in " ".join(out.split())


class Scaled(nn.Sequential):
    """Another function of the same parameters."""

    def forward(self, inputs):
        return super().forward(inputs) * 1.001


def test_another_model_is_never_rounding(tmp_path, capsys):
    record(tmp_path / "old")
    record(tmp_path / "new", model=Scaled(*little()))
    rewrite(tmp_path / "new", torch="9.9.0")
    status, out = compared(capsys, tmp_path / "old", tmp_path / "new")
    assert status == 1
    assert "they compute other functions: taken in float64 from the same parameters, their first" in " ".join(
        out.split()
    )


class Drops(nn.Sequential):
    """A model with dropout, whose loop is recorded on other software."""

    def forward(self, inputs):
        return super().forward(inputs * nn.functional.dropout(torch.ones_like(inputs), 0.2, training=True))


def test_a_model_with_dropout_is_taken_in_float64_with_the_same_draws(tmp_path, capsys):
    for name in ("old", "new"):
        model = Drops(*little())
        torch.manual_seed(8)
        record(tmp_path / name, model=model)
    assert trial(tmp_path / "old")["shared_error"] is None
    errors = pq.read_table(tmp_path / "old" / "step_errors.parquet").to_pandas()
    assert errors[errors.quantity == "output"].error_u.max() < 8


def test_draws_between_the_steps_shift_nothing(tmp_path):
    """A loader that draws its order from the global generator, after the Recorder was made."""
    model, mse = nn.Sequential(nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, 2)), nn.MSELoss()
    with parity.Recorder(tmp_path / "run", model, criterion=mse) as recorder:
        torch.rand(3)
        for inputs, target in little_batches(1):
            output = model(inputs)
            loss = mse(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            recorder.step()
    assert trial(tmp_path / "run")["shared_error"] is None
    assert not torch.nn.modules.module._global_forward_pre_hooks


OWN = torch.Generator()


class Dropping(nn.Sequential):
    """A model that draws random numbers from a generator of its own."""

    def __init__(self, *layers):
        super().__init__(*layers)
        OWN.manual_seed(0)

    def forward(self, inputs):
        return super().forward(inputs) * torch.rand(2, generator=OWN)


class OfFloat32(nn.Sequential):
    """A model that works in one dtype alone."""

    def forward(self, inputs):
        return super().forward(inputs + torch.zeros(1).float().expand(1).type_as(inputs)).float()


class Raising(nn.Sequential):
    """A model that refuses float64."""

    def forward(self, inputs):
        if inputs.dtype == torch.float64:
            raise ArithmeticError("float32 only")
        return super().forward(inputs)


class RaisingInBackward(nn.Sequential):
    """A model whose backward refuses float64."""

    def forward(self, inputs):
        output = super().forward(inputs)
        if output.dtype == torch.float64:
            output.register_hook(lambda _: 1 / 0)
        return output


def part_at_output(directory, *, by, step=1):
    """Moves the output of a step so far, relative to its norm, in the stored trace, and the gradient that follows."""
    (path,) = (directory / "traces").iterdir()
    (norm,) = trace(directory).output_norms[step]
    plant(directory, path.name, "output_digest", step, lambda _: 1)
    plant(directory, path.name, "output_sketches", step, lambda sums: [sums[0] + by * norm, *sums[1:]])
    whole = trace(directory).param_grad_norm[step]
    plant(directory, path.name, "param_grad_sketches", step, lambda sums: [sums[0] + by * whole, *sums[1:]])


@pytest.mark.parametrize(
    ("step", "status", "reason"),
    [
        (10, 0, "loop@cpu-s0 rounding"),
        (9, 3, "at step 9, which the runs did not repeat in float64, the output is 0.01 % away from the baseline's;"),
    ],
)
def test_a_step_that_parts_beyond_rounding_is_excused_by_its_own_check_only(tmp_path, capsys, step, status, reason):
    for name in ("old", "new"):
        record(tmp_path / name, steps=12)
    rewrite(tmp_path / "new", torch="9.9.0")
    part_at_output(tmp_path / "new", by=1e-4, step=step)
    found, out = compared(capsys, tmp_path / "old", tmp_path / "new")
    assert (found, reason in " ".join(out.split())) == (status, True), out


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Dropping, "so it is not the same step"),
        (OfFloat32, "gave no float64 tensor, or one without a graph"),
        (Raising, "the step raised in float64: ArithmeticError: float32 only"),
        (RaisingInBackward, "the step raised in float64: ZeroDivisionError: division by zero"),
    ],
)
def test_a_model_that_cannot_be_held_against_float64_is_told(tmp_path, capsys, kind, reason):
    for name in ("old", "new"):
        record(tmp_path / name, model=kind(*little()))
    assert reason in trial(tmp_path / "old")["shared_error"]
    rewrite(tmp_path / "new", torch="9.9.0")
    assert compared(capsys, tmp_path / "old", tmp_path / "new")[0] == 0  # equal to the bit nevertheless
    part_at_output(tmp_path / "new", by=1e-6)
    assert compared(capsys, tmp_path / "old", tmp_path / "new")[0] == 0  # and nearer than a line
    part_at_output(tmp_path / "new", by=1e-4)
    status, out = compared(capsys, tmp_path / "old", tmp_path / "new")
    assert (status, reason in " ".join(out.split())) == (3, True)


def test_a_model_that_is_too_large_is_not_taken_in_float64(tmp_path, monkeypatch):
    monkeypatch.setattr("parity.observe.recorded_step.MOST_ELEMENTS", 10)
    record(tmp_path / "large")
    assert trial(tmp_path / "large")["shared_error"] == "the model has 47 elements, and 10 are the most"


class Odd(torch.optim.Adam):
    """An optimizer that is made in a way of its own, and has something that cannot be copied if it is to."""

    def __init__(self, *, model, locked):
        super().__init__(model.parameters(), lr=1e-2)
        self.lock = threading.Lock() if locked else None


@pytest.mark.parametrize("locked", [True, False])
def test_an_optimizer_that_cannot_be_copied_leaves_param_undecided(tmp_path, capsys, locked):
    for name in ("old", "new"):
        model, criterion = little(), nn.MSELoss()
        optimizer = Odd(model=model, locked=locked)
        with parity.Recorder(tmp_path / name, model, optimizers=optimizer, criterion=criterion) as recorder:
            for inputs, target in little_batches(3):
                optimizer.zero_grad()
                output = model(inputs)
                loss = criterion(output, target)
                recorder.forward(inputs, output=output, target=target, loss=loss)
                loss.backward()
                recorder.backward()
                optimizer.step()
                recorder.step()
    if not locked:
        assert trial(tmp_path / "old")["shared_error"] is None
        return
    assert "the optimizer cannot be copied in float64" in trial(tmp_path / "old")["shared_error"]
    rewrite(tmp_path / "new", torch="9.9.0")
    part_at_output(tmp_path / "new", by=1e-4)
    status, out = compared(capsys, tmp_path / "old", tmp_path / "new")
    assert (status, "but param could not be checked against it" in " ".join(out.split())) == (3, True)


RANKS = """
import random
import sys
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import parity
sys.path.insert(0, "tests")
from two_ranks import two_ranks


def record(rank, out):
    # As in a process of its own, whose generators of Python and NumPy nobody has seeded.
    random.seed(), np.random.seed(), torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = nn.MSELoss()
    generator = torch.Generator().manual_seed(rank)
    with parity.Recorder(out, model, optimizers=optimizer, criterion=criterion) as recorder:
        for _ in range(3):
            inputs, target = (torch.randn(4, size, generator=generator) for size in (6, 2))
            optimizer.zero_grad()
            output = model(inputs)
            loss = criterion(output, target)
            recorder.forward(inputs, output=output, target=target, loss=loss)
            loss.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()


store, *directories = sys.argv[1:]
torch.set_num_threads(1)
with two_ranks() as rank:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for out in directories:
        record(rank, out)
    dist.destroy_process_group()
"""


def test_each_rank_writes_a_trace_and_is_held_against_its_like(tmp_path, capsys):
    ended = warm_command("-c", RANKS, tmp_path / "store", tmp_path / "old", tmp_path / "new")
    assert ended.status == 0, ended.stderr
    status, out = compared(capsys, tmp_path / "old", tmp_path / "new")
    assert status == 0
    for rank in (0, 1):
        assert f"old/rank-{rank}/loop@cpu-s0" in out and f"new/rank-{rank}/loop@cpu-s0" in out
    zero, one = (trace(tmp_path / "old" / f"rank-{rank}") for rank in (0, 1))
    assert list(zero.param_digest) == list(one.param_digest)  # the gradients are averaged
    assert (zero.input_digest != one.input_digest).all()
    assert compared(capsys, tmp_path / "old")[0] == 0  # and so the ranks are equal to each other


def backward_first(recorder, given):
    recorder.backward()


def step_first(recorder, given):
    recorder.step()


def output_without_graph(recorder, given):
    recorder.forward(**given | {"output": given["output"].detach()})


def loss_without_graph(recorder, given):
    recorder.forward(**given | {"loss": given["loss"].detach()})


def loss_of_several_elements(recorder, given):
    recorder.forward(**given | {"loss": given["output"] ** 2})


def no_backward(recorder, given):
    recorder.forward(**given)
    recorder.backward()


def forward_after_backward(recorder, given):
    recorder.forward(**given)
    given["loss"].backward()
    recorder.backward()
    recorder.forward(**given)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        (backward_first, "Recorder.backward(): backward() came without forward(): call that between the loss and"),
        (step_first, "Recorder.step(): step() came without backward(): call that after loss.backward()"),
        (output_without_graph, "Recorder.forward(): the output has no graph, so no gradient can be observed."),
        (loss_without_graph, "Recorder.forward(): the loss has no graph, so no gradient can be observed."),
        (loss_of_several_elements, "Recorder.forward(): the loss has shape [8, 2], one element is needed."),
        (no_backward, "Recorder.backward(): backward has not passed the output that forward() was given."),
        (forward_after_backward, "Recorder.forward(): forward() came after backward(): call step() after"),
    ],
)
def test_calls_out_of_order_end_the_recording_and_not_the_training(tmp_path, capsys, calls, reason):
    model, criterion = little(), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with parity.Recorder(tmp_path / "loop", model, optimizers=optimizer, criterion=criterion) as recorder:
        for step, (inputs, target) in enumerate(little_batches(4)):
            output = model(inputs)
            loss = criterion(output, target)
            given = {"inputs": inputs, "output": output, "target": target, "loss": loss}
            if step == 2:
                with pytest.warns(RuntimeWarning) as warned:
                    calls(recorder, given)
            if step != 2 or calls not in (forward_after_backward,):
                recorder.forward(**given)
                optimizer.zero_grad()
                loss.backward()
            recorder.backward()
            optimizer.step()
            recorder.step()
    (warning,) = warned
    text = str(warning.message)
    assert text.startswith(f"parity: the recording ended before step 2: {reason}")
    assert text.endswith(" The training goes on unrecorded.")
    assert warning.filename == __file__
    row = trial(tmp_path / "loop")
    assert (row["status"], row["rows"], row["error"]) == (
        "interrupted",
        2,
        text.removeprefix("parity: ").removesuffix(" The training goes on unrecorded."),
    )
    record(tmp_path / "whole", steps=4)
    status, out = compared(capsys, tmp_path / "whole", tmp_path / "loop")
    assert (status, "the recording ended before step 2" in " ".join(out.split())) == (3, True)


@pytest.mark.parametrize("digest", ["xxh3", "words"])
def test_a_recording_that_has_ended_keeps_no_tensor_of_the_training(tmp_path, digest):
    model = little()
    with parity.Recorder(tmp_path / "loop", model, digest=digest) as recorder:
        ((inputs, target),) = little_batches(1)
        output = model(inputs)
        loss = nn.functional.mse_loss(output, target)
        recorder.forward(inputs, output=output, target=target, loss=loss)
        loss.backward()
        recorder.backward()
        kept = [weakref.ref(each) for each in (output, target, model[0].weight.grad)]
        with pytest.warns(RuntimeWarning, match="goes on unrecorded"):
            recorder.forward(inputs, output=output, target=target, loss=loss)  # a step() is missing
        del inputs, output, target, loss
        model.zero_grad()
        gc.collect()
        assert [reference() for reference in kept] == [None] * 3


def test_rows_that_a_device_does_not_give_back_end_the_recording_and_not_the_training(tmp_path, monkeypatch):
    def lost(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    # The first steps are stored before.
    monkeypatch.setattr("parity.recorder.CAPACITY", 3)
    flush, calls = Observer.flush, []
    monkeypatch.setattr(Observer, "flush", lambda self: lost(self) if calls else (calls.append(1), flush(self))[1])
    with pytest.warns(RuntimeWarning, match="its last rows cannot be fetched: CUDA error") as warned:
        record(tmp_path / "loop", steps=8)
    assert len(warned) == 1
    row = trial(tmp_path / "loop")
    assert (row["status"], row["rows"]) == ("interrupted", 3)
    assert "its last rows cannot be fetched" in row["error"]


def test_a_closed_recorder_refuses_calls(tmp_path):
    recorder = parity.Recorder(tmp_path / "loop", little())
    recorder.close()
    recorder.close()
    with pytest.raises(RuntimeError, match="closed"):
        recorder.step()


def test_a_loop_that_raises_has_failed_with_its_rows_and_traceback(tmp_path, capsys):
    record(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        failing = iter([0, 0, 0, 1, 1])
        record(tmp_path / "raised", loss=lambda output, target: by_hand(output, target) * (1 // (1 - next(failing))))
    row = trial(tmp_path / "raised")
    assert (row["status"], row["rows"], row["failed_step"]) == ("failed", 3, 3)
    assert "ZeroDivisionError" in row["traceback"]
    status, out = compared(capsys, tmp_path / "whole", tmp_path / "raised")
    assert (status, "failed at step 3" in " ".join(out.split())) == (1, True)


def test_what_a_killed_process_recorded_is_kept(tmp_path, capsys):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import os, signal, time, test_recorder as it\n"
        "def loss(output, target):\n"
        "    if sys.argv.append('') or len(sys.argv) == 8:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    time.sleep(0.2)\n"
        "    return it.by_hand(output, target)\n"
        "it.torch.set_num_threads(1)\n"
        "it.record(sys.argv[1], loss=loss, steps=50)\n"
    )
    assert warm_command("-c", code, tmp_path / "killed").status == -signal.SIGKILL
    assert report.main([str(tmp_path / "killed")]) == 2
    assert "--resume" in capsys.readouterr().err
    about = tmp_path / "killed" / "run.json"
    text = about.read_text()
    for right, wrong in (('"seed"', '"seeb"'), ('"replica": 0', '"replica": null'), ('"kind": "cpu"', '"kind": []')):
        assert right in text
        about.write_text(text.replace(right, wrong))
        assert run.main(["--resume", str(tmp_path / "killed")]) == 2
        assert f"{about} is damaged: its 'recorded' is {{'name': '" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "killed" / "trials.parquet").exists()
    about.write_text(text)
    assert run.main(["--resume", str(tmp_path / "killed")]) == 3
    row = trial(tmp_path / "killed")
    assert (row["status"], 3 <= row["rows"] <= 5) == ("interrupted", True)
    record(tmp_path / "whole", loss=by_hand)
    # Python's and NumPy's generators are not seeded, and nothing draws from them.
    kept, whole = (bits(tmp_path / name).drop(columns="generator_digests") for name in ("killed", "whole"))
    pd.testing.assert_frame_equal(kept, whole[: len(kept)], check_exact=True)
    status, out = compared(capsys, tmp_path / "whole", tmp_path / "killed")
    assert (status, "was interrupted" in out) == (3, True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"audit_every": -1}, "audit_every=-1 is not a whole number of at least 0. "),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0 is not a whole number of at least 1. "),
        ({"first_step": -1}, "first_step=-1 is not a whole number of at least 0. "),
        ({"seed": 0.5}, "seed=0.5 is not a whole number of at least 0. "),
        ({"replica": -1}, "replica=-1 is not a whole number of at least 0. "),
    ],
    ids=str,
)
def test_a_recorder_refuses_numbers_that_mean_nothing(wrong, message, tmp_path):
    with pytest.raises(Trouble) as trouble:
        parity.Recorder(tmp_path / "run", nn.Linear(1, 1), **wrong)
    assert str(trouble.value).startswith(message) and not (tmp_path / "run").exists()


NO_MODEL = "which is not a torch.nn.Module. Give the model itself; several go into a torch.nn.ModuleDict."
NO_LOSS = "which is not a loss. Give a function (output, target) -> scalar, such as torch.nn.MSELoss(), or None."


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": 3}, f"model is an object of class int, {NO_MODEL}"),
        ({"model": nn.Linear}, f"model is the class Linear, {NO_MODEL}"),
        ({"model": [nn.Linear(1, 1)]}, f"model is an object of class list, {NO_MODEL}"),
        ({"also": {"ema": 3}}, f"also['ema'] is an object of class int, {NO_MODEL}"),
        ({"also": [3]}, "also is an object of class list. Give a dictionary of models by their names."),
        ({"criterion": 3}, f"criterion is an object of class int, {NO_LOSS}"),
        ({"name": 3}, "name is an object of class int. Give a string."),
        ({"criterion": 0}, f"criterion is an object of class int, {NO_LOSS}"),
        ({"criterion": nn.MSELoss}, f"criterion is the class MSELoss, {NO_LOSS}"),
    ],
    ids=str,
)
def test_what_is_no_model_and_no_loss_is_refused_in_a_sentence(wrong, message, tmp_path):
    with pytest.raises(Trouble) as trouble:
        parity.Recorder(tmp_path / "run", **{"model": nn.Linear(1, 1)} | wrong)
    assert str(trouble.value) == f"parity.Recorder: {message}" and not (tmp_path / "run").exists()


class Lookahead:
    """A wrapper that is no optimizer of torch."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups


@pytest.mark.parametrize("wrap", [lambda wrapper: wrapper, lambda wrapper: [wrapper]])
def test_a_wrapper_that_is_no_optimizer_is_refused_in_a_sentence(tmp_path, wrap):
    model = little()
    with pytest.raises(Trouble) as error:
        parity.Recorder(tmp_path / "run", model, optimizers=wrap(Lookahead(torch.optim.Adam(model.parameters()))))
    assert str(error.value) == (
        "parity.Recorder: optimizers= was given an object of class Lookahead, which is not a torch.optim.Optimizer. "
        "Give the optimizer itself, or a list of optimizers, here the one that it keeps as .optimizer; what a wrapper "
        "does to the parameters after the optimizer's step is recorded with the step."
    )
    with pytest.raises(Trouble, match="an object of class int, which is not a torch"):
        parity.Recorder(tmp_path / "run", model, optimizers=[3])
    assert not (tmp_path / "run").exists()
