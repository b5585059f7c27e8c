"""``--trainer async``: judged while it trains, at most one step behind, and back after a kill."""

import asyncio
import inspect
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mpo_lite.cli.main import main
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import read_rows
from mpo_lite.loop.begin import open_session
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.training.cpu_attention import attend_packed
from mpo_lite.training.policy import chat_of, load_tokenizer, policy_shell
from mpo_lite.training.rollouts import JudgedRollouts, RolloutWorker
from mpo_lite.training.trl_async import AsyncGRPOTrainer, async_rollout_worker, packing
from mpo_lite.training.vllm_policy import ServedPolicy
from tests.support.jobs import ended, resume, start, wait_for, weights
from tests.support.llm_server import LLMServer, prompt_text
from tests.support.vllm_stand_in import LORA, VLLMStandIn

ASYNC: dict[str, Any] = {"trainer": "async", "eval_every": 3}


@pytest.fixture
def vllm() -> Iterator[VLLMStandIn]:
    with VLLMStandIn() as server:
        yield server


def spawned_by(pid: int | None) -> list[int]:
    """Processes that a process has started by ``spawn``."""
    found = [int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [each for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def until(condition: Callable[[], bool], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_trls_methods_are_those_we_override() -> None:
    """Fails when TRL changes what our worker and job rest on: then they have to be looked at again."""
    loop = async_rollout_worker._AsyncRolloutLoop
    signatures = {
        loop._generate_one: ["prompt", "tool_dict", "tools", "group_id"],
        loop._generate_one_turn: ["prompt_ids"],
        loop._score_group: ["group"],
        loop._push_rollout_metrics: [
            "turns", "sequences", "completion_ids", "tally", "loop_exhausted", "duration_s",
        ],
        async_rollout_worker.AsyncRolloutWorker.check_health: ["stale_after_s"],
        async_rollout_worker.AsyncRolloutWorker.stop: [],
    }  # fmt: skip
    for method, parameters in signatures.items():
        assert list(inspect.signature(method).parameters)[1:] == parameters, method
    source = inspect.getsource(loop)
    assert "if self._provides_rollout_reward:" in source and "list(group.rollout_rewards)" in source
    assert "group.rollout_rewards.append(rollout_reward)" in source
    assert "model_version=group.model_version" in source
    assert 'getattr(processing_class, "response_template", None) is not None' in source
    assert "self._process.is_alive()" in inspect.getsource(RolloutWorker.stop)
    worker = inspect.getsource(async_rollout_worker.AsyncRolloutWorker)
    assert "if not is_vllm_available():" in worker and "_loop_cls" in worker
    trainer = inspect.getsource(AsyncGRPOTrainer)
    assert 'self._lora_name = "trl-policy"' in trainer
    assert 'f"{self._lora_name}-v{version}"' in trainer
    assert "get_peak_flops_per_device(self.accelerator, dtype)" in trainer
    assert 'self.rollout_worker._loop_kwargs["dataset_start_index"]' in trainer
    assert "_flash_attn().flash_attn_varlen_func(" in inspect.getsource(packing)


def test_attention_over_packed_sequences_is_that_over_each() -> None:
    torch.manual_seed(0)
    heads, size = 4, 8
    shared, own = 5, (3, 4)  # a prompt, and what follows it in two answers
    lengths = [shared, *own]
    query = torch.randn(sum(lengths), heads, size, requires_grad=True)
    key, value = (torch.randn(sum(lengths), 2, size, requires_grad=True) for _ in range(2))
    places = list(range(shared))
    paths = [places, [*places, 5, 6, 7], [*places, 8, 9, 10, 11]]
    index = torch.tensor([place for path in paths for place in path])
    query_bounds = torch.tensor([0, 5, 8, 12])
    key_bounds = torch.tensor([0, 5, 13, 22])
    packed = attend_packed(
        query, key[index], value[index], query_bounds, key_bounds, 5, 9, softmax_scale=0.3, causal=True
    )
    for path, rows in zip(paths, ([], [5, 6, 7], [8, 9, 10, 11]), strict=True):
        q, k, v = (
            each[path].transpose(0, 1).repeat_interleave(heads // each.shape[1], 0)[None]
            for each in (query, key, value)
        )
        whole = scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)[0].transpose(0, 1)
        for place in rows or path:
            torch.testing.assert_close(packed[place], whole[path.index(place)])
    packed.sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in (query, key, value))


def test_attention_sees_no_further_than_its_window() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(6, 1, 4) for _ in range(3))
    bounds = torch.tensor([0, 6])
    near = attend_packed(query, key, value, bounds, bounds, window_size=(1, 0))
    moved = key.clone()
    moved[0] += 9
    far = attend_packed(query, moved, value, bounds, bounds, window_size=(1, 0))
    torch.testing.assert_close(near[2:], far[2:])
    assert not torch.allclose(near[1], far[1])


def test_the_prompts_of_an_evaluation_have_seeds_of_their_own(vllm: VLLMStandIn) -> None:
    """By one seed, different prompts are answered by the same random numbers."""
    config = load_config(given={"policy": str(policy_dir())}, environ={})
    chat = chat_of(config, policy_shell(config), load_tokenizer(config))
    policy = ServedPolicy(vllm.url, chat, max_new_tokens=8, temperature=1.0)
    conversations = [[{"role": "user", "content": "write about dogs ."}]] * 4
    first = policy.answer(conversations)
    assert len(set(vllm.seeds)) == 4 and len({answer.text for answer in first}) > 1
    assert policy.answer(conversations) == first


def test_no_more_is_under_way_than_the_trainer_takes_next() -> None:
    async def start_all(loop: Any) -> tuple[int, int, bool]:
        loop._entry, loop._stop_event = asyncio.Lock(), asyncio.Event()
        starts = [asyncio.ensure_future(loop._has_room()) for _ in range(20)]
        await asyncio.sleep(0.2)
        first = loop._started
        loop._scored, loop.queued = 6, 2  # the trainer has taken four
        await asyncio.sleep(0.2)
        then = loop._started
        loop._stop_event.set()
        return first, then, any((await asyncio.gather(*starts))[then:])

    loop = JudgedRollouts.__new__(JudgedRollouts)
    loop._ahead, loop._planned, loop.num_generations, loop._started, loop._scored = 8, 100, 4, 0, 0
    loop.queued = 0
    loop.rollout_buffer = SimpleNamespace(qsize=lambda: loop.queued)
    # At first as many as a step takes; then one more for each that was taken; none once it is to stop.
    assert asyncio.run(start_all(loop)) == (8, 12, False)


def test_a_worker_that_died_is_not_waited_for() -> None:
    worker = RolloutWorker.__new__(RolloutWorker)
    worker._process = SimpleNamespace(is_alive=lambda: False)
    worker.stop()  # whose event nobody would hear of: there is none here
    assert worker._process is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--algorithm ppo", "not with --algorithm ppo"),
        ("--beta 0.1", "not with --beta 0.1"),
        ("--vllm-server-base-url http://127.0.0.1:9/v1", "without /v1"),
        ("--task math", "the task's verifier none"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_asked(
    flags: str, said: str, tmp_path: Path, prompts: Path, capsys: Any
) -> None:
    address = "" if "base-url" in flags else "--vllm-server-base-url http://127.0.0.1:9"
    given = f"train --trainer async --judge sandbox --baseline iter0 --policy sandbox {flags} {address}"
    data = write_math(tmp_path) if "math" in flags else prompts
    with pytest.raises(SystemExit) as ended:
        main([*given.split(), "--data", str(data), "--run-dir", str(tmp_path / "run")])
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def write_math(folder: Path) -> Path:
    path = folder / "math.jsonl"
    row = {"problem": "What is 1 + 1?", "solution": "It is $\\boxed{2}$.", "type": "Algebra", "level": "1"}
    rows = [row | {"problem": f"What is {number} + 1?"} for number in range(20)]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_a_script_of_the_users_own_is_told_what_to_use_instead() -> None:
    with pytest.raises(ConfigError, match="AsyncGRPOTrainer"):
        open_session({"trainer": "async", "judge": "sandbox", "meta": "sandbox"})


def test_an_asynchronous_run_trains_and_goes_on_after_a_kill(
    vllm: VLLMStandIn, tmp_path: Path, prompts: Path
) -> None:
    with LLMServer(delay=0.02) as server:
        job = start(tmp_path, prompts, "run", server, **ASYNC, vllm_server_base_url=vllm.url)
        wait_for(job, "batch 5/6")
        workers = spawned_by(job.pid)
        job.kill()
        job.communicate()
        assert workers and until(lambda: not any(map(is_running, workers)))
        run = RunDir(tmp_path / "run")
        before = {file.name: file.read_text() for file in (run.path / "rubrics").glob("v*.yaml")}
        paid = len(server.requests)
        said = resume(run.path)
        assert said.returncode == 0, said.stderr
        assert len(server.requests) > paid
    metrics, rollouts = read_rows(run.metrics), read_rows(run.rollouts)
    assert [row["batch"] for row in metrics] == list(range(1, len(metrics) + 1))
    # The worker is ahead by a batch, the trainer's loader by another, then and at the end.
    assert 6 <= len(metrics) <= 9
    # A batch has one version, and versions never go back.
    versions = [row["version"] for row in metrics]
    assert versions == sorted(versions) and versions[-1] > 0
    newest = {(row["batch"], row["row"]): row for row in rollouts}
    for row in metrics:
        of_batch = {each["version"] for key, each in newest.items() if key[0] == row["batch"]}
        assert of_batch == {row["version"]}
    for name, text in before.items():
        assert (run.path / "rubrics" / name).read_text() == text
    # Never more than a step behind.
    assert 0 < max(row.get("staleness") or 0 for row in metrics) <= 1
    # The server has the trainer's weights, not those of the beginning.
    gaps = [row["sampler_kl"] for row in metrics if row.get("sampler_kl") is not None]
    assert gaps and min(gaps) < 0.1 and max(gaps) < 2
    assert weights(run.path, 6) != weights(run.path, 4)
    # Each process publishes its weights under a name of its own, and takes them back.
    assert not vllm.loaded or {name.rsplit("-v", 1)[0] for name in vllm.loaded} == {
        vllm.ever_loaded[0].rsplit("-v", 1)[0]  # those of the killed one
    }
    assert len({name.rsplit("-v", 1)[0] for name in vllm.ever_loaded}) == 2


def test_ctrl_c_ends_an_asynchronous_run_after_its_step(
    vllm: VLLMStandIn, tmp_path: Path, prompts: Path
) -> None:
    with LLMServer(delay=0.02) as server:
        job = start(tmp_path, prompts, "run", server, **ASYNC, vllm_server_base_url=vllm.url)
        wait_for(job, "batch 3/6")
        job.send_signal(signal.SIGINT)
        code, errors = ended(job)
        assert code == 130 and "mpo-lite resume" in errors and "Traceback" not in errors
        run = RunDir(tmp_path / "run")
        step = max(int(path.name.split("-")[1]) for path in run.checkpoints.glob("checkpoint-*"))
        assert step < 6 and run.stop_reason == "stopped on request"
        assert not vllm.loaded
        said = resume(run.path)
        assert said.returncode == 0, said.stderr
    assert (run.checkpoints / "checkpoint-6" / "adapter_model.safetensors").exists()


def test_a_cap_and_a_server_that_dies_end_the_run_with_all_saved(
    vllm: VLLMStandIn, tmp_path: Path, prompts: Path
) -> None:
    run = RunDir(tmp_path / "run")
    with LLMServer(delay=0.02) as server:
        job = start(tmp_path, prompts, "run", server, **ASYNC, vllm_server_base_url=vllm.url, max_calls=70)
        code, errors = ended(job)
        assert code == 3 and "--max-calls" in errors and "Traceback" not in errors
        assert list(run.checkpoints.glob("checkpoint-*/manifest.json"))
        job = start(tmp_path, prompts, "dead", server, **ASYNC, vllm_server_base_url=vllm.url)
        wait_for(job, "batch 2/6")
        vllm.stop()
        code, errors = ended(job)
    assert code == 1 and f"mpo-lite: vLLM at {vllm.url}" in errors


def test_answers_that_cannot_be_judged_teach_nothing(
    vllm: VLLMStandIn, tmp_path: Path, prompts: Path
) -> None:
    def fault(kind: str, body: dict[str, Any]) -> str | None:
        unlucky = kind == "judge" and crc32(prompt_text(body).encode()) % 4 == 0
        return "no verdict" if unlucky or kind == "repair" else None

    with LLMServer(fault=fault) as server:
        job = start(
            tmp_path, prompts, "run", server, **ASYNC, vllm_server_base_url=vllm.url, steps=3,
            max_judge_failures=1.0,
        )  # fmt: skip
        code, errors = ended(job)
        assert code == 0, errors
    rows = read_rows(tmp_path / "run" / "rollouts.jsonl")
    failed = [row for row in rows if row["reward"] is None]
    assert failed and all(row["verdict"]["failure"] for row in failed)
    assert "nan" not in (tmp_path / "run" / "metrics.jsonl").read_text().lower()


def test_a_server_with_another_model_ends_the_run_at_its_first_step(tmp_path: Path, prompts: Path) -> None:
    with VLLMStandIn(is_other_model=True) as vllm, LLMServer() as server:
        job = start(tmp_path, prompts, "run", server, **ASYNC, vllm_server_base_url=vllm.url)
        code, errors = ended(job)
    assert code == 1 and "have vLLM serve the same model" in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("server", "missing"),
    [
        ({"dev_mode": False}, "VLLM_SERVER_DEV_MODE=1"),
        ({"lora": None}, "--enable-lora"),
        ({"lora": LORA | {"max_lora_rank": 8}}, "--max-lora-rank 32"),
        ({"lora": LORA | {"max_loras": 1}}, "--max-loras 3"),
        ({"updating": False}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
    ],
)
def test_a_server_that_cannot_do_it_is_told_how_to_be_started(
    server: dict[str, Any], missing: str, tmp_path: Path, prompts: Path, capsys: Any
) -> None:
    with VLLMStandIn(**server) as vllm, LLMServer() as judge, pytest.raises(SystemExit) as ended:
        main(
            [
                *("train", "--judge", "openai/j", "--judge-api-base", judge.url, "--baseline", "iter0"),
                *("--data", str(prompts), "--policy", "sandbox", "--run-dir", str(tmp_path / "run")),
                *("--trainer", "async", "--vllm-server-base-url", vllm.url),
            ]
        )
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"runs without {missing}; start it by: VLLM_SERVER" in said
    assert not (tmp_path / "run").exists()
