"""A headless Chromium for tests, where the machine has one."""

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
def opened(page: Path, width: int = 1280, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Opens a page from disk; asserts afterwards that nothing went wrong in it and nothing was asked for."""
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
        driver.get(page.as_uri())
        loaded = "return document.readyState === 'complete'"
        WebDriverWait(driver, 20).until(lambda it: it.execute_script(loaded))  # get() may be back before
        yield driver
        assert driver.get_log("browser") == []
        assert _requested(driver) == {page.as_uri()}
    finally:
        driver.quit()


def _requested(driver: webdriver.Chrome) -> set[str]:
    events: list[dict[str, Any]] = [
        json.loads(row["message"])["message"] for row in driver.get_log("performance")
    ]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {one["request"]["url"].split("#")[0] for one in sent}
