"""Whole jobs for tests: the command line on the tiny policy, in this process or in one of its own."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from tests.support.forked import Job
from tests.support.llm_server import LLMServer, kind_of, prompt_text

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
    "use_gate": False,
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


def start(tmp_path: Path, prompts: Path, name: str, server: LLMServer, **settings: Any) -> Job:
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
    return Job(*arguments(tmp_path, prompts, name, **settings), *flags)


def wait_for(job: Job, line: str) -> None:
    """Reads what a run says until a line begins so."""
    seen = []
    for text in job.stderr:
        seen.append(text)
        if text.startswith(line):
            return
    raise AssertionError(f"{line!r} never came:\n{''.join(seen)}")


def ended(job: Job) -> tuple[int, str]:
    """Waits for a run; its exit code and the rest of what it said."""
    _, errors = job.communicate()
    assert job.returncode is not None
    return job.returncode, errors


def resume(run: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return completed("resume", str(run), "--json", *flags)


def completed(*command: str, largest_file: int | None = None) -> "subprocess.CompletedProcess[str]":
    """A command once it has ended; see ``Job``."""
    job = Job(*command, largest_file=largest_file)
    out, errors = job.communicate()
    assert job.returncode is not None
    return subprocess.CompletedProcess(command, job.returncode, out, errors)


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
    first, second = RunDir(tmp_path / one), RunDir(tmp_path / other)
    assert weights(first.path, step) == weights(second.path, step)
    assert first.version(2) == second.version(2)
    for rows in (lambda run: read_rows(run.rollouts), lambda run: read_rows(run.lineage)):
        assert rows(first) == rows(second)
