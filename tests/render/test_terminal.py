import io
import math
import subprocess
from dataclasses import replace
from functools import cache

import pyarrow as pa
import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from synthetic_runs import ROUNDING, Planted, fleet_run, make_run

from parity.judge.judging import judge
from parity.render import tables, terminal
from parity.render.pair_text import MOST_BLOCKS, pair_line
from parity.render.terminal import render
from parity.render.terminal_tables import audit_text
from parity.store.stored_run import read_run

NAN = float("nan")
WRONG = Planted(differs={"loss": 2, **ROUNDING}, grad_errors={7: 1e6})
FAILED = {"status": "failed", "failed_step": 4, "error": "the loss raised E: words " * 20, "traceback": "T"}
DEVICES = ("cpu:threads=2", "cpu:isa=avx2", "cpu:threads=2,isa=avx2", "cpu:isa=avx512", "cpu:threads=16,isa=avx512")
CONTRACT = [
    {"trial": "mine@cpu-s0", "item": item, "status": "failed", "reason": "because"}
    for item in (
        "value",
        "gradcheck",
        "random generators",
        "target gradient",
        "repeatable",
        "two calls before backward",
    )
]
NOISE = Planted("builtin", replica=9, differs=ROUNDING, record={"noise": 1})
RUNS = {
    "identical": make_run(Planted()),
    "rounding": make_run(Planted(differs={"loss": 2, **ROUNDING})),
    "diverged": make_run(WRONG, Planted("two")),
    "a wrong tensor": make_run(Planted(differs={"param": 3}, tensors=(3,))),
    "failed": make_run(Planted(steps=4, record=FAILED)),
    "nan": make_run(Planted(losses={5: NAN}, differs={"output_grad": 5})),
    "other inputs": make_run(Planted(differs={"input": 2})),
    "interrupted": make_run(*(Planted(f"m{n}", steps=3, record={"status": "interrupted"}) for n in range(30))),
    "fleet": fleet_run(40, odd=(3, 7)),
    "noise": make_run(*(Planted(f"mine{n}", differs=ROUNDING) for n in range(9)), NOISE),
    "contract": make_run(Planted(), contract=CONTRACT),
    "replicas": make_run(*(Planted("builtin", replica=n, differs=ROUNDING) for n in range(1, 5))),
    "ten losses on six devices": make_run(
        *(Planted("builtin", device=device) for device in DEVICES),
        *(Planted(f"mine{n}", device=device, differs=ROUNDING) for n in range(10) for device in ("cpu", *DEVICES)),
    ),
}


@cache
def judged(name):
    return judge(RUNS[name])


def rendered(run, width=80, *, judgement=None):
    console = Console(file=io.StringIO(), width=width)
    render(run, judgement or judge(run), console)
    return console.file.getvalue()


def words(run):
    return " ".join(rendered(run).split())


@pytest.fixture
def stored(equal_pair):
    return read_run(equal_pair)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", RUNS)
def test_no_line_is_longer_than_the_terminal(name, width):
    lines = rendered(RUNS[name], width, judgement=judged(name)).splitlines()
    # A command is one word to a shell, and a number is never broken.
    wide = [line for line in lines if cell_len(line) > width and len(line.split()) > 1]
    assert [line for line in wide if not line.startswith("    ")] == []
    assert len(lines) > 3


def test_a_terminal_that_does_not_know_its_width_shows_all(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    assert terminal.render_text(RUNS["rounding"], judged("rounding")).split() == words(RUNS["rounding"]).split()


def test_this_check_can_fail(monkeypatch):
    monkeypatch.setattr(terminal, "MOST_COLUMNS", 100)
    assert max(map(cell_len, rendered(RUNS["failed"], 200).splitlines())) in range(81, 101)


def test_a_name_that_is_longer_than_a_line_is_whole_and_alone():
    name = "損失" * 50
    lines = rendered(make_run(Planted(name, differs=ROUNDING))).splitlines()
    assert f"  {name}@cpu-s0" in lines
    assert all(cell_len(line) <= 80 for line in lines if name not in line)


def test_what_was_found_of_a_pair_is_a_block():
    text = rendered(RUNS["diverged"])
    block = text[text.index("builtin@cpu-s0 mine@cpu-s0") :].split("\n\n")[0].splitlines()
    assert block[0] == "builtin@cpu-s0 mine@cpu-s0  diverged"
    labels = [line[2:12].strip() for line in block[1:]]
    assert [label for label in labels if label] == ["first", "drift", "compared"]
    assert "  where     step 7 (epoch 0, batch 7), output_grad\n" in text, "the headline has its cause and its onset"
    assert "  first     step 2 (epoch 0, batch 2), loss 0.24206448 != 0.24206457 (6 ulp)" in block
    assert "\nbuiltin@cpu-s0 two@cpu-s0  identical: 20 steps, 10 quantities\n" in text, "what fits in a line is in one"


def test_what_is_wrong_where_how_sure_and_what_to_do_come_first():
    text = rendered(RUNS["diverged"])
    lines = text.splitlines()
    assert lines[0] == "mnist-autoencoder, 20 steps: diverged"
    assert lines[1].startswith("mine's gradient is 6 % off, with no known pattern, from step 7 on.")
    begin = lines.index("What to do next:")
    assert lines[begin : begin + 4] == [
        "What to do next:",
        "- Compare the backward passes of the two losses.",
        "- Step through the training up to step 7, with a breakpoint() in the loss:",
        "    parity run --loss builtin mine.py:mine --inline --steps 8",
    ]
    order = (
        "mine's gradient",
        "  where ",
        "  how far ",
        "  how sure ",
        "What to do next",
        " loss ",
        "builtin@cpu-s0 mine",
    )
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    assert "What to do next:\n- No action needed.\n" in rendered(RUNS["rounding"])


def test_a_long_command_is_one_to_a_shell():
    arguments = ["--loss", "builtin", "it's a path/with spaces.py:mine", "--device", *DEVICES]
    run = replace(RUNS["diverged"], info=RUNS["diverged"].info | {"arguments": arguments})
    lines = rendered(run).splitlines()
    begin = lines.index("- Step through the training up to step 7, with a breakpoint() in the loss:") + 1
    command = "\n".join(lines[begin : [line.strip() for line in lines].index("", begin)])
    assert command.count(" \\\n") >= 2
    printed = subprocess.run(["sh", "-c", f"set -- {command}\nprintf '%s\\n' \"$@\""], capture_output=True, text=True)
    assert printed.stdout.splitlines() == ["parity", "run", *arguments, "--inline", "--steps", "8"]


def test_a_pair_in_a_line_is_one_however_long():
    for name in RUNS:
        for verdict in judged(name).pairs:
            assert pair_line(verdict).plain.splitlines() == [pair_line(verdict).plain]
    (line,) = (pair_line(verdict).plain for verdict in judge(make_run(WRONG)).pairs)
    assert line == (
        "builtin@cpu-s0 mine@cpu-s0  diverged: mine's gradient is 6 % off, with no known pattern, from step 7 on; "
        "first at step 2, loss 0.24206448 != 0.24206457 (6 ulp); the losses differ by up to 0.000084 %, at step 13; "
        "20 steps, 10 quantities"
    )


def test_of_many_pairs_the_worst_are_shown_in_full_and_all_are_named():
    fine = [Planted(f"mine{n:02d}", differs=ROUNDING) for n in range(40)]
    wrong = [replace(WRONG, name=f"wrong{n:02d}") for n in range(14)]
    text = rendered(make_run(*fine, *wrong))
    assert text.count("\n  compared  ") == MOST_BLOCKS
    assert "Only the 12 worst of 14 pairs are shown in full." in text
    assert text.index("builtin@cpu-s0 wrong13@cpu-s0  diverged\n") < text.index(
        "40 pairs passed (40 rounding): mine00@"
    )
    assert all(f"{planted.name}@cpu-s0" in text for planted in fine)


def test_many_devices_are_in_several_tables_and_each_is_there():
    text = rendered(RUNS["ten losses on six devices"])
    heads = [line for line in text.splitlines() if line.startswith(" loss ")]
    assert len(heads) > 1
    assert "".join(heads).split() == ["loss", "cpu", *DEVICES[:2], "loss", *DEVICES[2:4], "loss", DEVICES[4]]


def test_what_would_steer_a_terminal_is_shown_and_does_not():
    error = "it raised \x1b[2J\x1b]0;title\x07 \u202e"
    run = make_run(Planted(steps=4, record=FAILED | {"error": error, "trial": "a\x1b[31m@cpu-s0"}))
    run = replace(run, traces=run.traces | {"a\x1b[31m@cpu-s0": run.traces["mine@cpu-s0"]})
    text = rendered(run)
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert "\\x1b[2J\\x1b]0;title\\x07 \\u202e" in " ".join(text.split())


def test_losses_are_printed_with_as_many_digits_as_tell_them_apart(reference):
    run = read_run(reference)
    first = judge(run).pairs[0].first
    text = rendered(run)
    if first.quantity == "loss":
        assert f"loss {first.baseline:.8f} != {first.candidate:.8f} ({first.ulp} ulp)" in text


def test_a_partial_run_says_so(stored):
    trials = (stored.trials[0], replace(stored.trials[1], status="interrupted"))
    assert rendered(replace(stored, trials=trials)).startswith(
        "This run is partial: functional@cpu-s0 did not finish. The verdict is about the\n  steps that are stored.\n"
    )


def test_one_trial_says_that_there_is_nothing_to_compare(stored):
    assert words(replace(stored, trials=stored.trials[:1])) == (
        "Nothing to compare: a single trial is not a pair. Add a --loss, a --device or --replicas."
    )


def test_a_thinned_audit_is_said(stored):
    trial = stored.trials[1].trial
    table = stored.traces[trial]
    index = table.schema.get_field_index("grad_error_u")
    thin = pa.array([0.5, *[None] * 7], pa.float64())
    traces = dict(stored.traces) | {trial: table.set_column(index, table.schema.field(index), thin)}
    assert "  compared  8 steps, 10 quantities; 1 step audited" in rendered(replace(stored, traces=traces))


def test_a_failed_baseline_is_said_first(stored):
    failed = replace(stored.trials[0], status="failed", failed_step=2, error="the loss raised E: x", host="h")
    text = words(replace(stored, trials=(failed, stored.trials[1])))
    assert text.startswith(
        "The baseline failed: Trial builtin@cpu-s0 failed at step 2 on h: the loss raised E: x. mnist"
    )
    assert "without it there is nothing to compare. See Attempts and faults, in report.html." in text


def test_that_files_were_altered_is_said_before_what_they_say_of_the_baseline(stored):
    failed = replace(stored.trials[0], status="failed", failed_step=2, error="the loss raised E: x", host="h")
    lacking = replace(stored.trials[1], status="interrupted", error="it was stopped")
    text = words(replace(stored, trials=(failed, lacking), altered=("trials.parquet",)))
    said = ["Altered since the run was stored: trials.parquet.", "The baseline failed: ", " ended early: "]
    places = [text.index(each) for each in said]
    assert places[0] == 0 and places == sorted(places)


def test_an_error_of_many_lines_stays_in_its_paragraph(stored):
    failed = replace(stored.trials[1], status="failed", failed_step=2, error="the loss raised E: x\n  y", host="h")
    run = replace(stored, trials=(stored.trials[0], failed))
    assert "functional raised E at step 2: x y. where" in words(run)
    assert "functional raised E at step 2: x y; 8 steps" in pair_line(judge(run).pairs[0]).plain


def test_equal_nans_are_said_aloud(stored):
    traces = {}
    for name, table in stored.traces.items():
        losses = table["loss"].to_pylist()
        losses[6] = math.nan
        index = table.schema.get_field_index("loss")
        traces[name] = table.set_column(index, table.schema.field(index), pa.array(losses))
    text = rendered(replace(stored, traces=traces))
    assert "  NaN       both losses are NaN at step 6" in text


def test_markup_in_a_name_is_printed_as_it_is(stored):
    trials = (stored.trials[0], replace(stored.trials[1], loss_name="[red]x[/red]"))
    assert "[red]x[/red]" in rendered(replace(stored, trials=trials))


def test_what_was_not_asked_of_the_optimizers_is_said():
    unasked = {"optimizer_error": "the optimizer cannot be copied in float64: TypeError: it has a lock"}
    text = " ".join(rendered(make_run(Planted(differs=ROUNDING, record=unasked))).split())
    assert "The optimizers were not compared on gradients that both are given" in text and "it has a lock" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_audit_cuts_neither_names_nor_figures(width):
    run = RUNS["diverged"]
    judgement = judge(run)
    found = tables.audit_table(judgement.pairs)
    name = "runs/of-a-long-name/" + found.rows[0][0]
    found = replace(found, rows=((name, *found.rows[0][1:]),))
    console = Console(file=io.StringIO(), width=width)
    for part in audit_text(found, width):
        console.print(part, soft_wrap=isinstance(part, Text), width=None if isinstance(part, Text) else width)
    printed = console.file.getvalue()
    assert all(cell in printed for cell in found.rows[0])
    assert max(map(len, printed.splitlines())) <= max(width, len(name))
