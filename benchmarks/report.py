"""The report of long runs: seconds to write it, its size, seconds until a browser shows it.

    python benchmarks/report.py

The runs are made by hand (``tests/support/made_run.py``); the page is opened from disk in a headless Chromium
on the machine that writes it, five times, of which the median counts.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from selenium.webdriver import Chrome

from mpo_lite.report.page import write_report

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.support.browser import chromium, go
from tests.support.made_run import made_run

SIZES = {
    "80 batches, short answers": (80, 1),
    "300 batches, essays": (300, 30),
    "1000 batches, essays": (1000, 30),
}
SENTENCE = "Dogs are kept for many reasons, and each of them has a history of its own. "
LOADS = 5
SHOWN = """const count = (what) => document.querySelectorAll(what).length;
return [performance.getEntriesByType('navigation')[0].loadEventEnd / 1000, count('canvas'), count('.card')]"""


def measure(driver: Chrome, folder: Path, batches: int, sentences: int) -> dict:
    def completion(batch: int, row: int) -> str:
        return f"{batch} {row} {SENTENCE * sentences}"

    run = made_run(folder / "run", batches=batches, prompts=8, group=8, completion=completion, every=5)
    began = time.monotonic()
    path = write_report(run)
    seconds = time.monotonic() - began
    loads = []
    for _ in range(LOADS):
        go(driver, path)
        loaded, charts, cards = driver.execute_script(SHOWN)
        assert charts > 8 and cards > 8, (charts, cards)  # it is drawn by then
        loads.append(loaded)
    return {
        "rollouts": batches * 64,
        "rollouts_mb": run.rollouts.stat().st_size / 1e6,
        "write_s": seconds,
        "page_mb": path.stat().st_size / 1e6,
        "load_s": statistics.median(loads),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/report.json"))
    options = parser.parse_args()
    results = {}
    with chromium() as driver:
        for name, size in SIZES.items():
            with tempfile.TemporaryDirectory() as folder:
                results[name] = measure(driver, Path(folder), *size)
    options.out.write_text(json.dumps(results, indent=1))
    print("| run | rollouts | journal | written in | page | shown after |\n|---|---|---|---|---|---|")
    for name, row in results.items():
        print(
            f"| {name} | {row['rollouts']:,} | {row['rollouts_mb']:.0f} MB | {row['write_s']:.1f} s "
            f"| {row['page_mb']:.1f} MB | {row['load_s']:.2f} s |"
        )


if __name__ == "__main__":
    main()
