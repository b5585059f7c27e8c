"""FSDP2 on two processes, as accelerate launches them: the same run as with a copy of the policy in each."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType

from mpo_lite.checkpoints import last_checkpoint
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.sandbox.judge_server import running
from mpo_lite.training import sharding
from tests.e2e.test_distributed import INJECTED, done, torchrun, two, workers
from tests.support.jobs import same_run, wait_for
from tests.support.llm_server import LLMServer
from tests.support.zoo import publish

ROOT = Path(__file__).parents[2]


def launch(*command: str) -> "subprocess.Popen[str]":
    """By the example's configuration; a port of its own, since other tests launch too."""
    config = ["--config_file", str(ROOT / "examples" / "sharded" / "fsdp2.yaml"), "--main_process_port", "0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *config, *command]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(launcher, start_new_session=True, **pipes)


def shard(*command: str) -> "subprocess.Popen[str]":
    return launch(str(ROOT / "tests" / "support" / "sharded.py"), *command)


def test_a_sharded_policy_makes_the_same_run_as_copies(tmp_path: Path) -> None:
    script = tmp_path / "injected.py"
    script.write_text(INJECTED)
    starts: dict[str, Callable[..., Any]] = {"copies": torchrun, "sharded": shard}
    with running(seed=0) as url:
        for name, begin in starts.items():
            done(begin(str(script), url, str(tmp_path / name), "2", str(policy_dir())))
    copies, sharded = (RunDir(tmp_path / name / "mpo") for name in starts)
    assert len(read_rows(copies.rollouts)) == 5 * 16 and len(read_rows(copies.lineage)) == 2
    for name in ("rollouts", "lineage", "gold", "audits"):
        assert read_rows(getattr(copies, name)) == read_rows(getattr(sharded, name)), name
    figures = ("reward", "spread", "entropy", "logprob_gap", "judge_calls")
    first, second = (
        [{name: row[name] for name in figures} for row in read_rows(run.metrics)] for run in (copies, sharded)
    )
    assert first == second
    for path in (copies.path / "rubrics").glob("*.yaml"):
        assert path.read_bytes() == (sharded.path / "rubrics" / path.name).read_bytes()


def test_a_sharded_ppo_run_is_killed_and_resumed_to_the_same_bits(tmp_path: Path, prompts: Path) -> None:
    settings: dict[str, Any] = {"algorithm": "ppo", "num_iterations": 2, "micro_batch": 8}
    with LLMServer(delay=0.02) as server:
        done(torchrun(*two(tmp_path, prompts, "copies", server, **settings)))
        killed = shard(*two(tmp_path, prompts, "sharded", server, **settings))
        wait_for(killed, "batch 3/6")
        for process in (*workers(killed.pid), killed.pid):
            os.kill(process, signal.SIGKILL)
        killed.communicate()
        run = RunDir(tmp_path / "sharded")
        resume = ["-m", "mpo_lite", "resume", str(run.path), "--json"]
        _, errors = torchrun(*resume).communicate(timeout=300)
        assert "checkpoint-4: its optimiser was sharded by FSDP" in errors
        done(shard(*resume))
    same_run(tmp_path, "copies", "sharded", step=12)
    saved = last_checkpoint(run)
    assert saved and not (saved / "training_args.bin").exists()


def test_the_rewards_that_fsdp_rounds_are_values_in_full(tmp_path: Path, prompts: Path) -> None:
    """In mixed precision, as on GPUs, FSDP gathers the value head in 16 bits."""
    with LLMServer() as server:
        done(shard(*two(tmp_path, prompts, "run", server, algorithm="ppo", steps=2, bf16=True)))
    assert [row["batch"] for row in read_rows(RunDir(tmp_path / "run").metrics)] == [1, 2]


def test_a_sharded_policy_sends_merged_weights(tmp_path: Path) -> None:
    folder = publish("qwen2.5", tmp_path / "policy")
    told = done(shard("-m", "tests.support.sharded_sync", str(folder)))
    assert told.count("the same") == 2


def test_accelerate_leaves_fsdp_out_on_cpus(tmp_path: Path, prompts: Path) -> None:
    """When this fails, accelerate has learned it: ``tests/support/sharded.py`` can go."""
    with LLMServer() as server:
        _, errors = launch(*two(tmp_path, prompts, "run", server)).communicate(timeout=300)
    assert "FSDP is asked for, but accelerate" in errors and "over GPUs alone" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "plugin", "message"),
    [
        ("FSDP", {"fsdp_version": 1}, "set fsdp_version: 2"),
        ("FSDP", {"state_dict_type": "SHARDED_STATE_DICT"}, "fsdp_state_dict_type: FULL_STATE_DICT"),
        ("DEEPSPEED", {}, "DeepSpeed"),
    ],
)
def test_ways_of_sharding_that_fail_later_are_refused(
    kind: str, plugin: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"fsdp_version": 2, "state_dict_type": "StateDictType.FULL_STATE_DICT"}
    state = SimpleNamespace(distributed_type=DistributedType.FSDP, fsdp_plugin=SimpleNamespace(**usual | plugin))
    monkeypatch.setattr(sharding, "AcceleratorState", lambda: state)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    sharding.check_sharding()  # one process shards nothing
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=message):
        sharding.check_sharding()
