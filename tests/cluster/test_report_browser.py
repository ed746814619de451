"""The report in a real browser: headless Chromium, from Debian's packages chromium and chromium-driver."""

import os
import re
import shutil
import time

import pytest
from run_dirs import EVIL, PROGRAM, write_run

from cluster.report.page import build

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def browser():
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of 200 steps of 32 problems x 16 solutions, one completion of each step an attempt at injection."""
    run = write_run(tmp_path_factory.mktemp("runs") / "long", steps=200, problems=32, solutions=16, evil=True)
    return build([run])


def width(browser, pixels):
    metrics = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def seconds_to_open(browser, report):
    browser.get("about:blank")
    began = time.monotonic()
    browser.get(report.as_uri())
    assert "match, page 1 of" in count(browser)
    return time.monotonic() - began


def count(browser):
    return browser.find_element("id", "count").text


def shown(browser):
    """The lines of the episodes. Right after a page is loaded Chromium now and then finds none of them: ask again."""
    from selenium.webdriver.support.wait import WebDriverWait

    lines = ("css selector", "#list > details > summary")
    return [e.text for e in WebDriverWait(browser, 10).until(lambda b: b.find_elements(*lines))]


def reward_in(text):
    """The solver's mean reward in an episode's line."""
    return float(re.search(r"[+−][0-9.]+", text)[0].replace("−", "-"))


def choose(browser, name, value):
    """Set a field of the filters as a user's input does."""
    script = "const f = document.getElementById('filters').elements[arguments[0]]; f.value = arguments[1];"
    browser.execute_script(script + "f.dispatchEvent(new Event('input', {bubbles: true}))", name, value)


def reset(browser):
    browser.find_element("css selector", "#filters button[type=reset]").click()
    time.sleep(0.1)


def test_a_report_of_200_steps_is_small_and_opens_fast(browser, report):
    """Under 10 MB and 2 s; the figures of this machine are printed (pytest -s)."""
    size = report.stat().st_size / MEGABYTE
    quickest = min(seconds_to_open(browser, report) for _ in range(3))  # other tests may take the machine's time
    print(f"report of 200 steps: {size:.2f} MB, opens in {quickest:.2f} s (best of 3)")
    assert size < 10 and quickest < 2


@pytest.mark.parametrize("pixels", [1280, 390, 375, 360])
def test_the_page_never_scrolls_sideways(browser, report, pixels):
    width(browser, pixels)
    browser.get(report.as_uri())
    opened = browser.find_elements("css selector", "details.more")
    assert len(opened) == 1 and not opened[0].get_property("open"), "other metrics are collapsed at first"
    for details in [*opened, *browser.find_elements("css selector", "#list > details")[:2]]:
        browser.execute_script("arguments[0].open = true", details)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert all(s.size["width"] > pixels / 5 for s in browser.find_elements("css selector", "figure svg"))


def test_no_table_is_cut_on_a_phone(browser, report):
    width(browser, 375)
    browser.get(report.as_uri())
    cut = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert browser.find_elements("css selector", ".scroll") and browser.execute_script(cut) == 0


def test_an_injecting_completion_is_text_and_nothing_is_fetched(browser, report):
    browser.get_log("browser"), browser.get_log("performance")
    width(browser, 1280)
    browser.get(report.as_uri())
    choose(browser, "text", "onerror")
    first = browser.find_element("css selector", "#list > details")
    browser.execute_script("arguments[0].open = true", first)
    time.sleep(0.2)
    answers = [e.get_property("textContent") for e in first.find_elements("css selector", ".answers td.mono")]
    assert EVIL in answers
    verdicts = [e.get_property("textContent") for e in first.find_elements("css selector", ".answers td.wrong, .right")]
    assert any(text.endswith(f": {EVIL}") for text in verdicts)
    payload = [e.get_property("textContent") for e in first.find_elements("css selector", ".sides > :nth-child(2) > *")]
    assert payload[1] == PROGRAM and f"program{PROGRAM}" in payload and f"{EVIL}1{EVIL}23" in payload
    first_line, second_line = first.find_element("css selector", ".sides > :nth-child(2) > pre").text.split("\n")
    assert first_line == "def f(a):" and second_line.startswith("    return a + ")
    assert "owned" not in browser.title
    assert not browser.find_elements("css selector", "img, #list b")
    assert [e["message"] for e in browser.get_log("browser")] == []
    fetched = [e["message"] for e in browser.get_log("performance") if '"Network.requestWillBeSent"' in e["message"]]
    assert all("file://" in message or '"url":"data:' in message for message in fetched)


def test_each_filter_narrows_the_list(browser, report):
    width(browser, 1280)
    browser.get(report.as_uri())
    total = count(browser)
    number = 200 * 32
    assert total.startswith(f"{number:,} of {number:,} match, page 1 of")

    choose(browser, "stepFrom", "7"), choose(browser, "stepTo", "8")
    assert count(browser).startswith("64 of") and all(t.startswith(("step 7", "step 8")) for t in shown(browser))
    choose(browser, "asked", "arithmetic/hard")
    assert 0 < int(count(browser).split(" of")[0]) < 64 and all("hard →" in t for t in shown(browser))
    choose(browser, "verdict", "rejected")
    assert shown(browser) and all("rejected: division inexact" in t for t in shown(browser))
    choose(browser, "role", "solver")
    assert count(browser).startswith("0 of")  # a rejected proposal has no solver
    reset(browser)
    assert count(browser) == total

    choose(browser, "cell", "arithmetic/medium")
    assert all("→ arithmetic/medium" in t for t in shown(browser))
    reset(browser)
    choose(browser, "role", "solver"), choose(browser, "rewardFrom", "0.6")
    assert shown(browser) and all(reward_in(t) >= 0.595 for t in shown(browser))
    choose(browser, "rewardFrom", ""), choose(browser, "rewardTo", "-0.1"), choose(browser, "order", "reward")
    rewards = [reward_in(t) for t in shown(browser)]
    assert rewards and rewards == sorted(rewards) and rewards[-1] <= -0.095


def test_pages_turn_and_an_episode_opens(browser, report):
    width(browser, 1280)
    browser.get(report.as_uri())
    before = shown(browser)
    browser.find_element("id", "next").click()
    assert "page 2 of" in count(browser) and shown(browser) != before
    browser.find_element("id", "back").click()
    assert shown(browser) == before
    first = browser.find_element("css selector", "#list > details")
    first.find_element("css selector", "summary").click()
    time.sleep(0.2)
    text = first.text
    for part in ("Proposer", "write one", "Problem", "Solver", "Calculate:", "right", "wrong", "reward"):
        assert part in text
