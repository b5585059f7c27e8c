"""Whole jobs for tests: the command line on the tiny policy, in this process or in one of its own."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_server import LLMServer, kind_of, prompt_text

from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import Run
from mpo_lite.sandbox.data import policy_dir

SETTINGS = {
    "steps": 6,
    "interval": 2,
    "meta_samples": 3,
    "group_size": 4,
    "batch_prompts": 4,
    "micro_batch": 16,
    "max_new_tokens": 16,
    "learning_rate": 1e-3,
    "save_every": 2,
    "breaker_pause": 0.0,
    # Models that judge nothing: no gate would let their rubrics pass.
    "mode": "paper",
    "schedule": "interval",
    "strategy": "samples",
}
Train = Callable[..., dict[str, Any]]
"""Trains in this process; gives the JSON that ``--json`` prints."""


def arguments(tmp_path: Path, prompts: Path, name: str = "run", **settings: Any) -> list[str]:
    options = [part for key, value in (SETTINGS | settings).items() for part in ("-o", f"{key}={value}")]
    fixed = {"policy": str(policy_dir()), "data": str(prompts), "run-dir": str(tmp_path / name)}
    fixed["cache-dir"] = str(tmp_path / f"{name}-cache")
    return [
        "train",
        *(part for key, value in fixed.items() for part in (f"--{key}", value)),
        "--json",
        *options,
    ]


def start(
    tmp_path: Path, prompts: Path, name: str, server: LLMServer, **settings: Any
) -> "subprocess.Popen[str]":
    """Starts a run in a process of its own; judge and meta-judge are one server."""
    flags = [
        "--judge",
        "openai/j",
        "--judge-api-base",
        server.url,
        "--meta",
        "openai/m",
        "--meta-api-base",
        server.url,
    ]
    command = [sys.executable, "-m", "mpo_lite", *arguments(tmp_path, prompts, name, **settings), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    """Reads what a run says until a line begins so."""
    assert process.stderr is not None
    seen = []
    for text in process.stderr:
        seen.append(text)
        if text.startswith(line):
            return
    raise AssertionError(f"{line!r} never came:\n{''.join(seen)}")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Waits for a run; its exit code and the rest of what it said."""
    _, errors = process.communicate()
    return process.returncode, errors


def resume(run: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mpo_lite", "resume", str(run), "--json", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def weights(run: Path, step: int = 6) -> str:
    return hashlib.sha256(
        (run / f"checkpoints/checkpoint-{step}/adapter_model.safetensors").read_bytes()
    ).hexdigest()


def asked(server: LLMServer) -> list[str]:
    """What the server was asked, but for the calls that only see whether it is there."""
    texts = [prompt_text(body) for body in server.requests]
    return [text for text in texts if kind_of(text) != "check"]


def same_run(tmp_path: Path, one: str, other: str, step: int = 6) -> None:
    """Asserts that two runs ended in the same weights, rubrics and rewards, to the bit."""
    first, second = Run(tmp_path / one), Run(tmp_path / other)
    assert weights(first.path, step) == weights(second.path, step)
    assert first.version(2) == second.version(2)
    for rows in (lambda run: read_rows(run.rollouts), lambda run: read_rows(run.lineage)):
        assert rows(first) == rows(second)
