"""The model card: figures, the history of the rubric, and no markup but our own."""

import re
from html import unescape
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from mpo_lite.config import Config
from mpo_lite.jsonl import append_rows
from mpo_lite.report.model_card import write_model_card
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.run_dir import RubricVersion, RunDir
from tests.support.made_run import ENVIRONMENT


def test_the_card_tells_figures_and_the_history_of_the_rubric(tmp_path: Path) -> None:
    config = Config(judge="gpt-4o", meta="claude", policy="Qwen/Some-Model", data=str(tmp_path), task="essay")
    run = RunDir.create(tmp_path / "run", config, ENVIRONMENT)
    hostile = "Pays <script>alert(1)</script> | a [link](http://x) `code`"
    criterion = Criterion(id="c", description=hostile, levels=("no", "yes"))
    run.publish(RubricVersion(0, None, 0, "task essay", Rubric(criteria=(criterion,))))
    run.publish(RubricVersion(1, 0, 1, "claude", Rubric(criteria=(criterion,), guidelines="Be strict.")))
    spend = {"judge_calls": 64, "gate_calls": 3, "meta_calls": 5, "usd": 1.5}
    rows = [{"batch": n, "version": n - 1, "reward": 0.25 * n, "judge_failures": 0, **spend} for n in (1, 2)]
    append_rows(run.metrics, [*rows, {"batch": 3, "version": 2, "reward": 1.0, "judge_failures": 0, **spend}])
    samples = [{"prompt": "p", "completion": "c", "gold": 0.5}]
    append_rows(run.gold, [{"batch": n, "gold": 0.4 + 0.1 * n, "samples": samples} for n in (0, 2)])
    step = {"batch": 1, "version": 1, "author": "claude", "added": ["c"], "changed": [], "dropped": ["d"]}
    step |= {"kind": "meta", "began": 1, "parent": 0, "reason": "", "status": "accepted"}
    step["rubric"] = run.version(1).rubric.model_dump(mode="json")
    refused = step | {"version": 0, "status": "refused", "reason": "sentinel <b>", "rubric": None}
    later = step | {"batch": 2, "added": ["after the checkpoint"]}
    append_rows(run.lineage, [refused, step, later])
    card = write_model_card(run, config, 2, "Good essays.")
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["base_model"] == "Qwen/Some-Model" and "datasets" not in metadata
    assert "| gold on held-out prompts | 0.400 → 0.500 |" in card and "| spend | $1.50 |" in card
    assert "| generation batches | 2 of 64 completions |" in card and "Be strict." in card
    assert "- v1, after batch 1, by claude: added c; dropped d" in card
    assert "- after batch 1: v0 unchanged: sentinel &lt;b&gt;" in card
    assert "after the checkpoint" not in card and "simulated" not in card
    assert "<script>" not in card and "[link](" not in card


HOSTILE = (
    "<img src=x onerror=alert(1)> **bold** [link](http://x) `code` ~~~ | # head & &lt; $$ ![i](x) <!-- "
    "--- name: x"
)


def test_nothing_in_a_card_is_markup_but_our_own(tmp_path: Path) -> None:
    policy = f"org/{HOSTILE}"
    config = Config(judge="gpt-4o", meta="claude", policy=policy, data="org/d: [x]\n---", task=HOSTILE)
    run = RunDir.create(tmp_path / "run", config, ENVIRONMENT)
    criterion = Criterion(id="c", description=HOSTILE, levels=("no", "yes"))
    run.publish(RubricVersion(0, None, 0, HOSTILE, Rubric(criteria=(criterion,), guidelines=f"- {HOSTILE}")))
    step = {"batch": 1, "version": 1, "author": HOSTILE, "added": ["c"], "changed": [], "dropped": []}
    step |= {"kind": "meta", "began": 1, "parent": 0, "rubric": None}
    content = run.version(0).rubric.model_dump(mode="json")
    accepted = step | {"status": "accepted", "reason": "", "rubric": content}
    append_rows(run.lineage, [accepted, step | {"status": "refused", "reason": HOSTILE}])
    purposes = [HOSTILE, f"~~~\n{HOSTILE}", f"- {HOSTILE}", f"1. {HOSTILE}", f"===\n\n---\n\n+ {HOSTILE}"]
    card = write_model_card(run, config, 2, "\n\n".join(purposes))
    _, metadata, body = card.split("---\n", 2)
    told = yaml.safe_load(metadata)
    assert (told["base_model"], told["datasets"]) == (policy, "org/d: [x]\n---")
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(body)
    assert unescape(html).count(HOSTILE) == 12
    assert set(re.findall(r"<(\w+)", html)) == {
        "h1", "h2", "p", "a", "ul", "li", "strong", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert html.count("<ul>") == 2 and html.count("<a ") == 1 and html.count("<h1>") == 1
    of_a_goal = write_model_card(run, config.model_copy(update={"goal": "Be kind."}), 2, "Be kind.")
    assert "trained for one goal\n" in of_a_goal
