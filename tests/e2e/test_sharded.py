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

from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.sandbox.judge_server import running
from mpo_lite.training import sharding
from tests.e2e.test_distributed import INJECTED, done, torchrun, two, workers
from tests.support.jobs import resume, same_run, wait_for
from tests.support.llm_server import LLMServer
from tests.support.zoo import publish

ROOT = Path(__file__).parents[2]


SYNC = """
import sys
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from mpo_lite.training.weight_sync import keep_frozen_weights
from tests.e2e.test_weight_sync import Engine, move, policy
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

vllm_generation.is_vllm_available = lambda: True
vllm_generation.VLLMClient = Engine
model = policy(Path(sys.argv[1]))
move(model)
whole = dict(deepcopy(model).merge_and_unload(safe_merge=True).named_parameters())
accelerator = Accelerator(cpu=True)
sharded, _ = accelerator.prepare(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad]))
assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
frozen = {name: p.full_tensor().clone() for name, p in sharded.named_parameters() if not p.requires_grad}
engine = VLLMGeneration(sharded, accelerator, None, mode="server")
keep_frozen_weights(engine)
engine.sync_weights()
if accelerator.is_main_process:
    sent = engine.vllm_client.weights
    assert sent.keys() == whole.keys()
    assert all(torch.equal(sent[name], data) for name, data in whole.items())
left = {name: p.full_tensor() for name, p in sharded.named_parameters() if not p.requires_grad}
assert all(torch.equal(frozen[name], data) for name, data in left.items())
print("the same")
"""
"""What a sharded policy sends to a generation engine is what a whole one sends."""


def launch(*command: str) -> "subprocess.Popen[str]":
    """By the example's configuration; a port of its own, since other tests launch too."""
    config = ["--config_file", str(ROOT / "examples" / "sharded" / "fsdp2.yaml"), "--main_process_port", "0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *config, *command]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(launcher, start_new_session=True, env=environ, **pipes)


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
    settings: dict[str, Any] = {"algorithm": "ppo", "num_iterations": 2, "micro_batch": 8, "steps": 4}
    settings |= {"interval": 1}
    settings["trl.max_grad_norm"] = 100  # a norm that clips: over shards it is summed in another order
    with LLMServer(delay=0.02) as server:
        done(torchrun(*two(tmp_path, prompts, "copies", server, **settings)))
        killed = shard(*two(tmp_path, prompts, "sharded", server, **settings))
        wait_for(killed, "batch 3/4")
        for process in (*workers(killed.pid), killed.pid):
            os.kill(process, signal.SIGKILL)
        killed.communicate()
        run = tmp_path / "sharded"
        alone = resume(run)
        assert alone.returncode == 2 and "checkpoint-4: its optimiser was sharded by FSDP" in alone.stderr
        done(shard("-m", "mpo_lite", "resume", str(run), "--json"))
    same_run(tmp_path, "copies", "sharded", step=8)


def test_ppo_trains_on_weights_that_fsdp_gathers_in_16_bits(tmp_path: Path, prompts: Path) -> None:
    with LLMServer() as server:
        done(shard(*two(tmp_path, prompts, "run", server, algorithm="ppo", steps=1, bf16=True)))
    assert [row["batch"] for row in read_rows(RunDir(tmp_path / "run").metrics)] == [1]


def test_a_sharded_policy_sends_merged_weights(tmp_path: Path) -> None:
    folder = publish("qwen2.5", tmp_path / "policy")
    script = tmp_path / "sync.py"
    script.write_text(SYNC)
    told = done(shard(str(script), str(folder)))
    assert told.count("the same") == 2


def test_accelerate_leaves_fsdp_out_on_cpus(tmp_path: Path) -> None:
    """When this fails, accelerate has learned it: ``tests/support/sharded.py`` can go."""
    script = tmp_path / "begin.py"
    script.write_text(
        "from accelerate import Accelerator\n"
        "from mpo_lite.training.sharding import check_sharding\n"
        "Accelerator(cpu=True)\n"
        "check_sharding()\n"
    )
    _, errors = launch(str(script)).communicate(timeout=300)
    assert "ConfigError: trainer: FSDP is asked for, but accelerate" in errors


@pytest.mark.parametrize(
    ("kind", "plugin", "message"),
    [
        ("FSDP", {"fsdp_version": 1}, "set fsdp_version: 2"),
        ("FSDP", {"state_dict_type": "SHARDED_STATE_DICT"}, "fsdp_state_dict_type: FULL_STATE_DICT"),
        ("DEEPSPEED", {}, "DeepSpeed is asked for.*by FSDP2"),
    ],
)
def test_ways_of_sharding_that_fail_later_are_refused(
    kind: str, plugin: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"fsdp_version": 2, "state_dict_type": "StateDictType.FULL_STATE_DICT"}
    state = SimpleNamespace(
        distributed_type=DistributedType.FSDP, fsdp_plugin=SimpleNamespace(**usual | plugin)
    )
    monkeypatch.setattr(sharding, "AcceleratorState", lambda: state)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    sharding.check_sharding()  # one process shards nothing
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=message):
        sharding.check_sharding()


def test_a_checkpoint_of_copies_is_not_loaded_into_shards(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"was not sharded by FSDP.*torchrun, without FSDP"):
        sharding.require_same_sharding(tmp_path, is_sharded=True)
