"""The page in a browser: from the matrix to a pair, a plot is zoomed, its numbers are read; the net is left alone."""

import json
import shutil

import pytest
from synthetic_runs import ROUNDING, Planted, make_run

from parity.judge.judging import judge
from parity.render.page import html

pytest.importorskip("selenium", reason="the page is not tried in a browser: pip install selenium")

import browser
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=f"{browser.missing()}")
PATIENCE_S = 15


@pytest.fixture(scope="module")
def chromium():
    with browser.browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = make_run(
        Planted("right", differs={"loss": 3, **ROUNDING}),
        Planted("<b>wrong</b>", differs={"loss": 40, **ROUNDING}, grad_errors={200: 1e6}, losses={210: float("nan")}),
        steps=300,
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.render(run, judge(run)), encoding="utf-8")
    return path


def wait(chromium, condition):
    return WebDriverWait(chromium, PATIENCE_S).until(lambda _: condition())


def asked_for(chromium):
    """Addresses that the page asked for, but for itself and what is inside it."""
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    urls = [each["request"]["url"] for each in sent if each["documentURL"].startswith("file:")]
    assert urls, "the browser kept no log"
    return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]


def shown(chromium, pair, name):
    """The canvas of a panel, once it is drawn."""
    canvas = pair.find_element(By.CSS_SELECTOR, f"#pair-1-{name} .canvas")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    wait(chromium, lambda: canvas.find_elements(By.CSS_SELECTOR, ".nsewdrag"))
    return canvas


def axis(chromium, canvas, name="yaxis"):
    return chromium.execute_script("return arguments[0].layout[arguments[1]].range.map(Number)", canvas, name)


def clean(chromium):
    """No error on the console, and no request."""
    entries = [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    return entries == [] and asked_for(chromium) == []


def test_from_the_matrix_to_the_numbers_of_a_zoomed_plot(chromium, page):
    chromium.get(page.as_uri())
    browser.look(chromium, width=1400, dark=False)
    chromium.find_element(By.CSS_SELECTOR, "#matrix td.bad a").click()
    assert chromium.current_url.endswith("#pair-1")
    pair = chromium.find_element(By.ID, "pair-1")
    assert "<b>wrong</b>@cpu-s0" in pair.find_element(By.TAG_NAME, "h3").text
    canvas = shown(chromium, pair, "curves")
    whole = axis(chromium, canvas)
    surface = canvas.find_element(By.CSS_SELECTOR, ".nsewdrag")
    across = surface.rect["width"] / 4
    drag = ActionChains(chromium).move_to_element_with_offset(surface, -int(across), 0).click_and_hold()
    drag.move_by_offset(int(across), 0).move_by_offset(int(across), 0).release().perform()
    assert canvas.find_elements(By.CSS_SELECTOR, "[data-title='Zoom in']")
    assert chromium.find_elements(By.CSS_SELECTOR, "[data-title^='Share']") == []  # it would upload the plot
    output = pair.find_element(By.CSS_SELECTOR, ".zoom output")
    wait(chromium, lambda: output.text != "steps 0 to 299")
    first, last = (int(word) for word in output.text.split() if word.isdigit())
    assert 60 <= first <= 90 and 210 <= last <= 240
    # The losses of these steps are a small part of all, and fill the plot.
    wait(chromium, lambda: axis(chromium, canvas)[1] < whole[1] / 2)
    button = pair.find_element(By.CSS_SELECTOR, '[data-zoom="200"]')
    assert button.text == "where it differs by more than rounding"
    button.click()
    wait(chromium, lambda: output.text == "steps 180 to 220")
    other = shown(chromium, pair, "differences")
    wait(chromium, lambda: axis(chromium, other, "xaxis") == [179.5, 220.5])
    pair.find_element(By.CSS_SELECTOR, '[data-zoom="all"]').click()
    wait(chromium, lambda: axis(chromium, canvas, "xaxis") == [-0.5, 299.5])
    wait(chromium, lambda: axis(chromium, canvas)[1] > whole[1] * 0.9)
    (behind,) = (
        each for each in pair.find_elements(By.CSS_SELECTOR, "details.behind") if each.text.startswith("The numbers")
    )
    behind.find_element(By.TAG_NAME, "summary").click()
    rows = [row.text for row in behind.find_elements(By.CSS_SELECTOR, "tbody tr.marked")]
    assert any(row.startswith("2 first difference (output_grad)") for row in rows)
    assert any(row.startswith("200 first beyond rounding (output_grad)") for row in rows)
    assert any("NaN candidate loss" in row for row in rows)
    assert clean(chromium)


def test_hovering_shows_both_sides_and_their_difference(chromium, page):
    chromium.get(page.as_uri())
    browser.look(chromium, width=1400, dark=False)
    canvas = shown(chromium, chromium.find_element(By.ID, "pair-1"), "curves")
    ActionChains(chromium).move_to_element(canvas.find_element(By.CSS_SELECTOR, ".nsewdrag")).perform()
    wait(chromium, lambda: canvas.find_elements(By.CSS_SELECTOR, ".hoverlayer .legend"))
    words = canvas.find_element(By.CSS_SELECTOR, ".hoverlayer").text
    assert "step 1" in words and "baseline 0.0" in words and "candidate 0.0" in words
    assert "difference " in words and "relative" in words
    assert clean(chromium)


def test_a_quantity_a_scale_and_a_smoothing_can_be_chosen(chromium, page):
    chromium.get(page.as_uri())
    browser.look(chromium, width=1400, dark=False)
    canvas = shown(chromium, chromium.find_element(By.ID, "pair-1"), "curves")
    figure = canvas.find_element(By.XPATH, "./..")
    before = chromium.execute_script("return Array.from(arguments[0].data[0].y)", canvas)
    assert chromium.execute_script("return arguments[0].data[1].line.dash", canvas) == "dash"
    Select(figure.find_element(By.CSS_SELECTOR, "[data-smooth]")).select_by_value("25")
    after = chromium.execute_script("return Array.from(arguments[0].data[0].y)", canvas)
    assert len(after) == len(before) and after[100] == pytest.approx(sum(before[88:113]) / 25)
    figure.find_element(By.CSS_SELECTOR, "[data-log]").click()
    wait(chromium, lambda: chromium.execute_script("return arguments[0].layout.yaxis.type", canvas) == "log")
    Select(figure.find_element(By.CSS_SELECTOR, "[data-choice]")).select_by_index(2)
    (caption,) = (each.text for each in figure.find_elements(By.TAG_NAME, "figcaption") if each.is_displayed())
    assert caption.startswith("The norm of the gradient of the parameters of builtin@cpu-s0")
    assert canvas.get_attribute("aria-label").startswith("Norm of the gradient of the parameters.")
    assert clean(chromium)


def test_only_failures_by_button_and_by_key_and_a_link_opens_what_is_folded(chromium, page):
    chromium.get(page.as_uri())
    browser.look(chromium, width=1400, dark=False)
    wrong, right = (chromium.find_element(By.ID, name) for name in ("pair-1", "pair-2"))
    fold = right.find_element(By.TAG_NAME, "details")
    assert fold.get_attribute("open") is None and right.is_displayed()
    chromium.find_element(By.TAG_NAME, "body").send_keys("f")
    assert wrong.is_displayed() and not right.is_displayed()
    assert chromium.find_element(By.ID, "filter").get_attribute("aria-pressed") == "true"
    # A link to a hidden pair shows it again, and opens it.
    chromium.find_element(By.CSS_SELECTOR, 'nav a[href="#pair-2"]').click()
    wait(chromium, lambda: right.is_displayed() and fold.get_attribute("open") is not None)
    chromium.find_element(By.ID, "filter").click()
    assert not right.is_displayed()


def test_the_command_and_the_markdown_can_be_copied(chromium, page):
    chromium.get(page.as_uri())
    browser.look(chromium, width=1400, dark=False)
    keep = "navigator.clipboard.writeText = async (text) => { window.copied = text; }"
    chromium.execute_script(keep)
    chromium.find_element(By.CSS_SELECTOR, "pre.command + .copy").click()
    wait(chromium, lambda: chromium.execute_script("return window.copied"))
    assert chromium.execute_script("return window.copied").startswith("parity run --loss builtin mine.py:mine")
    chromium.find_element(By.CSS_SELECTOR, "[data-copies]").click()
    wait(chromium, lambda: chromium.execute_script("return window.copied").count("|") > 5)


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_has_no_sideways_scrolling_and_a_readable_contrast(chromium, page, dark):
    chromium.get(page.as_uri())
    browser.look(chromium, width=390, dark=dark)
    wide = chromium.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 390
    ratios = chromium.execute_script(CONTRASTS)
    assert min(ratios.values()) >= 4.5, ratios


def test_the_keyboard_reaches_the_pair_and_its_tables(chromium, page):
    chromium.get(page.as_uri())
    browser.look(chromium, width=1400, dark=False)
    reached = []
    for _ in range(90):
        ActionChains(chromium).send_keys("\ue004").perform()
        reached.append(
            chromium.execute_script("return document.activeElement.tagName + ' ' + document.activeElement.textContent")
        )
    assert reached[0].startswith("A Skip to the pairs")
    for expected in ("A ≠ diverged", "BUTTON all steps", "BUTTON only failures", "SELECT Loss"):
        assert any(" ".join(each.split()).startswith(expected) for each in reached), expected


def test_printing_opens_what_is_folded(chromium, page, tmp_path):
    chromium.get(page.as_uri())
    browser.look(chromium, width=1400, dark=True)
    chromium.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert chromium.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    assert chromium.execute_script("return document.querySelectorAll('.canvas:not(.js-plotly-plot)').length") == 0
    chromium.execute_script("dispatchEvent(new Event('afterprint'))")
    assert chromium.execute_script("return document.querySelectorAll('details:not([open])').length") > 0


def test_a_missing_browser_is_reported(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert browser.missing() == "no chromium on the PATH: apt-get install chromium"


# Of each kind of text, the contrast with what is behind it, as WCAG counts it.
CONTRASTS = """
const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = (colour) => {
  const [red, green, blue] = colour.match(/[\\d.]+/g).map(Number).map(channel);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return colour.endsWith(", 0)") ? behind(element.parentElement) : colour;
};
const found = {};
const texts = "h1,p,dt,dd,figcaption,.badge,.matrix td a,.chain li span,td,th,button,output,summary,pre,.cell,.odd";
for (const selector of texts.split(",")) {
  for (const element of document.querySelectorAll(selector)) {
    const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    found[selector] = Math.min(found[selector] ?? 99, (pair[0] + 0.05) / (pair[1] + 0.05));
  }
}
return found;
"""
