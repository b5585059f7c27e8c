"""A headless Chromium for tests, benchmarks and pictures, where the machine has one."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with chromedriver here (Debian: chromium chromium-driver)"
)


@contextmanager
def chromium(width: int = 1280, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Starts one; below 600 pixels of width it is a phone's."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    # As root, which containers run as, Chromium has no sandbox.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def go(driver: webdriver.Chrome, page: Path) -> None:
    """Opens a page from disk and waits until it is loaded: ``get`` may be back before."""
    driver.get(page.resolve().as_uri())
    loaded = "return performance.getEntriesByType('navigation')[0].loadEventEnd > 0"
    WebDriverWait(driver, 20).until(lambda it: it.execute_script(loaded))


@contextmanager
def opened(page: Path, width: int = 1280, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Opens a page; asserts afterwards that nothing went wrong in it and nothing was asked for."""
    with chromium(width, dark) as driver:
        go(driver, page)
        yield driver
        assert driver.get_log("browser") == []
        assert _requested(driver) == {page.as_uri()}


def _requested(driver: webdriver.Chrome) -> set[str]:
    events: list[dict[str, Any]] = [
        json.loads(row["message"])["message"] for row in driver.get_log("performance")
    ]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {one["request"]["url"].split("#")[0] for one in sent}
