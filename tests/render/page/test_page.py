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
from selenium.webdriver.support.ui import WebDriverWait

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


def test_from_the_matrix_to_the_numbers_of_a_zoomed_plot(chromium, page):
    chromium.get(page.as_uri())
    browser.look(chromium, width=1400, dark=False)
    chromium.find_element(By.CSS_SELECTOR, "#matrix td.bad a").click()
    assert chromium.current_url.endswith("#pair-1")
    pair = chromium.find_element(By.ID, "pair-1")
    assert "<b>wrong</b>@cpu-s0" in pair.find_element(By.TAG_NAME, "h3").text
    canvas = pair.find_element(By.CSS_SELECTOR, "#pair-1-losses .canvas")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    wait(chromium, lambda: canvas.find_elements(By.CSS_SELECTOR, ".nsewdrag"))
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
    pair.find_element(By.CSS_SELECTOR, '[data-zoom="200"]').click()
    wait(chromium, lambda: output.text == "steps 180 to 220")
    other = pair.find_element(By.CSS_SELECTOR, "#pair-1-ulp .canvas")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", other)
    wait(chromium, lambda: chromium.execute_script("return arguments[0].layout?.xaxis.range[0]", other) == 180)
    behind = pair.find_element(By.CSS_SELECTOR, "details.behind")
    behind.find_element(By.TAG_NAME, "summary").click()
    rows = [row.text for row in behind.find_elements(By.CSS_SELECTOR, "tbody tr.marked")]
    assert any(row.startswith("2 first difference (output_grad)") for row in rows)
    assert any(row.startswith("200 first beyond rounding (output_grad)") for row in rows)
    assert any("NaN candidate loss" in row for row in rows)
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert asked_for(chromium) == []


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
    for expected in ("A ≠ diverged", "BUTTON all steps", "SUMMARY The numbers behind the plots"):
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
