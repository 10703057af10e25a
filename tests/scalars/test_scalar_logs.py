"""Real logs of each format, made by the library itself where it can be, are read exactly, and damage is named."""

import csv
import json
import warnings

import numpy as np
import pandas as pd
import pytest

from parity.ground.errors import Trouble
from parity.scalars.event_records import _masked_crc
from parity.scalars.log import Column, series_of
from parity.scalars.precision import Precision
from parity.scalars.reading import read_log

# A number that four decimals cannot tell from its neighbours, and the float32 beside it.
LOSS = np.float32(8.0407)
BESIDE = np.nextafter(LOSS, np.float32(9))

# As torchtitan prints steps to a terminal; its documentation shows such lines, without the gradient norm.
TORCHTITAN = """\
[rank0]:[titan] 2025-06-04 08:51:40,001 - root - INFO - Training starts at step 1, with local batch size 1
[rank0]:[titan] 2025-06-04 08:51:48,074 - root - INFO - \x1b[31mstep:  1  \x1b[32mloss: 12.22540  \x1b[38;2;180;60;0m\
grad_norm:  4.1234  \x1b[38;2;54;234;195mmemory: 27.34GiB(28.78%)  \x1b[34mtps: 7,034  \
\x1b[36mtflops: 407.35  mfu: 41.19%\x1b[39m
[rank0]:[titan] 2025-06-04 08:51:58,557 - root - INFO - step: 10  loss:  nan  grad_norm:  inf  \
memory: 30.99GiB(32.62%)  tps: 7,034
[rank0]:[titan] 2025-06-04 08:51:59,557 - root - INFO - validate step: 10  loss:  9.5000  memory: 30.99GiB(32.62%)  \
tps: 7,034
"""
# As Megatron-LM's GoldenValueMetric is written.
GOLDEN = {
    "lm loss": {"start_step": 1, "end_step": 10, "step_interval": 5, "values": {"1": 10.84266, "5": 10.8, "10": "nan"}}
}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """Writes scalars by step with torch's SummaryWriter; returns the folder."""
    from torch.utils.tensorboard import SummaryWriter

    def write(name, *, new_style=False, **scalars):
        folder = tmp_path_factory.mktemp(name)
        with SummaryWriter(str(folder)) as writer:
            for tag, numbers in scalars.items():
                for step, number in numbers.items():
                    writer.add_scalar(tag.replace("__", "/"), number, step, new_style=new_style)
        return folder

    return write


def series(log, name):
    return dict(zip(log.series[name].steps.tolist(), log.series[name].values.tolist(), strict=True))


@pytest.mark.parametrize("new_style", [False, True], ids=["simple_value", "tensor"])
def test_an_event_file_is_read_to_the_bit(board, new_style):
    numbers = {0: LOSS, 1: BESIDE, 2: np.float32("nan"), 70_000: np.float32(0.0), 3: np.float32(-np.inf)}
    log = read_log(str(board("bits", new_style=new_style, train__loss=numbers)))
    found = log.series["train/loss"]
    assert (log.format, found.precision) == ("TensorBoard event file", Precision("float32"))
    assert found.steps.tolist() == [0, 1, 2, 3, 70_000]
    expected = [LOSS, BESIDE, np.nan, -np.inf, 0.0]
    np.testing.assert_array_equal(found.values.astype(np.float32), np.array(expected, np.float32))
    assert any("not in order: 3 comes after 70,000" in note for note in found.notes)


def test_an_event_file_is_read_as_tensorboard_reads_it(board):
    """The library's own reader keeps every step if it is asked to."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rng = np.random.default_rng(0)
    folder = board("own", loss={step: float(number) for step, number in enumerate(rng.standard_normal(300))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload().Scalars("loss")
    assert series(read_log(str(folder)), "loss") == {each.step: each.value for each in theirs}


def test_a_resumed_training_counts_once_with_its_last_numbers(board, tmp_path):
    first, second = board("first", loss={0: 1.0, 1: 2.0, 2: 3.0}), board("second", loss={1: 2.0, 2: 4.0, 3: 5.0})
    for place, folder in enumerate((first, second)):
        for file in folder.iterdir():
            file.rename(tmp_path / f"events.out.tfevents.{place}")
    log = read_log(str(tmp_path))
    assert series(log, "loss") == {0: 1.0, 1: 2.0, 2: 4.0, 3: 5.0}
    assert log.notes == ("2 event files are read as one run",)
    assert log.series["loss"].notes[-1] == (
        "2 steps are logged more than once, 1 times with another number; the last number of each counts"
    )


def test_a_flipped_bit_of_an_event_file_is_named_and_a_cut_end_is_a_note(board):
    file = next(board("damaged", loss=dict.fromkeys(range(5), 1.0)).iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    log = read_log(str(file))
    assert len(log.series["loss"].steps) == 4 and "ends within a record" in log.doubts[0]
    damaged = bytearray(whole)
    damaged[-6] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(
        Trouble, match=r"is damaged: the checksum of the record at byte [\d,]+ is wrong\. Copy it again"
    ):
        read_log(str(file))


def test_the_checksum_is_that_of_the_standard():
    """RFC 3720, B.4: the CRC-32C of 32 zeros is 0x8A9136AA; TFRecords rotate it and add a constant."""
    crc = 0x8A9136AA
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert _masked_crc(np.zeros((1, 32), np.uint8))[0] == masked


def test_a_folder_of_several_runs_asks_for_one(board):
    parent = board("several", loss={0: 1.0}).parent
    with pytest.raises(Trouble, match=r"event files of \d+ runs: .*Give the folder of one run\."):
        read_log(str(parent))


def test_trainer_state_of_transformers(tmp_path):
    from transformers.trainer_callback import TrainerState

    state = TrainerState(global_step=20)
    state.log_history = [
        {"loss": 2.3456, "grad_norm": 1.25, "learning_rate": 5e-05, "epoch": 0.5, "step": 10},
        {"eval_loss": 2.1, "eval_runtime": 1.5, "epoch": 0.5, "step": 10},
        {"loss": float("nan"), "grad_norm": 1.5, "learning_rate": 4e-05, "epoch": 1.0, "step": 20},
        {"train_runtime": 3.0, "total_flos": 1e9, "train_loss": 2.0, "epoch": 1.0, "step": 20},
    ]
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    log = read_log(str(tmp_path))
    assert log.format == "trainer_state.json"
    assert series(log, "epoch") == {10: 0.5, 20: 1.0} and series(log, "eval_loss") == {10: 2.1}
    assert log.series["loss"].precision == Precision("printed", 4)
    assert np.isnan(series(log, "loss")[20]) and not len(log.series["loss"].blank)


def test_torchtitan(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(TORCHTITAN)
    log = read_log(str(path))
    assert log.format == "torchtitan's text log"
    assert [*log.series] == [
        "loss",
        "grad_norm",
        "memory",
        "tps",
        "tflops",
        "mfu",
        "validate/loss",
        "validate/memory",
        "validate/tps",
    ]
    assert series(log, "tps") == {1: 7034.0, 10: 7034.0} and series(log, "grad_norm") == {1: 4.1234, 10: np.inf}
    assert np.isnan(series(log, "loss")[10]) and log.series["loss"].precision == Precision("printed", 5)
    path.write_text(TORCHTITAN + TORCHTITAN.replace("rank0", "rank1").replace("12.22540", "99.0"))
    log = read_log(str(path))
    assert series(log, "loss")[1] == 12.2254 and log.notes == ("it has the lines of 2 ranks; rank 0 is compared",)


def test_golden_values_of_megatron_where_nan_may_mean_missing(tmp_path):
    path = tmp_path / "golden_values.json"
    path.write_text(json.dumps(GOLDEN))
    log = read_log(str(path))
    assert log.format == "Megatron's golden values"
    assert series(log, "lm loss") == {1: 10.84266, 5: 10.8} and log.series["lm loss"].blank.tolist() == [10]


def test_json_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"_step": step, "train": {"loss": float(LOSS)}, "note": "x"} for step in range(3)]
    rows.append({"_step": 3, "train": {"loss": None}, "note": "x"})
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    log = read_log(str(path))
    assert log.format == "JSON lines" and log.notes == ("not numbers, and compared as text: note",)
    assert log.series["train.loss"].precision == Precision("float32")
    assert log.series["train.loss"].blank.tolist() == [3]
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(Trouble, match="has no JSON in line 6: "):
        read_log(str(path))


def test_csv_of_pandas_whose_empty_cell_may_be_a_nan(tmp_path):
    path = tmp_path / "log.csv"
    pd.DataFrame({"step": [0, 1, 2], "loss": [1.5, np.nan, 2.5], "lr": [0.1] * 3}).to_csv(path, index=False)
    log = read_log(str(path))
    assert log.series["loss"].blank.tolist() == [1] and not len(log.series["lr"].blank)


def test_csv_of_lightning_whose_rows_are_of_two_kinds(tmp_path):
    """As lightning_fabric.loggers.csv_logs writes it: each row has the numbers of one call, and is empty elsewhere."""
    rows = [{"epoch": 0, "step": step, "train_loss": 1.0 / (step + 3)} for step in range(4)]
    rows.append({"epoch": 0, "step": 3, "val_loss": 0.5})
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["epoch", "step", "train_loss", "val_loss"])
        writer.writeheader()
        writer.writerows(rows)
    log = read_log(str(tmp_path))
    assert log.format == "CSV" and not any(len(each.blank) for each in log.series.values())
    assert series(log, "val_loss") == {3: 0.5} and log.series["train_loss"].precision == Precision("float64")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_any_delimiter_and_without_steps(tmp_path, delimiter):
    path = tmp_path / "log.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([["loss", "größe"], ["0.5", "1"], ["nan", "2"], ["inf", "3"]])
    log = read_log(str(path))
    assert log.notes == ("no column is called step, so the rows are counted from 0",)
    assert series(log, "größe") == {0: 1.0, 1: 2.0, 2: 3.0} and np.isnan(series(log, "loss")[1])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "is empty. A log is one of these: TensorBoard event file; CSV; JSON lines; trainer_state.json; "),
        ("hello world\n", "is a text of another kind."),
        ("{", "is not valid JSON ("),
        ('{"a": 1, "b": [2]', "is not valid JSON ("),
        ("[1, 2]", "is a JSON list of other things than objects."),
        ("step,loss\n0,1\n1.5,2\n", "has in row 2 the step '1.5', and a step is a whole number of at most 18 digits."),
        ("step,loss\n0,1\n1,2,3\n2,3\n3,3\n", "is a text of another kind."),
        ("step,loss\n0,1\n1,abc\n", "has 'abc' among the numbers of 'loss'."),
        ("step,name\n0,a\n1,b\n", "was read as CSV, and has no scalar."),
        (
            '{"step": 1.5, "loss": 1}\n',
            "has in row 1 the step '1.5', and a step is a whole number of at most 18 digits.",
        ),
        ('{"step": 1, "loss": 1}\n3\n', "has '3' in line 2, and each line has to be a JSON object."),
        ('{"x": {"start_step": 0, "end_step": 1, "step_interval": 1, "values": {"a": 1}}}', "has the step 'a' for 'x'"),
        ('{"step": 99999999999999999999, "loss": 1}\n', "has in row 1 the step '99999999999999999999'"),
        ('{"step": NaN, "loss": 1}\n', "has in row 1 the step 'nan'"),
        ("step,loss\n1e30,1\n2,2\n", "has in row 1 the step '1e30'"),
        ("{}", "was read as JSON lines, and has no scalar."),
        ("[" * 100_000, "is not valid JSON (maximum recursion depth exceeded"),
        (b"\xff\xfe\x00\x01", "is neither text nor an event file."),
    ],
)
def test_what_is_no_log_is_refused_in_words(tmp_path, content, found):
    path = tmp_path / "log"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Trouble) as raised:
        read_log(str(path))
    assert found in str(raised.value)


@pytest.mark.parametrize(
    ("texts", "precision"),
    [
        (["8.0407", "7.99"], Precision("printed", 4)),
        (["8.0407000"], Precision("printed", 7)),
        ([repr(float(LOSS))], Precision("float32")),
        ([str(LOSS), str(BESIDE), "0.12345679"], Precision("float32")),
        ([repr(1 / 3)], Precision("float64")),
        (["1.5e-05", "nan"], Precision("printed", 6)),
        (["100", "-3"], Precision("whole")),
        (["nan", "inf"], Precision("whole")),
    ],
)
def test_what_a_text_keeps(texts, precision):
    column = Column.empty()
    for step, text in enumerate(texts):
        assert column.add(step, text)
    assert series_of(column).precision == precision


def test_the_index_that_pandas_writes_is_left_out(tmp_path):
    frame = pd.DataFrame({"step": [5, 6, 8], "loss": [0.5, 0.25, 0.125]})
    frame.to_csv(tmp_path / "log.csv")
    log = read_log(str(tmp_path / "log.csv"))
    assert list(log.series) == ["loss"] and series(log, "loss") == {5: 0.5, 6: 0.25, 8: 0.125}
    assert log.notes == ("the first column has no name and counts the rows: it is left out",)


def test_a_column_without_a_name_that_does_not_count_the_rows_gets_one(tmp_path):
    frame = pd.DataFrame({"step": [5, 6, 8], "loss": [0.5, 0.25, 0.125]}, index=[2, 4, 6])
    frame.to_csv(tmp_path / "log.csv")
    assert sorted(read_log(str(tmp_path / "log.csv")).series) == ["column 1", "loss"]


def test_spaces_around_a_heading_are_none_of_the_name(tmp_path):
    (tmp_path / "log.csv").write_text("step, loss\n0, 0.5\n1, 0.25\n")
    assert series(read_log(str(tmp_path / "log.csv")), "loss") == {0: 0.5, 1: 0.25}
