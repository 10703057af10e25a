import hashlib
from dataclasses import replace

import pytest
from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.judging import judge
from parity.render.headline import make_pair_headline
from parity.render.page.source import find_source

CODE = '''"""Mine."""
import torch


class Mine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        return output.sum()

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, None


def plain(output, target):
    raise ValueError("x")


made = Mine.apply
'''
TRACEBACK = """Traceback (most recent call last):
  File "somewhere/step.py", line 179, in take_step
    loss = training.loss(given, target)
  File "{file}", line 16, in plain
    raise ValueError("x")
ValueError: x
"""


@pytest.fixture
def verdict_of(tmp_path):
    """Makes the verdict of a loss in a file of the user's."""
    file = tmp_path / "mine.py"
    file.write_text(CODE, encoding="utf-8")

    def make(name, planted=None, **facts):
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        record = {"loss_origin": str(file), "loss_sha256": sha256} | facts
        planted = planted or Planted(name, differs=ROUNDING, grad_errors={7: 1e6})
        return judge(make_run(replace(planted, name=name, record=planted.record | record))).pairs[0], file

    return make


@pytest.mark.parametrize(
    ("name", "place", "function", "last"),
    [
        ("Mine", "mine.py:11", "Mine.backward", "    return grad * 2, None"),
        ("plain", "mine.py:15", "plain", '    raise ValueError("x")'),
        ("made", "mine.py:19", "made", "made = Mine.apply"),
    ],
)
def test_the_definition_of_a_loss_is_quoted(verdict_of, tmp_path, name, place, function, last):
    source = find_source(verdict_of(name)[0], str(tmp_path))
    assert (source.place, source.function) == (place, function)
    # Without the indentation that all lines have.
    assert source.lines[-1][1] == last and source.lines[0][0] == source.line


def test_the_line_that_raised_is_marked(verdict_of, tmp_path):
    traceback = TRACEBACK.format(file=tmp_path / "mine.py")
    record = {"status": "failed", "failed_step": 4, "error": "x", "traceback": traceback}
    verdict, _ = verdict_of("plain", Planted(steps=4, record=record))
    source = find_source(verdict, str(tmp_path))
    assert (source.place, source.function, source.marked) == ("mine.py:16", "plain", 16)
    assert dict(source.lines)[16] == '    raise ValueError("x")'


def test_the_line_is_that_of_the_advice_also_in_a_helper_of_the_loss(verdict_of, tmp_path):
    traceback = TRACEBACK.format(file=tmp_path / "mine.py").replace(
        "ValueError: x\n", f'  File "{tmp_path}/helper.py", line 3, in scaled\n    return x / y\nValueError: x\n'
    )
    record = {"status": "failed", "failed_step": 4, "error": "x", "traceback": traceback}
    verdict, _ = verdict_of("plain", Planted(steps=4, record=record))
    source = find_source(verdict, str(tmp_path))
    assert (source.place, source.function, source.lines) == ("helper.py:3", "scaled", ())
    assert source.place == make_pair_headline(verdict).error.frames[-1].place.removeprefix(f"{tmp_path}/")


def test_a_file_that_changed_or_went_is_not_quoted(verdict_of, tmp_path):
    verdict, file = verdict_of("Mine")
    file.write_text(CODE + "\n", encoding="utf-8")
    changed = find_source(verdict, str(tmp_path))
    file.unlink()
    for source in (changed, find_source(verdict, None)):
        assert source.lines == () and source.place.endswith("mine.py") and source.function == "Mine"


@pytest.mark.parametrize("content", [b"\xff\xfe not text", b"def plain(:\n", b"", b"class Other: pass"])
def test_a_file_without_the_definition_is_named_only(verdict_of, tmp_path, content):
    (tmp_path / "mine.py").write_bytes(content)
    source = find_source(verdict_of("plain")[0], str(tmp_path))
    assert source.lines == () and source.file == "mine.py"


def test_what_passes_and_what_is_a_device_has_no_code(verdict_of):
    assert find_source(verdict_of("Mine", Planted(differs=ROUNDING))[0], None) is None
    assert find_source(judge(make_run(Planted("builtin", device="cpu:threads=2"))).pairs[0], None) is None
