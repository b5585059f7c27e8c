"""The report in a browser: whole, silent, harmless, and of use."""

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from mpo_lite.cli.main import main
from mpo_lite.report.page import write_comparison, write_report
from tests.support.browser import needs_browser, opened
from tests.support.llm_server import LLMServer
from tests.support.made_run import made_run
from tests.support.scoring import served, write

pytestmark = [needs_browser, pytest.mark.browser]

SECTIONS = ["verdict", "story", "signs", "reward", "rubric", "criteria", "alarms", "cost", "health", "time",
            "samples", "reproduce"]  # fmt: skip
HOSTILE = (
    "<script>window.hacked = 1</script></script><img src=x onerror='window.hacked = 2'>"
    "<iframe src='https://example.org'></iframe>{{ 7 * 7 }}<!--<style>body{display:none}</style>"
    "\x00\x07\u202eturned round\u2066 &lt;b&gt; \"quoted\" '$' `tick` </textarea></title> مرحبا \ud800"
)


def fill(page: Chrome, name: str, value: str) -> None:
    field = page.find_element(By.CSS_SELECTOR, f"#filters [name={name}]")
    if field.tag_name == "select":
        Select(field).select_by_value(value)
    else:
        field.clear()
        field.send_keys(value)


def cards(page: Chrome) -> list[str]:
    return [card.text for card in page.find_elements(By.CSS_SELECTOR, "#cards .card")]


def found(page: Chrome) -> int:
    return int(page.find_element(By.ID, "found").text.split(" found")[0].replace(",", ""))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_all_of_it_is_there(tmp_path: Path, width: int, dark: bool) -> None:
    with opened(write_report(made_run(tmp_path / "run")), width, dark) as page:
        for name in SECTIONS:
            section = page.find_element(By.ID, name)
            assert section.is_displayed() and len(section.text) > 20, name
        charts = page.find_elements(By.CSS_SELECTOR, "[data-chart]")
        assert len(charts) >= 8
        assert all(chart.find_elements(By.TAG_NAME, "canvas") for chart in charts)
        # Drawn, not only there: the main chart's pixels are of several colours.
        colours = """const canvas = document.querySelector('[data-chart=reward] canvas');
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            const seen = new Set();
            for (let i = 0; i < data.length; i += 4) seen.add(data.slice(i, i + 4).join());
            return seen.size;"""
        assert page.execute_script(colours) > 10
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(23, 24, 26)") == dark


def test_hostile_text_is_text(tmp_path: Path) -> None:
    run = made_run(
        tmp_path / "run",
        completion=lambda batch, row: f"{HOSTILE} {batch} {row} " + "long " * 20_000 * (row == 0),
        prompt=lambda number: f"{number} {HOSTILE}",
        said=HOSTILE,
        goal=HOSTILE[:-1],  # half a character is no setting
    )
    with opened(write_report(run)) as page:
        assert page.execute_script("return window.hacked") is None
        assert not page.find_elements(By.CSS_SELECTOR, "main img, main iframe, main script, main style")
        assert "49" not in page.find_element(By.ID, "story").text
        fill(page, "from", "5")
        for text in (cards(page)[0], page.find_element(By.ID, "story").text):
            assert "<script>window.hacked = 1</script>" in text and "&lt;b&gt;" in text
        assert "[U+202E]turned round" in cards(page)[0] and "␀" in cards(page)[0]
        assert "characters left out" in page.find_element(By.ID, "samples").text
        right = page.execute_script("return document.querySelector('#cards .text').dir")
        assert right == "auto"
        # Even a script that got in would not run: the page's policy names its own by their hashes.
        page.execute_script(
            "const s = document.createElement('script'); s.textContent = 'window.hacked = 3';"
            "document.body.append(s);"
        )
        assert page.execute_script("return window.hacked") is None
        assert "Content Security Policy" in page.get_log("browser")[0]["message"]


def test_samples_are_filtered(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    with opened(write_report(run)) as page:
        everything = 12 * 8 + 1
        assert found(page) == everything and len(cards(page)) == 12
        fill(page, "from", "2")
        fill(page, "to", "3")
        assert found(page) == 16 and all("batch 2" in card or "batch 3" in card for card in cards(page))
        fill(page, "to", "4")
        fill(page, "alarm", "phrase_drift")
        assert found(page) == 2 and all("b4r" in card and "phrase drift" in card for card in cards(page))
        page.find_element(By.ID, "all").click()
        assert found(page) == everything
        fill(page, "version", "1")
        assert found(page) == 64 and "rubric v1" in cards(page)[0]
        fill(page, "order", "high")
        fill(page, "low", "0.5")
        scores = [float(card.split()[0]) for card in cards(page)]
        assert scores == sorted(scores, reverse=True) and min(scores) >= 0.5
        fill(page, "text", "answer 2 of batch 11")
        assert found(page) == 1 and "answer 2 of batch 11" in cards(page)[0] and "It shows." in cards(page)[0]
        page.find_element(By.CSS_SELECTOR, "#cards button.link").click()
        assert found(page) == 12 * 4 + 1  # all to the same prompt, the probe too
        page.find_element(By.ID, "more").click()
        assert len(cards(page)) == 12 + 24


def test_rubric_and_alarms_lead_to_their_samples(tmp_path: Path) -> None:
    with opened(write_report(made_run(tmp_path / "run"))) as page:
        page.find_element(By.CSS_SELECTOR, "[data-sample=b4p0]").click()
        (card,) = cards(page)
        assert "a probe" in card and "no score" in card and "shown to the meta-judge" in card
        page.find_element(By.CSS_SELECTOR, "[data-alarm=phrase_drift]").click()
        assert found(page) == 2
        prompts = Select(page.find_element(By.ID, "time-prompt"))
        assert [option.text for option in prompts.options] == [f"Write about topic {n}." for n in range(4)]
        prompts.select_by_index(1)
        answers = page.find_elements(By.CSS_SELECTOR, "#time-answers .card")
        assert [answer.text.split("\n")[0] for answer in answers[:2]] == [
            "gold 0.51",
            "gold 0.31",
        ]


def test_a_comparison_is_drawn(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / "one"), made_run(tmp_path / "<b>other", batches=4)]
    path, _ = write_comparison([run.path for run in runs], tmp_path / "comparison.html")
    with opened(path, 390) as page:
        assert "<b>other" in page.find_element(By.ID, "verdict").text
        assert len(page.find_elements(By.CSS_SELECTOR, "#gold canvas")) == 1
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_calibration_is_whole_and_harmless(tmp_path: Path, capsys: Any, width: int, dark: bool) -> None:
    essay = "Rain falls on the plain and fills the rivers. " * 8
    rows = [
        {"prompt": f"{n} {HOSTILE[:-1]}", "response_a": f"{essay} {n} {HOSTILE[:-1]}",
         "response_b": essay * 2, "model_a": "gpt", "model_b": "claude",
         "winner": ("gpt", "claude", "tie")[n % 3]}
        for n in range(12)
    ]  # fmt: skip
    data, page = write(tmp_path / "pairs.jsonl", rows), tmp_path / "page.html"
    with LLMServer() as server:
        flags = ["--judge-mode", "groupwise", "--replicates", "2", "--probes", "6", "--out", str(page)]
        main(["calibrate", str(data), *served(server, tmp_path), *flags])
    with opened(page, width, dark) as shown:
        for name in ("verdict", "conclusion", "agreement", "criteria", "biases", "tricks", "worst"):
            section = shown.find_element(By.ID, name)
            assert section.is_displayed() and len(section.text) > 20, name
        assert shown.execute_script("return window.hacked") is None
        assert not shown.find_elements(By.CSS_SELECTOR, "main img, main iframe, main script, main style")
        assert "<script>window.hacked = 1</script>" in shown.find_element(By.ID, "worst").text
        (bar, *_) = shown.find_elements(By.CSS_SELECTOR, "svg.bar")
        assert bar.size["width"] > 50 and len(bar.find_elements(By.CSS_SELECTOR, "rect")) > 1
        assert shown.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    "sentence", ["Dogs are kept for many reasons, each of them old. ", "人们养狗有很多原因。"]
)
def test_a_long_run_makes_no_large_page(tmp_path: Path, sentence: str) -> None:
    """Of 300 batches of 64 answers, each as long as an essay."""
    essay = sentence * 50

    def completion(batch: int, row: int) -> str:
        return f"{batch} {row} {essay}"

    run = made_run(tmp_path / "run", batches=300, prompts=8, group=8, completion=completion, every=5)
    path = write_report(run)
    assert path.stat().st_size < 5_000_000
    with opened(path) as page:
        assert found(page) > 500
        assert {"1", "300"} <= set(
            page.execute_script("return data.samples.rows.map((row) => `${row.batch}`)")
        )
