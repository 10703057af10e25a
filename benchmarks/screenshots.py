"""Makes report pages of planted faults and takes screenshots of them; times a page of 10,000 steps x 10 trials.

    python benchmarks/screenshots.py FOLDER [--steps N] [--readme]

The cases are rounding, diverged, failed, NaN on one side, and a fleet with an odd device. Each is taken at 1400 and 390
pixels, in light and in dark mode: FOLDER/CASE-WIDTH-MODE.png shows the whole page. --readme also writes the two
pictures of README. Needs Chromium.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from PIL import Image

from parity import api, run
from parity.judge.judging import judge
from parity.plan.device import parse_devices
from parity.plan.loss_spec import parse_losses
from parity.plan.planning import make_settings, plan
from parity.plan.task_spec import SHIPPED_LOSSES, parse_task
from parity.render.page import html
from parity.store.stored_run import read_run
from parity.tasks import mnist

TESTS = Path(__file__).parent.parent / "tests"
PICTURES = Path(__file__).parent / "results"
sys.path.insert(0, str(TESTS))

from browser import browser, look  # noqa: E402 - the tests are not a package
from synthetic_runs import long_run  # noqa: E402

# The losses of the trained cases; all but numpy are in tests/wrong_losses.py.
LOSSES = {"rounding": "numpy", "diverged": "HardCoded", "failed": "raising_at_30", "nan": "nan_at_5"}
# Greatest height of a picture in pixels; the rest of a longer page is cut off.
TALLEST = 12_000
# Pictures of README: case, width, whether in dark mode, and the height that is shown.
README = (("diverged", 1400, False, 1900), ("fleet", 390, True, 1500))


def main() -> None:
    """Trains the cases, renders their pages and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=240, help="steps of a trained case; 240 include a partial batch")
    parser.add_argument("--readme", action="store_true", help="also write the pictures of README")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(TESTS.parent)  # so that the pages show short paths
    pages = {case: _train(case, loss, options) for case, loss in LOSSES.items()} | {"fleet": _train_fleet(options)}
    with browser() as driver:
        for case, page in pages.items():
            for width, dark in ((1400, False), (1400, True), (390, False), (390, True)):
                driver.get(page.resolve().as_uri())
                picture = options.folder / f"{case}-{width}-{'dark' if dark else 'light'}.png"
                _take(driver, picture, width=width, dark=dark)
                print(picture)
    if options.readme:
        PICTURES.mkdir(exist_ok=True)
        for case, width, dark, height in README:
            name = f"{case}-{width}-{'dark' if dark else 'light'}.png"
            image = Image.open(options.folder / name)
            small = image.crop((0, 0, image.width, height)).quantize(128, dither=Image.Dither.NONE)
            small.save(PICTURES / f"report-{case}.png", optimize=True)
    _time_long()


def _train(case: str, loss: str, options: argparse.Namespace) -> Path:
    out = options.folder / case
    named = loss if loss in SHIPPED_LOSSES else f"tests/wrong_losses.py:{loss}"
    if not out.exists():
        arguments = ["--inline", "--device", "cpu", "--steps", str(options.steps), "--out", str(out)]
        run.main([*arguments, "--loss", "builtin", named, *(["--noise", "2"] if case == "rounding" else [])])
    return _page(out)


def _train_fleet(options: argparse.Namespace) -> Path:
    """Trains a fleet of twelve simulated nodes in this process; one of them flips a bit at step 12."""
    out = options.folder / "fleet"
    if not out.exists():
        settings = make_settings(
            task=parse_task("mnist-autoencoder"),
            rows=60_000,
            batch_size=256,
            epochs=2,
            steps=30,
            lr=1e-3,
            audit_every=0,
        )
        names = ["cpu:plant=flip-12@n07" if number == 7 else f"cpu@n{number:02d}" for number in range(12)]
        trials = plan(
            parse_losses(["builtin"], shipped=SHIPPED_LOSSES),
            parse_devices(names),
            seeds=[0],
            replicas=2,
            settings=settings,
            equals=lambda _: 0,
        )
        api.run_trials(trials, mnist.load(), out, title=f"python {' '.join(sys.argv)}")
    return _page(out)


def _page(out: Path) -> Path:
    stored = read_run(out)
    page = out / "report.html"
    page.write_text(html.render(stored, judge(stored)), encoding="utf-8")
    return page


def _take(driver, picture: Path, *, width: int, dark: bool) -> None:  # type: ignore[no-untyped-def]
    """Takes a picture of the whole page, with the browser window as tall as the page."""
    height = 900
    for _ in range(3):  # a plot is drawn when it comes into view, which may change the height
        look(driver, width=width, dark=dark, height=height)
        time.sleep(0.7)
        height = min(driver.execute_script("return document.documentElement.scrollHeight"), TALLEST)
    driver.save_screenshot(str(picture))


def _time_long() -> None:
    stored = long_run()
    begin = time.perf_counter()
    judgement = judge(stored)
    judged = time.perf_counter()
    size = len(html.render(stored, judgement).encode())
    seconds = time.perf_counter() - judged
    print(f"10,000 steps x 10 trials: judged in {judged - begin:.2f} s, rendered in {seconds:.2f} s, {size:,} bytes")


if __name__ == "__main__":
    main()
