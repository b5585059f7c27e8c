"""Several processes, as torchrun starts them: the same run as one process makes, with one writer per file."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mpo_lite.checkpoints import last_checkpoint
from mpo_lite.jsonl import read_rows
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.ledger import Ledger
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.sandbox.judge_server import running
from tests.support.jobs import arguments, asked, same_run, wait_for, weights
from tests.support.llm_server import LLMServer, completion_of

INJECTED = """
import sys
from peft import LoraConfig
from trl import GRPOConfig
from mpo_lite import GRPO, MPO

url, out, world = sys.argv[1], sys.argv[2], int(sys.argv[3])
TEXTS = ["dogs are useful for people .", "thus moreover therefore dogs .", "we should keep dogs .",
         "people need the bone because it gives trust .", "cats cats cats cats .", "thus thus thus ."]

class Injected(GRPO):
    def _generate_single_turn(self, prompt_ids, *rest, **more):
        told = []
        for row, ids in enumerate(prompt_ids):
            place = sum(ids) + 5 * (row % 4) + self.state.global_step
            text = TEXTS[place % len(TEXTS)]
            told.append(self._tokenizer(text)["input_ids"] + [self._tokenizer.eos_token_id])
        return told, None

mpo = MPO(policy=sys.argv[4], task="sandbox", judge="openai/sandbox-j", judge_api_base=url,
          meta="openai/sandbox-m", meta_api_base=url, run_dir=f"{out}/mpo", cache_dir=f"{out}/cache",
          audit_judge={"model": "openai/sandbox-a", "api_base": url}, audit_share=0.5,
          use_gate=False, schedule="interval", strategy="samples", steps=5, interval=2, batch_prompts=4,
          group_size=4)
args = GRPOConfig(out, num_generations=4, per_device_train_batch_size=16 // world, max_completion_length=24,
                  max_steps=5, shuffle_dataset=False, bf16=False, use_cpu=True, report_to=[],
                  ddp_find_unused_parameters=False, logging_steps=1)
Injected(mpo, sys.argv[4], args=args, peft_config=LoraConfig(target_modules="all-linear")).train()
"""


def torchrun(*command: str, processes: int = 2, **options: Any) -> "subprocess.Popen[str]":
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(launch, start_new_session=True, **pipes, **options)


def workers(launcher: int) -> list[int]:
    """The processes that a launcher has started."""
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True)
    return [int(number) for number in told.stdout.split()]


def done(process: "subprocess.Popen[str]") -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return out


def test_two_processes_make_the_same_run_as_one(tmp_path: Path) -> None:
    script = tmp_path / "injected.py"
    script.write_text(INJECTED)
    with running(seed=0) as url:
        for world in (1, 2):
            out = tmp_path / f"out{world}"
            done(torchrun(str(script), url, str(out), str(world), str(policy_dir()), processes=world))
    one, two = (RunDir(tmp_path / f"out{world}" / "mpo") for world in (1, 2))
    assert read_rows(one.rollouts) == read_rows(two.rollouts)
    assert len(read_rows(one.rollouts)) == 5 * 16
    assert [row["reward"] for row in read_rows(one.metrics)] == [
        row["reward"] for row in read_rows(two.metrics)
    ]
    audits = read_rows(one.audits)
    # The last batch's audit is under way when the run ends.
    assert len(audits) == 4 * 8 and audits == read_rows(two.audits)
    gaps = [[row.get("audit_gap") for row in read_rows(run.metrics)] for run in (one, two)]
    assert gaps[0] == gaps[1] and gaps[0][-1] is not None
    steps = read_rows(one.lineage)
    assert len(steps) == 2 and steps == read_rows(two.lineage)  # samples, proposals, hashes
    for path in (one.path / "rubrics").glob("*.yaml"):
        assert path.read_bytes() == (two.path / "rubrics" / path.name).read_bytes()
    # Each process accounts for its own calls; together they are those of one.
    accounts = [read_rows(path) for path in two.ledgers().values()]
    assert len(accounts) == 2 and all(accounts)
    spent = [row["judge_calls"] for row in read_rows(two.metrics)]
    assert spent == [row["judge_calls"] for row in read_rows(one.metrics)]
    assert json.loads((two.path / "env.json").read_text())["processes"] == 2


def two(tmp_path: Path, prompts: Path, name: str, server: LLMServer, **settings: Any) -> Sequence[str]:
    flags = [
        *("--judge", "openai/j", "--judge-api-base", server.url),
        *("--meta", "openai/m", "--meta-api-base", server.url),
    ]
    return ["-m", "mpo_lite", *arguments(tmp_path, prompts, name, **settings), *flags]


def test_two_killed_processes_go_on_to_the_same_bits(tmp_path: Path, prompts: Path) -> None:
    settings: dict[str, Any] = {
        "micro_batch": 4,
        "num_iterations": 2,
        "trl.gradient_accumulation_steps": 1,
        "trl.steps_per_generation": 2,
    }
    with LLMServer(delay=0.02) as server:
        done(torchrun(*two(tmp_path, prompts, "whole", server, **settings)))
        killed = torchrun(*two(tmp_path, prompts, "killed", server, **settings))
        wait_for(killed, "batch 3/6")
        for process in (*workers(killed.pid), killed.pid):
            os.kill(process, signal.SIGKILL)
        killed.communicate()
        already = len(asked(server))
        done(torchrun("-m", "mpo_lite", "resume", str(tmp_path / "killed"), "--json"))
        assert len(asked(server)) > already
    same_run(tmp_path, "whole", "killed", step=24)
    last = tmp_path / "killed" / "checkpoints" / "checkpoint-24"
    listed = json.loads((last / "manifest.json").read_text())["files"]  # of what both have saved
    assert (
        {"rng_state_0.pth", "rng_state_1.pth"}
        < set(listed)
        == {path.name for path in last.iterdir()} - {"manifest.json"}
    )


def test_a_cap_holds_for_all_processes_together(tmp_path: Path, prompts: Path) -> None:
    with LLMServer() as server:
        capped = torchrun(*two(tmp_path, prompts, "capped", server, max_calls=60))
        _, errors = capped.communicate(timeout=300)
        assert capped.returncode != 0
        assert "--max-calls 60 reached" in errors
        assert errors.count("mpo-lite: --max-calls") == 1  # one of them speaks
        run = RunDir(tmp_path / "capped")
        calls = [row for path in run.ledgers().values() for row in read_rows(path)]
        assert 16 < len(calls) <= 60
        assert last_checkpoint(run) is not None
        done(torchrun("-m", "mpo_lite", "resume", str(run.path), "--max-calls", "1000", "--json"))
        done(torchrun(*two(tmp_path, prompts, "whole", server)))
    assert weights(tmp_path / "capped") == weights(tmp_path / "whole")


def test_ctrl_c_stops_all_processes_at_one_border(tmp_path: Path, prompts: Path) -> None:
    with LLMServer(delay=0.02) as server:
        stopped = torchrun(*two(tmp_path, prompts, "stopped", server))
        wait_for(stopped, "batch 2/6")
        os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does: launcher and workers alike
        _, errors = stopped.communicate(timeout=120)
        assert "resume with: mpo-lite resume" in errors
        done(torchrun("-m", "mpo_lite", "resume", str(tmp_path / "stopped"), "--json"))
        done(torchrun(*two(tmp_path, prompts, "whole", server)))
    same_run(tmp_path, "whole", "stopped")


@pytest.mark.parametrize(("processes", "others", "most"), [(1, 0, 100), (2, 30, 35), (4, 60, 10)])
def test_processes_share_what_a_cap_leaves(processes: int, others: int, most: int) -> None:
    budget = Budget(Ledger(), max_calls=100)
    budget.divide({"usd": 0.0, "calls": others, "tokens": 0}, processes)
    assert not budget._find_exceeded_cap({"usd": 0.0, "calls": most, "tokens": 0})
    assert budget._find_exceeded_cap({"usd": 0.0, "calls": most + 1, "tokens": 0})


def failing_on(mark: str) -> Callable[[str, Any], Any]:
    return lambda kind, body: "no JSON" if kind == "repair" or mark in completion_of(body) else None


TWO_RANKS = """
import sys
from pathlib import Path
import torch.distributed
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import StopRun
from mpo_lite.judge.base import Sample
from mpo_lite.llm import request
from mpo_lite.run_dir import RunDir
from mpo_lite.loop.reward import score_batch
from mpo_lite.loop.context import prepare_run
from mpo_lite.loop.session import Session

rank, folder, url, mark = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
request._wait = lambda state: 0.01
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
given = {"judge": "openai/m", "judge_api_base": url, "baseline": "iter0", "breaker_pause": 0.0}
given |= {"data": str(folder / "data.jsonl"), "cache_dir": folder / f"cache{rank}", "concurrency": 10}
context = prepare_run(load_config(given=given, environ={}))
session = Session(context, RunDir.create(folder / f"run{rank}", Config(), {}))
print("ceiling", context.models.client._sender._limiters["x"]._ceiling)
marks = [mark if rank == 0 and row < 6 else "" for row in range(16)]
samples = [Sample(f"prompt {row // 4}", f"answer {rank} {row} {marks[row]}") for row in range(16)]
try:
    score_batch(session, samples, 4)
    print("scored")
except StopRun as stop:
    print(type(stop).__name__, stop)
session.close()
"""


ASSISTED = """
import sys
import torch.distributed
from mpo_lite.errors import ConfigError
from mpo_lite.loop.distributed import rank, run_assisted

place = f"file://{sys.argv[2]}/meet"
torch.distributed.init_process_group("gloo", init_method=place, rank=int(sys.argv[1]), world_size=2)
asked = []

def assist(question):
    asked.append(question)
    return f"{question} in {rank()}"

def refuse(ask):
    ask("third")
    raise ConfigError("refused")

print(run_assisted(lambda ask: [ask("first"), ask("second")], assist))
try:
    run_assisted(refuse, assist)
except ConfigError as error:
    print(error, asked)
"""


def test_all_processes_assist_where_the_lead_asks(tmp_path: Path) -> None:
    first, second = ranks(ASSISTED, tmp_path)
    assert first == second == ["['first in 0', 'second in 0']", "refused ['first', 'second', 'third']"]


def ranks(source: str, folder: Path, *more: str) -> list[list[str]]:
    """What two processes print that run a script, given their rank, the folder and ``more``."""
    script = folder / "rank.py"
    script.write_text(source)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder), *more],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"WORLD_SIZE": "2", "RANK": str(rank)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    return [process.communicate(timeout=120)[0].splitlines() for process in processes]


def two_ranks(server: LLMServer, folder: Path, mark: str) -> list[list[str]]:
    (folder / "data.jsonl").write_text(
        "".join(json.dumps({"prompt": f"prompt {n}"}) + "\n" for n in range(10))
    )
    return ranks(TWO_RANKS, folder, server.url, mark)


def test_the_breaker_opens_in_all_processes_or_in_none(tmp_path: Path) -> None:
    with LLMServer(failing_on("FAILS")) as server:
        first, second = two_ranks(server, tmp_path, "FAILS")
    # Six of one process's 16 fail: of both, six of 32. Both say so and stop.
    assert first == second
    assert first[0] == "ceiling 5"
    assert first[1].startswith("JudgeDown 6 of 32 not judged: 6 malformed")


def test_a_reason_to_stop_in_one_process_stops_all(tmp_path: Path) -> None:
    def fault(kind: str, body: Any) -> Any:
        locked = "LOCKED" in completion_of(body)
        return web.json_response({"error": {"message": "key"}}, status=401) if locked else None

    with LLMServer(fault) as server:
        first, second = two_ranks(server, tmp_path, "LOCKED")
    assert first[1] == second[1] and first[1].startswith("JudgeDown openai/m at ")
