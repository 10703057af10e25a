"""What was not looked at, or cannot be told apart, is undecided or trouble: never identical."""

import json

import pytest

from parity import report
from parity.ground.errors import Trouble
from parity.render.documents.numbers import rounded_up
from parity.scalars.choosing import compare_logs
from parity.scalars.event_records import read_scalars
from parity.scalars.reading import read_log


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def constant(**scalars):
    return lines(*({"step": step, **scalars} for step in range(3)))


def epochs(first):
    rows = [
        f"{epoch},{batch},{(first if epoch < 2 else 1.5) / (1 + epoch + batch)}"
        for epoch in range(3)
        for batch in range(4)
    ]
    return "epoch,batch,loss\n" + "\n".join(rows) + "\n"


def titan(norm):
    return "".join(f"[rank0]:step: {step}  loss:  7.5  grad_norm: {norm}  mfu: 41.19%\n" for step in (1, 2))


def golden(**beside):
    metric = {"start_step": 1, "end_step": 2, "step_interval": 1, "values": {"1": 1.5, "2": 1.25}}
    return json.dumps({"lm loss": metric, **beside})


CASES = {
    "short decimals": (constant(lr=0.001), constant(lr=0.0014), 3),
    "exponents": (constant(lr=2e-5), constant(lr=2.4e-5), 3),
    "zero": (constant(lr=0.0), constant(lr=0.04), 3),
    "one decimal": (constant(loss=2.0), constant(loss=2.04), 3),
    "equal decimals": (constant(lr=0.001), constant(lr=0.001), 0),
    "float32 inf": (
        lines({"step": 1, "loss": 0.10000000149011612}, {"step": 2, "loss": float("inf")}),
        lines({"step": 1, "loss": 0.1000000014901161}, {"step": 2, "loss": 1e39}),
        1,
    ),
    "large integers": (constant(loss=1.5, hash=1234567890123456789), constant(loss=1.5, hash=1234567890123456780), 3),
    "large integers in CSV": ("step,loss,n\n1,1,9007199254740992\n", "step,loss,n\n1,1,9007199254740993\n", 3),
    "large steps": (
        "step,loss\n9007199254740992,5.5\n9007199254740993,4.5\n",
        "step,loss\n9007199254740992,77.5\n9007199254740993,4.5\n",
        1,
    ),
    "no step": ("step,loss\n1,5.5\n,6.5\n,7.5\n", "step,loss\n1,5.5\n,9.5\n,99.5\n", 3),
    "no step, the same": ("step,loss\n1,5.5\n,6.5\n", "step,loss\n1,5.5\n,6.5\n", 0),
    "another name of the step": (
        lines({"step": 1, "loss": 0.5}, {"global_step": 1, "eval_loss": 0.4}),
        lines({"step": 1, "loss": 0.5}, {"global_step": 1, "eval_loss": 9.4}),
        1,
    ),
    "decimal comma": ("step;loss;lr\n1;0,5;1\n2;0,2;1\n", "step;loss;lr\n1;0,9;1\n2;0,2;1\n", 3),
    "thousands": ('step,loss,lr\n1,"1,234.5",1\n', 'step,loss,lr\n1,"9,234.5",1\n', 3),
    "repr of a tensor": ("step,loss,lr\n1,tensor(0.5),1\n", "step,loss,lr\n1,tensor(9.5),1\n", 3),
    "truth values": (constant(loss=1.5, found_inf=True), constant(loss=1.5, found_inf=False), 3),
    "the same texts": (constant(loss=1.5, found_inf=True), constant(loss=1.5, found_inf=True), 0),
    "all blank": ("step,loss,lr\n1,,0.1\n2,,0.1\n", "step,loss,lr\n1,,0.1\n2,,0.1\n", 3),
    "all blank beside numbers": ("step,loss,lr\n1,,0.1\n2,,0.1\n", "step,loss,lr\n1,2,0.1\n2,3,0.1\n", 3),
    "all null": (constant(loss=None, lr=0.1), constant(loss=None, lr=0.1), 3),
    "blank after a number": ("step,loss\n1,5.5\n2,4.5\n2,\n", "step,loss\n1,5.5\n2,4.5\n", 3),
    "batches of epochs": (epochs(99.5), epochs(1.5), 1),
    "two columns of a name": ("step,loss,loss\n1,5.5,1\n", "step,loss,loss\n1,7.5,1\n", 2),
    "two keys of a name": ('{"step":1,"a":1,"a":2}\n', '{"step":1,"a":3,"a":2}\n', 2),
    "two names that are joined": ('{"step":1,"a":{"b":1},"a.b":2}\n', '{"step":1,"a":{"b":3},"a.b":2}\n', 2),
    "a loss over time": ("step,time_loss,lr\n1,0.5,1\n", "step,time_loss,lr\n1,0.9,1\n", 1),
    "a message like torchtitan": (
        constant(msg="step: 1 loss: 2.5", loss=2.5),
        constant(msg="step: 1 loss: 2.5", loss=2.54321),
        3,
    ),
    "a rank that is not the lowest": (
        "[rank0]: step: 1 loss: 2.5 tps: 1\n[rank1]: step: 1 loss: 2.5 tps: 1\n",
        "[rank0]: step: 1 loss: 2.5 tps: 1\n[rank1]: step: 1 loss: 9.5 tps: 2\n",
        3,
    ),
    "the speed of another rank": (
        "[rank0]: step: 1 loss: 2.5 tps: 1\n[rank1]: step: 1 loss: 2.5 tps: 1\n",
        "[rank0]: step: 1 loss: 2.5 tps: 1\n[rank1]: step: 1 loss: 2.5 tps: 2\n",
        0,
    ),
    "an open quote": ('step,loss\n1,0.5\n2,"0.4\n3,0.3\n', 'step,loss\n1,0.5\n2,"0.4\n3,0.9\n', 2),
    "a long cell": (f'step,loss,x\n1,.5,x\n2,.4,"{"y" * 140_000}"\n', "step,loss,x\n1,.5,x\n", 2),
    "the smallest number": (
        lines({"step": 1, "loss": 5e-324}, {"step": 2, "loss": 0.12345678901234567}),
        lines({"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.12345678901234567}),
        1,
    ),
    "the largest numbers": (constant(loss=1.7e308), constant(loss=-1.7e308), 1),
    "numbers far apart": (constant(loss=5e-324), constant(loss=1.7e308), 1),
    "the smallest number, printed": (constant(loss=5e-324), constant(loss=0.0), 3),
    **{
        f"{one} and {two}": (f"step,loss,n\n1,0.5,1\n2,{one},1\n", f"step,loss,n\n1,0.5,1\n2,{two},1\n", status)
        for one, two, status in (
            ("9007199254740993.0", "9007199254740992.0", 3),
            ("9007199254740993e0", "9007199254740992e0", 3),
            ("9_007_199_254_740_993", "9007199254740992", 3),
            ("1e-400", "2e-400", 3),
            ("1e-400", "0", 3),
            ("1e-99999999999999999999", "0", 3),
            ("0.12345678901234567890", "0.12345678901234567899", 3),
            # Two texts of one float: the shortest, and all of its digits.
            ("0.1", "0.1000000000000000055511151231257827", 0),
            ("1e23", "9.9999999999999991611392e22", 0),
        )
    },
    **{
        f"{one} and {two} in JSON": (
            f'{{"step":1,"loss":{one},"n":1}}\n{{"step":2,"loss":1,"n":1}}\n',
            f'{{"step":1,"loss":{two},"n":1}}\n{{"step":2,"loss":1,"n":1}}\n',
            3,
        )
        for one, two in (("1e400", "1e500"), ("9007199254740993.0", "9007199254740992.0"), ("1e-400", "0.0"))
    },
    "large numbers in a list of JSON": (
        '[{"step":1,"loss":9007199254740993.0,"n":1}]',
        '[{"step":1,"loss":9007199254740992.0,"n":1}]',
        3,
    ),
    "epochs": (constant(loss=0.5, epoch=0.1), constant(loss=0.5, epoch=0.7), 1),
    "times": (constant(loss=0.5, time=0.1, _timestamp=1.5), constant(loss=0.5, time=0.7, _timestamp=2.5), 0),
    "float32 and float64": (
        "step,loss\n1,0.10000000149011612\n2,0.5\n",
        "step,loss\n1,0.1\n2,0.5000000000000001\n",
        3,
    ),
    "no number in torchtitan's log": (titan("n/a"), titan("-"), 3),
    "the same in torchtitan's log": (titan("n/a"), titan("n/a"), 0),
    "a number and letters in torchtitan's log": (titan("1.2abc"), titan("1.2xyz"), 3),
    "a comma that is not of thousands in torchtitan's log": (titan("1,2"), titan("12"), 3),
    "several words in torchtitan's log": (titan("1.2 note: foo bar"), titan("1.2 note: foo baz"), 3),
    "what is beside golden values": (golden(seed=1), golden(seed=2), 3),
    "the same beside golden values": (golden(seed=1), golden(seed=1), 0),
    "values in a list": (
        '{"lm": {"start_step": 1, "end_step": 2, "step_interval": 1, "values": [1, 2]}}',
        '{"lm": {"start_step": 1, "end_step": 2, "step_interval": 1, "values": [1, 2]}}',
        2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_never_identical(name, tmp_path, capsys):
    baseline, candidate, status = CASES[name]
    for file, text in (("a", baseline), ("b", candidate)):
        (tmp_path / file).write_text(text)
    for form in ("text", "json"):
        found = report.main([str(tmp_path / "a"), str(tmp_path / "b"), "--format", form])
        assert found == status, capsys.readouterr()


def test_a_tolerance_passes_what_few_decimals_hide(tmp_path, capsys):
    (tmp_path / "a").write_text(constant(lr=0.001))
    (tmp_path / "b").write_text(constant(lr=0.0014))
    assert report.main([str(tmp_path / "a"), str(tmp_path / "b"), "--atol", "1e-3"]) == 0
    assert "logs: within" in capsys.readouterr().out
    assert report.main([str(tmp_path / "a"), str(tmp_path / "b"), "--atol", "1e-4"]) == 3


def test_a_log_of_float32_and_one_of_float64_are_not_said_to_be_equal(tmp_path, capsys):
    for file, number in (("a", "0.5"), ("b", "0.5000000000000001")):
        (tmp_path / file).write_text(f"step,loss\n1,0.10000000149011612\n2,{number}\n")
    paths = [str(tmp_path / file) for file in "ab"]
    assert report.main(paths) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "equal after rounding to float32 at 2 steps" in out and "identical" not in out
    assert report.main([*paths, "--atol", "1e-15"]) == 0
    assert "equal after rounding to float32" in " ".join(capsys.readouterr().out.split())
    assert report.main([*paths, "--atol", "1e-17"]) == 3


def test_no_tolerance_reaches_a_nan(tmp_path):
    for file, number in (("a", "nan"), ("b", "50.5")):
        (tmp_path / file).write_text(f"step,loss\n1,0.5\n2,{number}\n")
    assert report.main([str(tmp_path / "a"), str(tmp_path / "b"), "--rtol", "1e308"]) == 1
    assert report.main([str(tmp_path / "b"), str(tmp_path / "a"), "--rtol", "1e308"]) == 1


def test_a_tolerance_that_is_copied_passes():
    numbers = [5e-324, 1.5e-323, 1.23401e-05, 0.5, 999.9, 1e22, 1.7976931348623157e308]
    assert all(float(rounded_up(each)) >= each for each in numbers)
    assert [rounded_up(each) for each in numbers[2:5]] == ["1.24e-05", "0.5", "1e+03"]


@pytest.fixture
def events(tmp_path):
    """A folder with an event file of torch's SummaryWriter, and the writer."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(20):
            writer.add_scalar("loss", 1.0 / (step + 1), step)
        yield tmp_path, writer


def test_scalars_in_folders_below_are_not_passed_over(events):
    folder, writer = events
    writer.flush()
    assert not read_log(str(folder)).doubts
    writer.add_scalars("both", {"a": 1.0, "b": 2.0}, 0)
    writer.close()
    (doubt,) = read_log(str(folder)).doubts
    assert doubt.startswith("event files in folders below it are not read: both_")
    assert report.main([str(folder), str(folder)]) == 3


def test_whole_numbers_of_tensorboard_are_not_passed_over(events):
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    folder, writer = events
    tensor = TensorProto(dtype="DT_INT64", int64_val=[7])
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="tokens", tensor=tensor)]), 0)
    writer.close()
    assert read_log(str(folder)).doubts == ("numbers of a dtype that is not read: tokens",)


def test_what_is_no_scalar_of_tensorboard_is_not_passed_over(tmp_path):
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from torch import tensor
    from torch.utils.tensorboard import SummaryWriter

    for side, number in (("a", 1.0), ("b", 2.0), ("same", 1.0)):
        with SummaryWriter(str(tmp_path / side)) as writer:
            writer.add_scalar("loss", 0.5, 0)
            several = TensorProto(dtype="DT_FLOAT", float_val=[number, number])
            writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="norms", tensor=several)]), 0)
            writer.add_histogram("weights", tensor([number, number * 2]), 0)
            writer.add_text("about", str(number), 0)
    one, other, same = (read_log(str(tmp_path / side)) for side in ("a", "b", "same"))
    assert one.notes == ("not scalars, and compared by their bytes: norms, weights, about/text_summary",)
    assert compare_logs(one, same).word == "identical"
    found = compare_logs(one, other)
    assert found.word == "undecided" and "norms, weights and about/text_summary" in found.doubts[0]


def test_a_length_that_was_changed_is_damage(events):
    folder, writer = events
    writer.close()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    position = 0
    for _ in range(10):
        position += 16 + int.from_bytes(whole[position : position + 8], "little")
    for place in (position, position + 2, position + 8):  # the length, and its checksum
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(Trouble, match="the checksum of the length of the record at byte"):
            read_log(str(file))
    file.write_bytes(whole[:-3])
    assert read_scalars(whole[:-3]).cut_off and report.main([str(file), str(file)]) == 3


def test_a_log_that_counts_from_one_differs_and_is_said_to(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    losses = [8 / (1 + step) for step in range(20)]
    for name, first in (("a.csv", 0), ("b.csv", 1)):
        rows = (f"{step},{loss!r}\n" for step, loss in enumerate(losses, first))
        (tmp_path / name).write_text("step,loss\n" + "".join(rows))
    assert report.main(["a.csv", "b.csv"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "numbering from step 1 on the candidate has what the baseline has from step 0 on" in out
    assert "number them alike in both logs, and compare them again" in out


def test_a_difference_that_grows_is_not_said_to_be_rounding(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, decay in (("a.csv", 0.0), ("b.csv", 1e-15)):
        rows = (f"{step},{8 * (1 - decay) ** step / (1 + step)!r}\n" for step in range(200))
        (tmp_path / name).write_text("step,loss\n" + "".join(rows))
    assert report.main(["a.csv", "b.csv"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "grows without a jump, as rounding does and a small fault may" in out
