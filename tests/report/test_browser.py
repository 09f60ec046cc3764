"""The page in a real browser, without a network."""

import json
import shutil

import pytest

from hmoe.report.organisation import write_organisation
from tests.report.organisation.records import NAMED, make_record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs chromium and chromedriver (Debian: chromium-driver)",
    ),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1280,900"
)


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.get("about:blank")
    driver.get_log("performance")  # what the browser asked for on its own
    yield driver
    driver.quit()


# Texts that are read: neither too small nor one over the other.
TOO_SMALL = """
return [...document.querySelectorAll('.figure svg text')]
  .filter((t) => t.textContent.trim() && t.getBoundingClientRect().width > 0)
  .filter((t) => parseFloat(getComputedStyle(t).fontSize) < 11)
  .map((t) => t.textContent)"""
OVERLAPPING = """
const found = [];
for (const figure of document.querySelectorAll('.figure')) {
  const texts = [...figure.querySelectorAll('svg text')]
    .filter((t) => t.textContent.trim() && getComputedStyle(t).visibility !== 'hidden')
    .map((t) => [t.textContent, t.getBoundingClientRect()]);
  texts.forEach(([a, p], i) => texts.slice(i + 1).forEach(([b, q]) => {
    const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (across > 1.5 && down > 3) found.push(`${figure.id}: ${a} | ${b}`);
  }));
}
return found"""


def requests(browser):
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    sent = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [m["params"]["request"]["url"] for m in sent]


def test_the_page_draws_its_figures_and_asks_for_nothing(browser, report):
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(report.as_uri())
    drawn = "return document.querySelectorAll('.figure .main-svg').length"
    assert browser.execute_script(drawn) >= 7
    points = "return document.querySelectorAll('#pareto .scatterlayer .points path').length"
    assert browser.execute_script(points) == 12
    assert browser.execute_script("return document.querySelectorAll('a[href^=http]').length") == 0
    titles = browser.execute_script(
        "return [...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)"
    )
    assert titles
    assert not any("cloud" in title.lower() or "share" in title.lower() for title in titles)

    browser.execute_script("document.querySelector('[data-axis=seconds]').click()")
    shown = browser.execute_script(
        "return document.getElementById('quality-curve').data"
        ".filter((trace) => trace.visible).map((trace) => trace.meta)"
    )
    assert set(shown) == {"seconds"}

    fits = "return document.documentElement.scrollWidth <= window.innerWidth"
    for width in (1280, 600):
        browser.set_window_size(width, 900)
        WebDriverWait(browser, 10).until(lambda b: b.execute_script(fits), f"wider than {width}")

    assert browser.get_log("browser") == []
    own = [url for url in requests(browser) if not url.startswith(("data:", "blob:"))]
    assert own == [report.as_uri()]


@pytest.mark.parametrize("spec", [NAMED, [16], [16, 16, 16], [2, 2, 2, 2, 2]], ids=str)
def test_an_organisation_is_drawn_as_it_comes_into_view(browser, tmp_path, spec):
    from selenium.webdriver.support.wait import WebDriverWait

    records = [make_record(spec, layers=2, seed=seed) for seed in range(2)]
    page = write_organisation(records, tmp_path / "out", paper=False)
    browser.get(page.as_uri())
    opened = "const [t] = performance.getEntriesByType('navigation'); return t.loadEventEnd"
    assert browser.execute_script(opened) < 3000
    undrawn = (
        "return [...document.querySelectorAll('{} .figure')]"
        ".filter((f) => !f.children.length).length"
    )
    folded = undrawn.format("details:not([open])")
    hidden = browser.execute_script(folded)
    assert hidden > 5
    assert browser.execute_script(undrawn.format("details[open]")) > 0

    browser.set_window_size(1280, 12_000)
    everything = undrawn.format("details[open]")
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(everything) == 0)
    assert browser.execute_script(folded) == hidden
    assert browser.execute_script(TOO_SMALL) == []
    assert browser.execute_script(OVERLAPPING) == []
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= window.innerWidth"
    )
    browser.execute_script("document.querySelector('details:not([open])').open = true")
    browser.set_window_size(1280, 24_000)
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(everything) == 0)
    assert browser.get_log("browser") == []
    own = [url for url in requests(browser) if not url.startswith(("data:", "blob:"))]
    assert own == [page.as_uri()]
