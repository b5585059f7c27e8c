"""A trained policy leaves as a plain folder, or for the hub, with a card that says how it came about."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jobs import Train
from made_run import ENVIRONMENT
from markdown_it import MarkdownIt
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpo_lite.checkpoints import complete_checkpoint
from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.jsonl import append_rows
from mpo_lite.report.model_card import write_model_card
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.run_dir import RubricVersion, RunDir
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.training.ppo import add_value_head


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_an_exported_policy_is_the_trained_one(
    algorithm: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--judge", "sandbox", "--baseline", "iter0", "--algorithm", algorithm, steps=2)
    folder = tmp_path / "below" / "policy"
    main(["export", str(tmp_path / "run"), "--merge", str(folder)])
    assert "checkpoint-2, merged" in capsys.readouterr().out
    assert not [*folder.glob(".*"), *folder.parent.glob(".*")]
    exported = AutoModelForCausalLM.from_pretrained(folder)
    assert not hasattr(exported, "v_head")
    base = AutoModelForCausalLM.from_pretrained(policy_dir())
    if algorithm == "ppo":
        add_value_head(base)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    ids = tokenizer("dogs are useful for people .", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = base(ids).logits
        trained = (
            PeftModel.from_pretrained(base, tmp_path / "run/checkpoints/checkpoint-2").eval()(ids).logits
        )
        after = exported(ids).logits
    assert torch.allclose(after, trained, atol=1e-4) and not torch.allclose(after, before, atol=1e-3)
    card = (folder / "README.md").read_text()
    assert str(tmp_path) not in card and str(policy_dir()) not in card
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tmp_path / "run"), "--merge", str(folder)])
    assert stopped.value.code == 2 and "is not empty" in capsys.readouterr().err


def test_export_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir.create(tmp_path / "run", Config(policy="some/model"), ENVIRONMENT)
    for arguments, said in (
        ([], "--merge DIR, --push HUB_ID"),
        (["--merge", str(tmp_path / "out")], "no checkpoint yet"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(run.path), *arguments])
        assert stopped.value.code == 2 and said in capsys.readouterr().err


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
    assert "- after batch 1: v0 stayed: sentinel &lt;b&gt;" in card
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


@contextmanager
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server that takes a repository as the hub does; gives its address and the files it was sent."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            told: dict[str, Any] = {}
            if self.path.endswith("/repos/create"):
                told = {"url": "https://huggingface.co/me/policy", "name": "me/policy"}
            elif "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                told["files"] = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked
                ]
            elif "/commit/" in self.path:
                for line in body.decode().splitlines():
                    row = json.loads(line)
                    if row["key"] == "file":
                        files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                told = {"commitUrl": "https://huggingface.co/me/policy/commit/abc", "commitOid": "abc"}
            elif self.path.endswith("/validate-yaml"):
                told = {"errors": [], "warnings": []}
            self._say(told)

        def do_GET(self) -> None:
            self._say({"siblings": [], "sha": "abc", "id": "me/policy"})

        def _say(self, told: dict[str, Any]) -> None:
            text = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", files
    finally:
        server.shutdown()
        server.server_close()


def test_a_policy_is_uploaded_with_its_card(train: Train, tmp_path: Path) -> None:
    train("--judge", "sandbox", "--baseline", "iter0", steps=1)
    push = [sys.executable, "-m", "mpo_lite", "export", str(tmp_path / "run"), "--push", "me/policy"]
    environ = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    with hub() as (address, files):
        environ |= {"HF_ENDPOINT": address, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"}
        told = subprocess.run(push, env=environ, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
    assert "uploaded: https://huggingface.co/me/policy/commit/abc" in told.stdout
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json"} <= set(files)
    assert b"hf_secret" not in b"".join(files.values())
    offline = subprocess.run(
        push, env=environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert offline.returncode == 2 and "Traceback" not in offline.stderr
    assert offline.stderr.splitlines()[-1].startswith("mpo-lite: --push me/policy: HF_HUB_OFFLINE is set")


def test_a_hub_out_of_reach_is_told_before_anything_is_merged(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    run = RunDir.create(tmp_path / "run", Config(policy="some/model"), ENVIRONMENT)
    (run.checkpoints / "checkpoint-1").mkdir()
    complete_checkpoint(run, run.checkpoints / "checkpoint-1", {"batch": 1, "version": 0})
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("mpo_lite.cli.export._write_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run.path), "--push", "me/policy"])
    said = capsys.readouterr().err
    assert "--push me/policy: 127.0.0.1 cannot be reached; write a folder by" in said
    assert "HF_HUB_OFFLINE" not in said and "HF_HUB_OFFLINE" not in os.environ
