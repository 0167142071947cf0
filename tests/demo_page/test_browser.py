"""Report and demo page in a real browser: headless Chromium (Debian's chromium and chromium-driver)."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mage_kit.base.progress import Reporter
from mage_kit.report import write_report
from mage_kit.training.train import train
from tests.training.test_training import small

pytestmark = pytest.mark.slow
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-unsafe-swiftshader --hide-scrollbars"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("training.epochs=2", "training.ema=0.9"), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and driver, "browser tests need Debian's packages chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,1400"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(service=Service(driver), options=options)
    try:
        yield opened
    finally:
        opened.quit()


def sized(browser: webdriver.Chrome, width: int, height: int, phone: bool) -> None:
    settings = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)


def complaints(browser: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True), (320, True)])
def test_the_report_is_readable_at_every_width(
    browser: webdriver.Chrome, run: Path, tmp_path: Path, width: int, phone: bool
) -> None:
    page = write_report(run, tmp_path / "report.html", reporter=Reporter.silent())
    sized(browser, width, 900, phone)
    browser.get(page.as_uri())
    wide, shown = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert shown == width and wide <= shown, "the page scrolls sideways"
    images = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])")
    assert len(images) >= 5 and all(done and natural > 0 and 0 < across <= width for done, natural, across in images)
    charts = browser.execute_script(
        "const all = [...document.querySelectorAll('.charts svg')];"
        "return all.map(svg => [svg.clientWidth, svg.querySelectorAll('path').length])"
    )
    assert len(charts) >= 10 and all(240 <= across <= width and paths > 5 for across, paths in charts)
    sizes = browser.execute_script(
        "const all = [...document.querySelectorAll('p, td, th, figcaption')];"
        "return all.map(element => parseFloat(getComputedStyle(element).fontSize))"
    )
    assert min(sizes) >= 12
    browser.find_element(By.LINK_TEXT, "Samples").click()
    top = browser.execute_script("return document.getElementById(location.hash.slice(1)).getBoundingClientRect().top")
    assert abs(top) < 60 and not complaints(browser)
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert not [name for name in loaded if not name.startswith("data:")]


@contextlib.contextmanager
def served(run: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mage_kit.cli", "app", str(run), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for _ in range(240):
                assert process.poll() is None, process.stdout and process.stdout.read()
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=2).close()
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def draw(browser: webdriver.Chrome, path: list[tuple[int, int]]) -> None:
    """Press, move and release the mouse, as a hand does."""

    def mouse(kind: str, x: int, y: int, held: bool) -> None:
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": int(held), "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        time.sleep(0.05)

    mouse("mouseMoved", *path[0], held=False)
    mouse("mousePressed", *path[0], held=True)
    for (x0, y0), (x1, y1) in itertools.pairwise(path):
        for part in range(1, 11):
            mouse("mouseMoved", x0 + (x1 - x0) * part // 10, y0 + (y1 - y0) * part // 10, held=True)
    mouse("mouseReleased", *path[-1], held=False)


def test_drawing_and_clicking_paints_a_picture_anew(browser: webdriver.Chrome, run: Path) -> None:
    with served(run) as address:
        browser.get(address)
        wait = WebDriverWait(browser, 90)
        canvas = wait.until(lambda held: held.find_element(By.CSS_SELECTOR, "#editor canvas"))
        time.sleep(3)  # the editor lays its canvas out

        def line() -> str:
            return str(browser.find_element(By.CSS_SELECTOR, "#line textarea").get_property("value"))

        def pictures() -> list[str]:
            found = browser.find_elements(By.CSS_SELECTOR, "#results img")
            return [str(each.get_attribute("src")) for each in found]

        browser.find_element(By.CSS_SELECTOR, "#go").click()
        wait.until(lambda _: "Draw on the picture first" in line())
        assert not pictures()
        place = canvas.rect
        x, y = int(place["x"] + place["width"] / 2), int(place["y"] + place["height"] / 2)
        seen: set[str] = set()

        def finished(held: webdriver.Chrome) -> bool:
            seen.add(line())
            return "tokens painted anew in 12 steps" in line()

        for _ in range(4):  # the editor takes strokes once it has laid itself out, and says nothing when it has
            draw(browser, [(x - 40, y - 50), (x + 30, y - 20), (x - 30, y + 30)])
            time.sleep(1)
            browser.find_element(By.CSS_SELECTOR, "#go").click()
            with contextlib.suppress(TimeoutException):
                WebDriverWait(browser, 30, poll_frequency=0.1).until(finished)
                break
        assert any(re.match(r"step \d+ of 12", text) for text in seen), "the canvas fills step by step"
        wait.until(lambda _: len(pictures()) >= 3)
        sizes = browser.execute_script("return [...document.querySelectorAll('#results img')].map(i => i.naturalWidth)")
        assert all(size >= 320 for size in sizes)
        foreign = [name for name in loaded(browser) if not name.startswith((address, "data:", "blob:"))]
        assert not foreign, f"loaded from elsewhere: {foreign}"


def loaded(browser: webdriver.Chrome) -> list[Any]:
    names: list[Any] = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    return names
