"""A trained policy leaves as a plain folder, or for the hub, with a card that says how it came about."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpo_lite.cli.main import main
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.training.ppo import add_value_head
from tests.support.jobs import Train


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
