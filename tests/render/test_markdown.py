"""The summary for a pull request: what it says, that it is Markdown, how long it is, and that a name is only a name."""

import re
from dataclasses import replace

import pytest
from synthetic_runs import ROUNDING, Planted, fleet_run, make_run
from test_markdown_text import HOSTILE, inline, parsed
from test_terminal import RUNS, judged

from parity.judge.judging import judge
from parity.render import markdown
from parity.store.stored_run import read_run


def rendered(run):
    return markdown.render(run, judge(run))


def tables(text):
    """Lines of each table."""
    found = re.findall(r"^\|.*\n\| ---.*\n(?:\|.*\n)*", text, re.MULTILINE)
    return [table.splitlines() for table in found]


def hostile_run(name):
    trial = f"{name}@cpu-s0"
    record = {"loss_name": name, "trial": trial, "status": "failed", "failed_step": 4, "error": f"it raised {name}"}
    run = make_run(Planted(steps=4, differs={"param": 2}, record=record | {"traceback": name}), tensors=(name, "b"))
    info = run.info | {"command": f"python {name}", "folder": name, "created": name, "arguments": ["--loss", name]}
    traces = {"builtin@cpu-s0": run.traces["builtin@cpu-s0"], trial: run.traces["mine@cpu-s0"]}
    contract = run.evidence["contract"].from_pylist(
        [{"trial": trial, "item": "value", "status": "failed", "reason": f"as {name} is"}],
        run.evidence["contract"].schema,
    )
    evidence = run.evidence | {"contract": contract}
    return replace(run, info=info, traces=traces, evidence=evidence, altered=(name,))


@pytest.mark.parametrize("name", RUNS)
def test_every_row_of_a_table_has_the_columns_of_its_head(name):
    found = tables(markdown.render(RUNS[name], judged(name)))
    assert found
    for head, *rows in found:
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {head.count("|")}


def test_this_check_can_fail():
    ((head, *rows),) = tables("| a | b |\n| --- | --- |\n| x | y | z |\n")
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} != {head.count("|")}


def test_it_says_what_was_found():
    text = markdown.render(RUNS["diverged"], judged("diverged"))
    assert text.startswith(
        "## parity: diverged\n\n"
        "**`mine`'s gradient is 6 % off, with no known pattern, from step 7 on.**\n\n"
        "Of 2 pairs: 1 diverged, 1 identical.\n\n"
        "- Where: step 7 (epoch 0, batch 7), `output_grad`\n"
        "- How far: `output_grad` is 6 % away from `float64`; the baseline is 0.0000034 % away, "
        "rounding explains 0.000095 %\n"
        "- How sure: 20 steps of 10 quantities were compared bit for bit. All of them were checked against `float64`; "
        "a gradient wrong by more than 0.000095 % would have been seen.\n\n"
        "**What to do next**\n\n"
        "- Compare the backward passes of the two losses.\n"
        "- Step through the training up to step 7, with a `breakpoint()` in the loss:\n\n"
        "  ```sh\n  parity run --loss builtin mine.py:mine --inline --steps 8\n  ```\n\n"
        "| loss | `cpu` |\n| --- | --- |\n| `builtin` | baseline |\n| `mine` | **diverged** |\n| `two` | identical |\n"
    )
    row = next(line for line in text.splitlines() if line.startswith("| `builtin@cpu-s0` | `mine@cpu-s0` |"))
    assert "| **diverged** | `mine`'s gradient is 6 % off, with no known pattern, from step 7 on. | step 7, " in row
    assert row.endswith("| step 2 (epoch 0, batch 2), loss 0.24206448 != 0.24206457 (6 ulp) |")
    assert text.index("| `mine@cpu-s0` | **diverged** |") < text.index("| `two@cpu-s0` | identical |")
    for summary in ("What was compared", "How the audit decided", "Environment", "Run again"):
        assert text.count(f"<details><summary>{summary}</summary>\n\n") == 1
    assert text.count("\n\n</details>\n") == 4
    assert "```sh\npython -m parity.run --loss builtin mine.py:mine --out there\n```" in text


def test_a_partial_run_and_trouble_are_reported():
    text = markdown.render(RUNS["interrupted"], judged("interrupted"))
    assert (
        "\n\n> This run is partial: `m0@cpu-s0`, `m1@cpu-s0`, `m2@cpu-s0`, `m3@cpu-s0`, `m4@cpu-s0` and 25 more" in text
    )
    run = make_run(Planted(), steps=0)
    failed = replace(run.trials[0], status="failed", failed_step=0, error="the loss raised E: x", traceback="the end")
    text = rendered(replace(run, trials=(failed, run.trials[1])))
    assert text.startswith("## parity: trouble\n\n**The baseline failed: Trial `builtin@cpu-s0` failed at step 0 on ")
    assert "Traceback of `builtin@cpu-s0`:\n\n```\nthe end\n```" in text


def test_one_trial_has_nothing_to_compare():
    assert "**There is nothing to compare: a single trial is not a pair.**" in rendered(make_run())


def test_an_odd_device_is_named():
    text = rendered(fleet_run(40, odd=(3,)))
    assert "\n- Odd: `cpu@n0003` (class A, 41 devices); 1 of 1 trial: add `--replicas` 5" in text
    assert "| identical (39 alike) |" in text


def test_whatever_a_name_has_in_it_is_text():
    usual = {token.type for token in parsed(rendered(hostile_run("usual")))} | {"ordered_list_open"}
    usual_inline = {token.type for token in inline(rendered(hostile_run("usual")))}
    assert "link_open" not in usual_inline and "html_inline" not in usual_inline
    for name in HOSTILE:
        text = rendered(hostile_run(name))
        tokens = parsed(text)
        assert {token.type for token in tokens} <= usual, name
        assert {token.type for token in inline(text)} <= usual_inline, name
        spans = {token.content for token in inline(text) if token.type == "code_inline"}
        assert {row[0] for row in spans if row} and any("@cpu-s0" in content for content in spans), name
        blocks = [token.content for token in tokens if token.type == "html_block"]
        assert all(re.fullmatch(r"<details><summary>[\w ]+</summary>|</details>", each.strip()) for each in blocks), (
            name
        )
        for head, *rows in tables(text):
            assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {head.count("|")}, name
        assert "\x1b" not in text and "\u202e" not in text
        # What GitHub makes of words outside of code: links to people, issues and pages.
        outside = " ".join(token.content for token in inline(text) if token.type == "text")
        assert not re.search(r"[@#<>`\[\]|_*]|www\.|://|GH-\d", outside), (name, outside)


def test_however_many_pairs_it_fits_a_comment():
    text = rendered(
        make_run(*(Planted(f"mine{n}", differs=ROUNDING, grad_errors={3: 1e6}) for n in range(150)), steps=5)
    )
    assert 20_000 < len(text) < markdown.MOST_CHARACTERS
    rows = text.count("| `builtin@cpu-s0` | `mine")
    assert rows > 50 and f"\n\n{150 - rows:,} more are not shown." in text[text.index("### Pairs") :]


@pytest.mark.parametrize("name", ["`|" * 300, "x" * 5000, "\x1b" * 500, "@a " * 300])
def test_however_bad_the_names_it_fits_a_comment(name):
    planted = []
    for number in range(60):
        trial = f"{number}{name}"
        record = {"loss_name": trial, "trial": trial, "error": trial * 9, "traceback": trial * 99, "failed_step": 4}
        planted.append(Planted(f"m{number}", steps=4, record=record | {"status": "failed"}))
    run = make_run(*planted, steps=5)
    traces = dict(zip((record.trial for record in run.trials), run.traces.values(), strict=True))
    run = replace(run, traces=run.traces | traces, altered=(name,) * 9, info=run.info | {"command": name * 99})
    text = markdown.render(run, judge(run))
    assert 5_000 < len(text) < markdown.MOST_CHARACTERS


def test_it_is_made_of_a_stored_run(reference):
    run = read_run(reference)
    text = rendered(run)
    headline = "**`numpy` trains as `builtin`: the differences are rounding (losses differ by up to "
    assert text.startswith(f"## parity: rounding\n\n{headline}")
    assert f"Stored in: `{reference}`" in text and "<details><summary>Contract</summary>" in text
