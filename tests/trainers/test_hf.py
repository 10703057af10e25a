"""transformers' Trainer, recorded by one argument: the same trace as by hand, and no bit of the training is changed."""

import types

import pytest
import torch
from recordings import WRONG, compare, refuses, same_traces, trace, trial
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, default_data_collator

import parity
from parity.ground.errors import Trouble
from parity.hf import ParityCallback

STEPS, PARTS = 3, 4
OPTIONS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": PARTS,
    "max_grad_norm": 0.1,
    "lr_scheduler_type": "linear",
    "train_sampling_strategy": "sequential",
    "report_to": "none",
    "use_cpu": True,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}
pytestmark = [
    pytest.mark.usefixtures("one_thread", "own_state"),
    pytest.mark.filterwarnings("ignore", "error:parity"),
]


def rows(count=4 * PARTS * 2):
    """Sentences of 8 tokens, whose first 1 to 7 do not count."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 40, (count, 8), generator=generator)
    skipped = torch.randint(1, 8, (count, 1), generator=generator)
    labels = torch.where(torch.arange(8) < skipped, -100, tokens)
    return [{"input_ids": some, "labels": label} for some, label in zip(tokens, labels, strict=True)]


def make(out, *, kind=Trainer, callbacks=None, data=None, loss=None, **options):
    torch.manual_seed(0)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 40, "n_positions": 8}
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, **shape, **tokens))
    return kind(
        model=model,
        args=TrainingArguments(str(out.parent / "trainer"), **OPTIONS | options),
        train_dataset=data or rows(),
        eval_dataset=rows(4),
        compute_loss_func=loss,
        callbacks=[ParityCallback(out)] if callbacks is None else callbacks,
    )


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


class Dropped(Trainer):
    """Without the number of tokens in a step, as in transformers before 4.46.

    Source: https://huggingface.co/blog/gradient_accumulation, https://github.com/huggingface/transformers/pull/34191
    """

    def get_batch_samples(self, *arguments):
        return super().get_batch_samples(*arguments)[0], None


def record_by_hand(out, trainer):
    """The steps of a Trainer, without it."""
    model, data = trainer.model.train(), trainer.train_dataset
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(STEPS)
    batches = [default_data_collator(data[at : at + 2]) for at in range(0, STEPS * PARTS * 2, 2)]
    with parity.Recorder(
        out, model, optimizers=optimizer, criterion=parity.hf.next_token_cross_entropy, steps_per_epoch=4
    ) as recorder:
        for step in range(STEPS):
            some = batches[step * PARTS : (step + 1) * PARTS]
            counts = [batch["labels"].ne(-100).sum() for batch in some]
            for batch, count in zip(some, counts, strict=True):
                result = model(**batch, num_items_in_batch=sum(counts))
                share = float(count) / float(sum(counts))
                recorder.forward(
                    batch, output=result.logits, target=batch["labels"], loss=result.loss / share, factor=share
                )
                result.loss.backward()
            recorder.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIONS["max_grad_norm"])
            optimizer.step()
            recorder.step()
            scheduler.step()
            optimizer.zero_grad()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A training with accumulation, clipping and a scheduler, which was evaluated meanwhile; and its weights."""
    out = tmp_path_factory.mktemp("hf") / "recorded"
    trainer = make(out, eval_strategy="steps", eval_steps=1, eval_on_start=True)
    trainer.train()
    return out, weights(trainer)


def test_the_trace_is_that_of_the_loop_by_hand_bit_for_bit(tmp_path, recorded):
    record_by_hand(tmp_path / "hand", make(tmp_path / "unused", callbacks=[]))
    same_traces(tmp_path / "hand", recorded[0])
    found = trace(recorded[0])
    assert list(found.step) == [0, 1, 2] and list(found["rows"]) == [8, 8, 8]
    # Before clipping, and after it.
    assert (found.param_grad_norm > 0.5).all() and (abs(found.step_grad_norm - 0.1) < 1e-6).all()
    assert (found.grad_error_u < 16).all()
    assert trial(recorded[0])["status"] == "complete"


def test_no_bit_of_the_training_is_changed(tmp_path, recorded):
    plain = make(tmp_path / "unused", callbacks=[])
    before = vars(plain).keys() | vars(plain.accelerator).keys()
    plain.train()
    assert all(map(torch.equal, weights(plain), recorded[1]))
    again = make(tmp_path / "again")
    again.train()
    # What was replaced to see the training is put back.
    after = vars(again).keys() | vars(again.accelerator).keys()
    assert not {"compute_loss", "backward", "_run_epoch", "_finalize_training"} & (before | after)
    assert "call_event" not in vars(again.callback_handler)
    assert not any(module._forward_hooks for module in again.model.modules())


def test_dropped_num_items_in_batch_is_named(tmp_path, recorded, capsys):
    make(tmp_path / "dropped", kind=Dropped).train()
    pair = compare(recorded[0], tmp_path / "dropped", capsys)
    assert (pair["verdict"], pair["onset"]["step"], pair["onset"]["quantity"]) == ("diverged", 0, "output_grad")
    named = "0.25 (4 times) for batches of 2 (4 times) rows in the candidate, a mean of means over unequal counts"
    assert named in pair["cause"]


def of_all_tokens(result, labels, num_items_in_batch=None):
    losses = torch.nn.functional.cross_entropy(result.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return losses / num_items_in_batch


@pytest.mark.parametrize(
    ("options", "audited"),
    [
        ({"bf16": True}, True),
        ({"gradient_checkpointing": True}, True),
        ({"label_smoothing_factor": 0.1}, False),
        ({"loss": of_all_tokens}, False),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_other_trainings_are_recorded(tmp_path, options, audited):
    make(tmp_path / "out", max_steps=2, **options).train()
    found = trace(tmp_path / "out")
    assert len(found) == 2 and (found.output_grad_norm > 0).all() and (found.step_grad_norm > 0).all()
    assert found.grad_error_u.notna().all() == audited and not (found.grad_error_u > 16).any()
    assert trial(tmp_path / "out")["status"] == "complete"


class Counting(Trainer):
    """Counts the items of a step in a way of its own, which no tensor can be made of."""

    def get_batch_samples(self, *arguments):
        return super().get_batch_samples(*arguments)[0], "all"


def test_items_that_cannot_be_read_end_the_recording_and_not_the_training(tmp_path):
    def loss_of(result, labels, num_items_in_batch=None):
        return of_all_tokens(result, labels, labels.numel())

    trainer = make(tmp_path / "out", kind=Counting, loss=loss_of)
    with pytest.warns(RuntimeWarning, match="parity: the recording ended before step 0"):
        trainer.train()
    assert trainer.state.global_step == STEPS
    assert trial(tmp_path / "out")["status"] == "interrupted"


class Failing(Trainer):
    """Raises in the evaluation after its second step."""

    def evaluation_loop(self, *arguments, **options):
        if self.state.global_step == 2:
            raise ArithmeticError("no metric")
        return super().evaluation_loop(*arguments, **options)


def test_a_training_that_raises_has_failed_and_its_steps_are_kept(tmp_path):
    trainer = make(tmp_path / "failed", kind=Failing, eval_strategy="steps", eval_steps=1)
    with pytest.raises(ArithmeticError):
        trainer.train()
    row = trial(tmp_path / "failed")
    assert (row["status"], row["rows"], row["failed_step"]) == ("failed", 2, 2)
    assert "ArithmeticError: no metric" in row["error"]
    assert "compute_loss" not in vars(trainer)


def test_a_resumed_training_is_compared_from_its_first_step_on(tmp_path, recorded, capsys):
    make(tmp_path / "begun", max_steps=STEPS, save_strategy="steps", save_steps=2).train()
    make(tmp_path / "resumed").train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-2"))
    assert list(trace(tmp_path / "resumed").step) == [2]
    pair = compare(recorded[0], tmp_path / "resumed", capsys)
    assert (pair["steps"], pair["verdict"]) == (1, "identical"), pair["cause"]


def test_a_caller_that_is_no_trainer_is_refused(tmp_path):
    with pytest.raises(Trouble, match=r"records trainings of transformers.Trainer and its subclasses"):
        ParityCallback(tmp_path / "out").on_train_begin(None, None, None)


class Raises(TrainerCallback):
    """Raises at one event."""

    def __init__(self, event):
        setattr(self, event, self.fail)

    def fail(self, *_, **__):
        raise ArithmeticError("no")


@pytest.mark.parametrize("event", ["on_epoch_begin", "on_train_begin", "on_train_end"])
def test_an_error_of_another_callback_fails_the_recording(tmp_path, event):
    make(tmp_path / "out").train()
    raises = Raises(event)
    callbacks = [raises, ParityCallback(tmp_path / "out", overwrite=True)]
    if event == "on_train_begin":
        callbacks.reverse()
    trainer = make(tmp_path / "out", callbacks=callbacks)
    with pytest.raises(ArithmeticError):
        trainer.train()
    row = trial(tmp_path / "out")
    assert (row["status"], "ArithmeticError: no" in row["error"]) == ("failed", True)
    assert not {"compute_loss", "_evaluate", "_run_epoch", "_finalize_training"} & vars(trainer).keys()
    assert "call_event" not in vars(trainer.callback_handler)
    assert all("on_train_begin" not in vars(each) for each in trainer.callback_handler.callbacks if each is not raises)
    assert trial(tmp_path / "out-replaced")["status"] == "complete"
    trainer.remove_callback(raises)
    trainer.train()
    assert trial(tmp_path / "out")["status"] == trial(tmp_path / "out-replaced")["status"] == "complete"


def test_other_callbacks_are_as_they_were_after_the_beginning(tmp_path):
    class Looks(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.seen = {**vars(self)}

    looks = Looks()
    make(tmp_path / "out", callbacks=[ParityCallback(tmp_path / "out"), looks]).train()
    assert looks.seen.keys() <= {"seen"}


def test_an_error_in_the_evaluation_before_the_first_step_fails_the_recording(tmp_path):
    class Fails(Trainer):
        def evaluation_loop(self, *_, **__):
            raise ArithmeticError("no metric")

    trainer = make(tmp_path / "out", kind=Fails, eval_strategy="steps", eval_steps=1, eval_on_start=True)
    with pytest.raises(ArithmeticError):
        trainer.train()
    row = trial(tmp_path / "out")
    assert (row["status"], row["rows"]) == ("failed", 0) and "no metric" in row["error"]


@pytest.mark.parametrize(
    ("name", "routed", "known"),
    [("GPT2LMHeadModel", False, True), ("GPT2LMHeadModel", True, False), ("XLNetLMHeadModel", False, False)],
)
def test_only_known_losses_are_audited(name, routed, known):
    model = type(name, (torch.nn.Module,), {"config": types.SimpleNamespace(output_router_logits=routed)})()
    criterion = parity.hf._criterion_of(plain_trainer(model))
    assert criterion is (parity.hf.next_token_cross_entropy if known else None)


def plain_trainer(model):
    trainer = Trainer.__new__(Trainer)
    trainer.compute_loss_func = trainer.label_smoother = None
    trainer.model = model
    return trainer


@pytest.mark.parametrize(("arguments", "found", "to_do"), [*WRONG])
def test_a_wrong_argument_is_refused_where_it_is_given(arguments, found, to_do, tmp_path):
    refuses(lambda **given: ParityCallback(**{"out": tmp_path / "out"} | given), arguments, found, to_do)
