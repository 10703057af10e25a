"""What a reader is told first of each kind of result, word for word, of runs that were really trained.

The other tests of sentences are about runs that were made up; these are those of benchmarks/screenshots.py, made small.
"""

import re

import pytest

from parity import report

from conftest import made_once

WRONG, RIGHT = "tests/wrong_losses.py", "tests/right_losses.py"
SMALL = ["--batch-size", "64", "--loss", "builtin"]
PASSED = """
What to do next:
- No action needed.
- To be surer, train a whole epoch, including its last batch: --steps 938.
- Only one seed was tried; --seed 0 1 2 tries three.
"""
SURE = """
  how sure  STEPS steps of 10 quantities were compared bit for bit. All of them were checked against float64; a gradient
            wrong by more than NUMBER would have been seen.
"""
# By kind: the options of the run, its exit status, and what the report begins with. NUMBER stands for one that another
# machine may compute otherwise.
RESULTS = {
    "identical": (
        [*SMALL, f"{RIGHT}:functional", "--steps", "6"],
        0,
        f"""
mnist-autoencoder, 6 steps: identical
functional trains exactly as builtin: equal to the bit at every step.
  how sure  6 steps of 10 quantities were compared bit for bit.
{PASSED}""",
    ),
    "report-only": (
        [*SMALL, f"{RIGHT}:reported_only", "--steps", "6"],
        0,
        f"""
mnist-autoencoder, 6 steps: report-only
reported_only trains exactly as builtin; only the loss that it reports differs (by up to NUMBER).
{SURE.replace("STEPS", "6")}
{PASSED}""",
    ),
    "rounding": (
        [*SMALL, "numpy", "--steps", "8", "--noise", "1"],
        0,
        f"""
mnist-autoencoder, 8 steps: rounding
numpy trains as builtin: the differences are rounding (losses differ by up to NUMBER).
{SURE.replace("STEPS", "8")}
{PASSED}""",
    ),
    "diverged": (
        [*SMALL, f"{WRONG}:Doubled", "--steps", "6"],
        1,
        f"""
mnist-autoencoder, 6 steps: diverged
Doubled's gradient is 2× too large, from step 0 on.
  where     step 0 (epoch 0, batch 0), output_grad; tests/wrong_losses.py:LINE
  how far   output_grad is 100 % away from float64; the baseline is NUMBER away, rounding explains NUMBER
{SURE.replace("STEPS", "6")}
What to do next:
- In its backward, look for a factor that is missing, applied twice or hard-coded.
- Step through the training up to step 0, with a breakpoint() in the loss:
    parity run --device cpu --batch-size 64 --loss builtin \\
      tests/wrong_losses.py:Doubled --inline --steps 1
""",
    ),
    # 12 steps of FEW images include the partial batch of an epoch.
    "late": (
        ["--loss", "builtin", f"{WRONG}:HardCoded", "--steps", "12", "--audit-every", "5"],
        1,
        """
mnist-autoencoder, 12 steps: diverged
HardCoded's gradient is 0.375 of what it should be on partial batches (of 96 rows), first at step 11.
  where     step 11 (epoch 0, batch 11), output_grad; tests/wrong_losses.py:LINE
  how far   output_grad is 62 % away from float64; the baseline is NUMBER away, rounding explains NUMBER
  how sure  12 steps of 10 quantities were compared bit for bit. 4 steps of 12 were checked against float64; a
            gradient wrong by more than NUMBER would have been seen.

What to do next:
- Look for a batch size that is hard-coded in the loss; take it from the output's shape instead.
- In its backward, look for a factor that is missing, applied twice or hard-coded.
- Step through the training up to step 11, with a breakpoint() in the loss:
    parity run --device cpu --loss builtin tests/wrong_losses.py:HardCoded \\
      --audit-every 5 --inline --steps 12
""",
    ),
    "nan": (
        [*SMALL, f"{WRONG}:nan_at_5", "--steps", "8"],
        1,
        f"""
mnist-autoencoder, 8 steps: diverged
nan_at_5's loss is NaN at step 5; that of builtin is not.
  where     step 5 (epoch 0, batch 5), loss; tests/wrong_losses.py:LINE
{SURE.replace("STEPS", "8")}
What to do next:
- Evaluate it on the batch of that step: a division by zero, a logarithm of zero or an overflow produces NaN.
- Step through the training up to step 5, with a breakpoint() in the loss:
    parity run --device cpu --batch-size 64 --loss builtin \\
      tests/wrong_losses.py:nan_at_5 --inline --steps 6
""",
    ),
    "failed": (
        [*SMALL, f"{WRONG}:raising_at_30", "--steps", "31"],
        1,
        """
mnist-autoencoder, 31 steps: failed
raising_at_30 raised ValueError at step 30: planted.
  where     step 30 (epoch 0, batch 30); tests/wrong_losses.py:LINE
  error     ValueError: planted
            tests/wrong_losses.py:LINE, in raising_at_30
              raise ValueError("planted")
  how sure  30 steps of 10 quantities were compared bit for bit.

What to do next:
- Fix the ValueError at tests/wrong_losses.py:LINE; the whole traceback is in report.html, under Attempts and faults.
- Step through the training up to step 30, with a breakpoint() in the loss:
    parity run --device cpu --batch-size 64 --loss builtin \\
      tests/wrong_losses.py:raising_at_30 --inline --steps 31
""",
    ),
    "contract": (
        [*SMALL, f"{WRONG}:changes_target", "--steps", "6"],
        1,
        """
mnist-autoencoder, 6 steps: failed
changes_target failed at step 0: the loss changed its target in place; work on a copy, target.clone().
  where     step 0 (epoch 0, batch 0); tests/wrong_losses.py:LINE

What to do next:
- Work on copies: it changes the tensors that it is given.
- Read the reasons in report.html, under Contract.
- Step through the training up to step 0, with a breakpoint() in the loss:
    parity run --device cpu --batch-size 64 --loss builtin \\
      tests/wrong_losses.py:changes_target --inline --steps 1
""",
    ),
    "device": (
        [*SMALL, "numpy", "--steps", "6"],
        1,
        """
mnist-autoencoder, 6 steps: diverged
cpu:plant=flip-4's parameter gradient of 1.0.weight is NUMBER off, from step 4 on.
Of 7 pairs: 2 diverged, OTHERS.
  where     step 4 (epoch 0, batch 4), param_grad 1.0.weight
  how far   param_grad 1.0.weight is NUMBER away from float64; the baseline is NUMBER away, rounding explains NUMBER
  how sure  6 steps of 10 quantities were compared bit for bit. COUNT steps from shared states were checked against
            float64.

What to do next:
- Check what computes this on cpu:plant=flip-4: its switches and libraries first, then the hardware. --replicas 3 shows
  whether it recurs.
""",
    ),
    "inconclusive": (
        [*SMALL, "numpy", "--steps", "6", "--quick"],
        3,
        """
mnist-autoencoder, 6 steps: inconclusive
It is not known whether numpy trains as builtin: no audit: --audit-every 0.
  how sure  6 steps of 10 quantities were compared bit for bit. A difference of more than NUMBER in an output would have
            been seen where the runs diverge, and a later jump of more than NUMBER.

What to do next:
- Compare the losses without --quick, which has no audit. One device is enough.
""",
    ),
}
FEW = {"late"}
DEVICES = {"device": ("cpu", "cpu:threads=2", "cpu:plant=flip-4")}
VARIES = {"NUMBER": r"\d[\d.e+-]*(?: %)?", "LINE": r"\d+", "COUNT": r"\d+", "OTHERS": r"\d[\w ,-]*"}


def begin_of(report_text):
    """What stands before the matrix, without where its lines end."""
    return " ".join(re.split(r"^ (?:loss|device) {2}", report_text, maxsplit=1, flags=re.MULTILINE)[0].split())


def pattern_of(golden):
    pattern = re.escape(" ".join(golden.split()))
    for word, allowed in VARIES.items():
        pattern = pattern.replace(word, allowed)
    return pattern


def reported(kind, tmp_path_factory, capsys):
    options, status, _ = RESULTS[kind]
    out = made_once(tmp_path_factory, f"real-{kind}", *options, devices=DEVICES.get(kind, ("cpu",)), status=status)
    capsys.readouterr()
    assert report.main([str(out)]) == status
    return begin_of(capsys.readouterr().out)


@pytest.mark.parametrize("kind", RESULTS)
def test_a_reader_is_told_what_where_how_far_how_sure_and_what_to_do(kind, tmp_path_factory, capsys, request):
    if kind in FEW:
        request.getfixturevalue("few_images")
    found, golden = reported(kind, tmp_path_factory, capsys), RESULTS[kind][2]
    assert re.fullmatch(pattern_of(golden), found), f"{found}\n\n{' '.join(golden.split())}"


def test_this_check_can_fail(tmp_path_factory, capsys):
    """Another step, factor or sentence is no number that may vary."""
    found, golden = reported("diverged", tmp_path_factory, capsys), RESULTS["diverged"][2]
    for one, other in (("2×", "3×"), ("step 0 on", "step 1 on"), ("too large", "too small"), ("100 %", "10 %")):
        assert one in found and not re.fullmatch(pattern_of(golden), found.replace(one, other))
