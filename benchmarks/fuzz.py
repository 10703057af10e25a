"""Damages the files of runs at random, and lets parity.report judge them: never a traceback, never a wrong verdict.

    python benchmarks/fuzz.py [--seed N] [--rounds N] [--sweep]

The runs are a pair that is identical, one that diverged, one whose loss failed, and one that was interrupted; and one
of two devices, with replicas and noise. Half of the damages are of bytes, as disks do them. The
others are sound tables and JSON with values that parity does not write, as somebody else may: nulls, other words,
numbers at the ends of their types, lists of other lengths, rows that are missing or there twice. With `--sweep` each
such value is put into each column of each table instead, in one row and in all rows, of all tables but for the traces,
of which the last stands for all.

After each damage the report has to be refused with a message that names a file, or to be the one of the undamaged run,
or, where a complete run's file was altered, to begin with that file's name. Prints what came of how many, and exits
with 1 if anything else did.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from parity import run
from parity.ground.errors import Trouble
from parity.judge.judging import judge
from parity.render import terminal
from parity.render.formats import FORMATS
from parity.render.page import html
from parity.store.events import Advanced
from parity.store.gather import Gatherer
from parity.store.stored_run import read_run

RUN = ("--inline", "--device", "cpu", "--steps", "6", "--out")
LOSSES = {
    "identical": ("builtin", "tests/right_losses.py:functional"),
    "diverged": ("builtin", "tests/wrong_losses.py:Doubled"),
    "failed": ("builtin", "tests/wrong_losses.py:detached"),
    "interrupted": ("builtin", "numpy"),
    "several": ("builtin", "tests/wrong_losses.py:Doubled"),
}
# Other options than `RUN`.
OPTIONS = {"several": ("--device", "cpu:threads=2", "--replicas", "2", "--noise", "1")}


@dataclass(frozen=True)
class Outcome:
    """What the report of a directory came to.

    Attributes:
        kind: "refused", "as before", "named", or "WRONG".
        detail: What was damaged how, and what was said.
    """

    kind: str
    detail: str


def flip_bit(content: bytearray, place: int, _: random.Random) -> None:
    """Flips one bit."""
    content[place] ^= 1 << place % 8


def cut(content: bytearray, place: int, _: random.Random) -> None:
    """Cuts off the rest."""
    del content[place:]


def append(content: bytearray, place: int, chosen: random.Random) -> None:
    """Appends bytes."""
    content += chosen.randbytes(1 + place % 100)


def zero(content: bytearray, place: int, _: random.Random) -> None:
    """Fills with zeros, as a file system may after a crash."""
    content[place : place + 512] = bytes(len(content[place : place + 512]))


def scramble(content: bytearray, place: int, chosen: random.Random) -> None:
    """Puts random bytes in the place of some."""
    content[place : place + 8] = chosen.randbytes(len(content[place : place + 8]))


def drop(content: bytearray, place: int, _: random.Random) -> None:
    """Takes some bytes out."""
    del content[place : place + 7]


def digit(content: bytearray, place: int, chosen: random.Random) -> None:
    """Changes a digit, if there is one from here on: JSON stays JSON."""
    for index in range(place, len(content)):
        if chr(content[index]).isdigit():
            content[index] = ord(chosen.choice("0123456789"))
            return


NUMBERS = (0, 1, -1, 7, 2**31 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, -1.0, 1e-320, 1e300, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "x", "../../etc/passwd", "\x1b[2J\n", "-1", "nan", "[" * 2000, "cpu", "complete", "failed", "a" * 3000)
JSON: tuple[Any, ...] = (None, True, 0, -1, 2.5, "", "x", [], {}, [None], {"x": []}, ["x"], 10**30)


def values_for(kind: pa.DataType, old: list[Any], chosen: random.Random) -> Any:
    """A value of the type that is unlikely to be right, or one of another row."""
    if chosen.random() < 0.15:
        return None
    if pa.types.is_dictionary(kind):
        return values_for(kind.value_type, old, chosen)
    if pa.types.is_list(kind):
        before = [*(chosen.choice(old) or ())]
        one = values_for(kind.value_type, before or [None], chosen)
        return chosen.choice([[], [one], before[:-1], [*before, one], [one, *before[1:]], [one] * len(before)])
    if chosen.random() < 0.2:
        return chosen.choice(old)
    for check, choices in ((pa.types.is_integer, NUMBERS), (pa.types.is_floating, FLOATS), (pa.types.is_string, TEXTS)):
        if check(kind):
            return chosen.choice(choices)
    return chosen.choice([True, False]) if pa.types.is_boolean(kind) else 0  # 1970


def every_value(kind: pa.DataType, old: list[Any]) -> Iterator[Any]:
    """The values of the type that are unlikely to be right."""
    yield None
    if pa.types.is_list(kind):
        before = next((each for each in old if each), [])
        yield from ([], before[:-1], [*before, *before])
        for one in every_value(kind.value_type, before):
            yield from ([one] * len(before), [one, *before[1:]])
    elif pa.types.is_boolean(kind):
        yield from (True, False)
    else:
        checks = ((pa.types.is_integer, NUMBERS), (pa.types.is_floating, FLOATS), (pa.types.is_string, TEXTS))
        yield from next((choices for check, choices in checks if check(kind)), (0,))  # 1970


def with_value(table: pa.Table, place: int, rows: Container[int], value: Any) -> pa.Table | None:
    """The table with the value in some rows of a column; None where it does not fit into the column."""
    field = table.schema.field(place)
    plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    values = [value if row in rows else each for row, each in enumerate(table[field.name].to_pylist())]
    try:
        column = pa.array(values, plain).cast(field.type)
    except (pa.ArrowException, OverflowError):
        return None
    return table.set_column(place, field, column)


def plant_in_table(path: Path, chosen: random.Random) -> str:
    """Writes a table again, with other values in one of its columns, or other rows; returns what was done."""
    table = pq.read_table(path)
    there = [*range(len(table))]
    if there and chosen.random() < 0.1:
        row = chosen.choice(there)
        taken = chosen.choice([[*there[:row], *there[row + 1 :]], [*there, row], there[::-1], []])
        pq.write_table(table.take(pa.array(taken, pa.int64())), path)
        return f"rows {taken}"
    place = chosen.randrange(table.num_columns)
    field = table.schema.field(place)
    old = table[field.name].to_pylist()
    if not old:
        return "no rows"
    plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    new = values_for(plain, old, chosen)
    rows = range(len(old)) if chosen.random() < 0.3 else [chosen.randrange(len(old))]
    changed = with_value(table, place, rows, new)
    if changed is None:
        return f"{field.name} kept"
    pq.write_table(changed, path)
    return f"{field.name}: {new!r:.80}"


def plant_in_json(path: Path, chosen: random.Random) -> str:
    """Puts another value into a JSON object, or into one of its values; returns what was done."""
    content = inner = json.loads(path.read_text())
    name = chosen.choice(sorted(inner))
    if isinstance(inner[name], dict) and inner[name] and chosen.random() < 0.5:
        inner = inner[name]
        name = chosen.choice(sorted(inner))
    inner[name] = chosen.choice(JSON)
    path.write_text(json.dumps(content))
    return f"{name}: {inner[name]!r}"


DAMAGES: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    flip_bit,
    cut,
    append,
    zero,
    scramble,
    drop,
    digit,
)


def make_runs(folder: Path) -> dict[str, Path]:
    """A directory of each kind, and the interrupted one's journal kept."""
    made = {}
    for name, losses in LOSSES.items():
        out = made[name] = folder / name
        with redirect_stdout(io.StringIO()), mock.patch.object(Gatherer, "take", _take(stop=name == "interrupted")):
            run.main([*RUN, str(out), "--loss", *losses, *OPTIONS.get(name, ())])
    return made


def _take(*, stop: bool) -> Callable[..., None]:
    genuine = Gatherer.take

    def take(gatherer: Gatherer, events: list[object]) -> None:
        genuine(gatherer, events)  # type: ignore[arg-type]
        if stop and len(gatherer.unfinished) == 1 and any(isinstance(event, Advanced) for event in events):
            raise KeyboardInterrupt

    return take


def reported(directory: Path) -> str:
    """What parity.report prints.

    Raises:
        Trouble: As it does.
    """
    stored = read_run(directory)
    judgement = judge(stored)
    for render in (*FORMATS.values(), html.render):
        render(stored, judgement)
    console = Console(file=io.StringIO(), width=200)
    terminal.render(stored, judgement, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # it is the StringIO above


def attempt(directory: Path, want: str, chosen: random.Random) -> Outcome:
    """Damages a file of the directory, judges, and brings the file back."""
    path = chosen.choice(sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "journal"))
    whole = path.read_bytes()
    content = bytearray(whole)
    planted = ""
    if chosen.random() < 0.03:
        path.unlink()
        what = f"{path.name} removed"
    elif chosen.random() < 0.05:
        other = chosen.choice(sorted(directory.rglob("*.parquet")))
        content = bytearray(other.read_bytes())
        what = f"{path.name} replaced by {other.name}"
    elif chosen.random() < 0.5 and path.suffix in (".parquet", ".json"):
        planted = (plant_in_table if path.suffix == ".parquet" else plant_in_json)(path, chosen)
        what = f"{path.name}: {planted}"
        content = bytearray(path.read_bytes())
    else:
        damage, place = chosen.choice(DAMAGES), chosen.randrange(len(content))
        damage(content, place, chosen)
        what = f"{path.name} at {place}: {damage.__name__}"
    if path.exists():
        path.write_bytes(content)
    same = path.exists() and content == whole
    try:
        return Outcome(
            *_judged(directory, path, want, what, same=same, sealed=not (planted and directory.name == "interrupted"))
        )
    finally:
        path.write_bytes(whole)


def _judged(directory: Path, path: Path, want: str, what: str, *, same: bool, sealed: bool) -> tuple[str, str]:
    try:
        have = reported(directory)
    except Trouble as trouble:
        return (
            "refused" if path.name in str(trouble) or directory.name in str(trouble) else "WRONG"
        ), f"{what}: {trouble}"
    except Exception:  # noqa: BLE001 - that is what is looked for
        return "WRONG", f"{what}: {traceback.format_exc()}"
    # What a sound file of a run without a seal says is what is known.
    if have == want or not sealed:
        return "as before", what
    altered, _, _ = have.partition("The verdict is about the")
    named = have.startswith("Altered since the run was stored:") and path.name in altered
    return ("named" if named and not same else "WRONG"), f"{what}:\n{have}"


def campaign(runs: dict[str, Path], *, seed: int, rounds: int) -> Counter[tuple[str, str]]:
    """Damages so often; returns how often what came of which run, and prints what should not have."""
    want = {name: reported(out) for name, out in runs.items()}
    assert want["identical"].count("identical") and want["diverged"].count("diverged"), want
    chosen = random.Random(seed)
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(rounds):
        name = chosen.choice(sorted(runs))
        outcome = attempt(runs[name], want[name], chosen)
        counts[name, outcome.kind] += 1
        if outcome.kind == "WRONG":
            print(f"round {number}, {name}: {outcome.detail}", flush=True)
    return counts


def sweep(directory: Path, columns: Container[str] | None = None) -> Counter[tuple[str, str]]:
    """Puts every value into all or some columns; returns how often what came of it, and prints what should not have."""
    want, counts = reported(directory), Counter[tuple[str, str]]()
    *_, trace = sorted((directory / "traces").iterdir())
    for path in (*sorted(directory.glob("*.parquet")), trace):
        whole, table = path.read_bytes(), pq.read_table(path)
        for place, field in enumerate(table.schema):
            if not len(table) or (columns is not None and field.name not in columns):
                continue
            plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            for value in every_value(plain, table[field.name].to_pylist()):
                for rows in {range(len(table)), range(len(table) // 2, len(table) // 2 + 1)}:
                    if (changed := with_value(table, place, rows, value)) is None:
                        continue
                    pq.write_table(changed, path)
                    what = f"{path.name}: {field.name}: {value!r:.80} in {len(rows)} rows"
                    # Bytes are sealed, and not values: a table that is written again has others.
                    same = path.read_bytes() == whole
                    kind, detail = _judged(directory, path, want, what, same=same, sealed=True)
                    counts[directory.name, kind] += 1
                    if kind == "WRONG":
                        print(detail, flush=True)
        path.write_bytes(whole)
    return counts


def main() -> int:
    """Runs the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--sweep", action="store_true", help="every value in every column, of two of the runs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    began = time.monotonic()
    try:
        runs = make_runs(folder)
        if options.sweep:
            counts = sweep(runs["diverged"]) + sweep(runs["several"])
        else:
            counts = campaign(runs, seed=options.seed, rounds=options.rounds)
    finally:
        shutil.rmtree(folder)
    kinds = ("refused", "as before", "named", "WRONG")
    print(f"| run | {' | '.join(kinds)} |\n|---|{'---:|' * len(kinds)}")
    for name in LOSSES:
        print(f"| {name} | {' | '.join(str(counts[name, kind]) for kind in kinds)} |")
    print(f"{counts.total()} damages in {time.monotonic() - began:.0f} s")
    return 1 if any(kind == "WRONG" for _, kind in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
