"""Draws the documentation's pictures of reports, in a headless Chromium.

mpo-lite quickstart --run-dir runs/evolving
mpo-lite quickstart --run-dir runs/frozen --baseline iter0
python docs/pictures.py runs/evolving runs/frozen
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from selenium.webdriver import Chrome

from mpo_lite.report.page import write_report
from mpo_lite.run_dir import RunDir

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.support.browser import chromium, go

FOLDER = Path(__file__).parent
WIDTH = 1000


def main(evolving: Path, frozen: Path) -> None:
    """Writes ``report.png``, ``healthy.png`` and ``unhealthy.png``."""
    with chromium(WIDTH) as driver:
        _open(driver, evolving)
        _picture(driver, "header", "#story", "report.png")
        _picture(driver, "[data-chart=reward]", "[data-chart=reward]", "healthy.png")
        _open(driver, frozen)
        _picture(driver, "[data-chart=reward]", "[data-chart=reward]", "unhealthy.png")


def _open(driver: Chrome, run: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        go(driver, write_report(RunDir(run), Path(folder) / "report.html"))


def _picture(driver: Chrome, first: str, last: str, name: str) -> None:
    """What stands from one element to another."""
    top, end = (driver.find_element("css selector", one).rect for one in (first, last))
    height = end["y"] + end["height"] - top["y"] + 24
    clip = {"x": 0, "y": max(0, top["y"] - 12), "width": WIDTH, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    (FOLDER / name).write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
