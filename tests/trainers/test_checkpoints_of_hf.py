"""Folders that transformers' Trainer saves: of one training done twice they are equal, and what is planted is found."""

import json
import shutil

import pytest
import torch
from test_hf import make

from parity import report
from parity.checkpoints.comparing import compare_checkpoints
from parity.checkpoints.reading import read_checkpoint
from parity.ground.errors import Trouble
from parity.plan.tolerance import EXACT

SAVING = {
    "save_strategy": "steps",
    "save_steps": 1,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "metric_for_best_model": "loss",
    "include_num_input_tokens_seen": "all",
}
TIMES = "train_runtime, train_tokens_per_second, eval_runtime, eval_samples_per_second, eval_steps_per_second"
pytestmark = pytest.mark.usefixtures("one_thread", "own_state")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two folders of one training that was done twice, in folders of other names. Read-only."""
    sides = []
    for name in ("first", "again"):
        folder = tmp_path_factory.mktemp(name)
        make(folder / "unused", callbacks=[], **SAVING).train()
        sides.append(folder / "trainer" / "checkpoint-2")
    return sides


@pytest.fixture
def planted(trained, tmp_path):
    """Compares copies of the two folders; functions may change the state of the second one, or that of both."""

    def run(change=None, files=(), *, baseline=None):
        sides = []
        for name, folder, edit in (("baseline", trained[0], baseline), ("copy", trained[1], change)):
            sides.append(shutil.copytree(folder, tmp_path / name, dirs_exist_ok=True))
            path = sides[-1] / "trainer_state.json"
            if edit:
                state = json.loads(path.read_bytes())
                edit(state)
                path.write_text(json.dumps(state))
        for name, content in files:
            (sides[1] / name).write_bytes(content)
        return compare_checkpoints(*(read_checkpoint(str(each)) for each in sides), tolerance=EXACT)

    return run


def test_a_training_that_was_done_twice_is_identical(trained, capsys):
    states = [json.loads((folder / "trainer_state.json").read_bytes()) for folder in trained]
    assert states[0] != states[1]
    for name in ("trainer_state.json", "training_args.bin"):
        assert len({(folder / name).read_bytes() for folder in trained}) == 2
    assert report.main([*map(str, trained)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("checkpoints: identical")
    assert "No state of the training: training_args.bin has other bytes (settings; loading it would run code)" in said
    assert f"Of trainer_state.json, 10 times that were measured count as equal: {TIMES}." in said
    assert "best_model_checkpoint is compared without the folder of the training" in said


def test_what_both_sides_say_is_said_once(trained, capsys):
    assert report.main([*map(str, trained), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unread"] == [] and found["baseline"]["notes"] == found["candidate"]["notes"]
    assert found["not_state"] == ["training_args.bin has other bytes (settings; loading it would run code)"]


def put(name, value, *rows):
    def change(state):
        for row in [state["log_history"][place] for place in rows] or [state]:
            row[name] = value

    return change


def test_the_rows_are_as_the_tests_expect(trained):
    rows = json.loads((trained[0] / "trainer_state.json").read_bytes())["log_history"]
    assert ["eval_loss" in row for row in rows] == [False, True, False, True]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (put("global_step", 3), ["global_step"]),
        (put("epoch", 0.25), ["epoch"]),
        (put("best_metric", 3.0), ["best_metric"]),
        (put("best_metric", float("nan")), ["best_metric"]),
        (put("best_model_checkpoint", "elsewhere/checkpoint-1"), ["best_model_checkpoint"]),
        (put("best_model_checkpoint", None), ["best_model_checkpoint"]),
        (put("best_model_checkpoint", "elsewhere/mine"), ["best_model_checkpoint"]),
        (put("total_flos", 681985.0), ["total_flos"]),
        (put("save_steps", 500), ["save_steps"]),
        (put("unknown", 1), ["unknown"]),
        (put("train_runtime", 1.0), ["train_runtime"]),
        (put("loss", 3.5, 2), ["log_history.2.loss"]),
        (put("eval_loss", 3.5, 1), ["log_history.1.eval_loss"]),
        (put("eval_runtime", "0.5", 1), ["log_history.1.eval_runtime"]),
        (put("eval_runtime", float("nan"), 1), ["log_history.1.eval_runtime"]),
        (put("eval_runtime", -1.0, 3), ["log_history.3.eval_runtime"]),
        (put("eval_predicted_runtime", 1.0, 1), ["log_history.1.eval_predicted_runtime"]),
        (put("predicted_steps_per_second", 1.0, 1), ["log_history.1.predicted_steps_per_second"]),
        (lambda state: state["log_history"][1].pop("eval_runtime"), None),
        (lambda state: state["log_history"].pop(), None),
        (lambda state: state["stateful_callbacks"]["TrainerControl"]["args"].update(should_log=True), None),
    ],
)
def test_a_planted_value_is_found_by_its_name(planted, change, names):
    found = planted(change)
    assert found.word == "differ" and found.exit_status == 1
    assert all(each.name.startswith("trainer_state.") for each in found.differences)
    if names:
        assert [each.name.removeprefix("trainer_state.") for each in found.differences] == names


@pytest.mark.parametrize("name", ["eval_predicted_runtime", "predicted_steps_per_second", "loss_runtime"])
def test_a_metric_that_is_named_like_a_time_is_compared(planted, name):
    found = planted(put(name, 1.0, 1), baseline=put(name, 2.0, 1))
    assert [each.name for each in found.differences] == [f"trainer_state.log_history.1.{name}"]


def test_another_time_is_not_found(planted):
    assert planted(put("eval_runtime", 1000, 1)).word == "identical"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"a": 1, "a": 2}', b'{"a": ' * 10**5, b'{"a": 1e-9999999999999999999}']
)
def test_a_broken_state_is_damage(planted, text):
    with pytest.raises(Trouble, match=r"trainer_state\.json is damaged: it .*Copy it again from where it was written"):
        planted(files=[("trainer_state.json", text)])


def test_numbers_that_float64_cannot_tell_apart_differ(tmp_path, trained):
    for side, number in (("a", "1e-400"), ("b", "0.0")):
        shutil.copytree(trained[0], tmp_path / side)
        (tmp_path / side / "trainer_state.json").write_text(f'{{"best_metric": {number}}}')
    sides = [read_checkpoint(str(tmp_path / side)) for side in "ab"]
    assert compare_checkpoints(*sides, tolerance=EXACT).word == "differ"


def test_settings_that_are_no_settings_may_be_state(planted, tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "state")
    torch.save({"step": 2}, tmp_path / "counter")
    for content in (b"text", b"PK\x03\x04", *((tmp_path / name).read_bytes() for name in ("state", "counter"))):
        found = planted(files=[("training_args.bin", content)])
        assert (found.word, found.not_state) == ("undecided", ())
        assert found.unread == ("training_args.bin has other bytes (loading it would run code)",)


def test_what_is_for_readers_decides_nothing_and_other_files_do(planted):
    found = planted(files=[("README.md", b"# A model")])
    assert found.word == "identical" and "README.md is in the candidate only (a text for readers)" in found.not_state
    assert planted(files=[("config.json", b"{}")]).word == "undecided"
