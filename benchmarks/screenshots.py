"""Makes the pages of eleven kinds of result and takes screenshots of them; times a page of 10,000 steps x 10 trials.

    python benchmarks/screenshots.py FOLDER [--only CASE ...] [--readme]

Each case is trained once, in this process, and taken at 1400 and 390 pixels, in light and in dark mode:
FOLDER/CASE-WIDTH-MODE.png shows the whole page. A run that FOLDER already holds is not trained again. --readme also
writes the two pictures of README. Needs Chromium.
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

_WRONG, _RIGHT = "tests/wrong_losses.py", "tests/right_losses.py"
# The options of each kind of result; what all have in common is in `_train`.
CASES = {
    "identical": ["--steps", "60", "--loss", "builtin", f"{_RIGHT}:functional"],
    "report-only": ["--steps", "60", "--loss", "builtin", f"{_RIGHT}:reported_only"],
    "rounding": ["--steps", "240", "--loss", "builtin", "numpy", "--noise", "2"],
    "diverged": ["--steps", "60", "--loss", "builtin", f"{_WRONG}:Doubled"],
    # 240 steps include a partial batch.
    "late": ["--steps", "240", "--loss", "builtin", f"{_WRONG}:HardCoded"],
    "nan": ["--steps", "40", "--loss", "builtin", f"{_WRONG}:nan_at_5"],
    "failed": ["--steps", "40", "--loss", "builtin", f"{_WRONG}:raising_at_30"],
    "contract": ["--steps", "40", "--loss", "builtin", f"{_WRONG}:changes_target"],
    "device": ["--steps", "30", "--device", "cpu", "cpu:threads=2", "cpu:plant=flip-12", "--loss", "builtin", "numpy"],
    "inconclusive": ["--steps", "30", "--quick", "--loss", "builtin", "numpy"],
}
# Greatest height of a picture in pixels; the rest of a longer page is cut off.
TALLEST = 12_000
# Pictures of README by their names there: case, width, whether in dark mode, and the height that is shown.
README = {"diverged": ("late", 1400, False, 1500), "fleet": ("fleet", 390, True, 1500)}


def main() -> None:
    """Trains the cases, renders their pages and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=[*CASES, "fleet"], help="the cases to show; default: all")
    parser.add_argument("--readme", action="store_true", help="also write the pictures of README")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(TESTS.parent)  # so that the pages show short paths
    pages = {case: _train(case, options.folder / case) for case in options.only or [*CASES, "fleet"]}
    with browser() as driver:
        for case, page in pages.items():
            for width, dark in ((1400, False), (1400, True), (390, False), (390, True)):
                driver.get(page.resolve().as_uri())
                picture = options.folder / f"{case}-{width}-{'dark' if dark else 'light'}.png"
                _take(driver, picture, width=width, dark=dark)
                print(picture)
    if options.readme:
        PICTURES.mkdir(exist_ok=True)
        for name, (case, width, dark, height) in README.items():
            image = Image.open(options.folder / f"{case}-{width}-{'dark' if dark else 'light'}.png")
            small = image.crop((0, 0, image.width, height)).quantize(128, dither=Image.Dither.NONE)
            small.save(PICTURES / f"report-{name}.png", optimize=True)
    if not options.only:
        _time_long()


def _train(case: str, out: Path) -> Path:
    if not out.exists():
        if case == "fleet":
            _train_fleet(out)
        else:
            device = [] if "--device" in CASES[case] else ["--device", "cpu"]
            run.main(["--inline", *device, *CASES[case], "--out", str(out)])
    stored = read_run(out)
    page = out / "report.html"
    page.write_text(html.render(stored, judge(stored)), encoding="utf-8")
    return page


def _train_fleet(out: Path) -> None:
    """Trains a fleet of twelve simulated nodes in this process; one of them flips a bit at step 12."""
    settings = make_settings(
        task=parse_task("mnist-autoencoder"), rows=60_000, batch_size=256, epochs=2, steps=30, lr=1e-3, audit_every=0
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
