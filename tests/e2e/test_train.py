"""The main job from end to end: real training of the tiny policy, judged over HTTP through LiteLLM."""

import json
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from trl import GRPOTrainer

from mpo_lite.checkpoints import last_checkpoint
from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import Interrupted
from mpo_lite.jsonl import read_rows
from mpo_lite.loop.context import prepare_run
from mpo_lite.loop.judging import judge_samples
from mpo_lite.loop.session import Session
from mpo_lite.loop.signals import stoppable
from mpo_lite.prompts import prompts_dir
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.training.callback import MPOCallback
from mpo_lite.training.mpo import MPO
from tests.support.jobs import Train, asked, ended, resume, same_run, start, wait_for, weights
from tests.support.llm_server import LLMServer, completion_of, fails_on_every


def test_real_prompts_train_against_an_openai_judge_and_an_anthropic_meta_judge(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLMServer(key="judge-key") as judge, LLMServer(key="meta-key") as meta:
        monkeypatch.setenv("MPO_JUDGE_API_KEY", "judge-key")
        monkeypatch.setenv("MPO_META_API_KEY", "meta-key")
        summary = train("--judge", "openai/some-judge", "--judge-api-base", judge.url,
                        "--meta", "claude", "--meta-api-base", meta.root)  # fmt: skip
        assert {body["model"] for body in meta.requests} == {"claude-sonnet-4-5-20250929"}
    run = RunDir(tmp_path / "run")
    rows = read_rows(run.metrics)
    assert (summary["steps"], summary["judge_failures"], summary["usd"]) == (6, 0, None)
    assert [row["batch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= row["reward"] <= 1 and row["kl"] is not None for row in rows)
    assert [row["version"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert summary["rubric_version"] == 2 == read_rows(run.lineage)[-1]["version"]
    assert len(read_rows(run.rollouts)) == 6 * 16
    assert not list(run.path.rglob("training_args.bin"))
    written = "".join(
        path.read_text() for path in run.path.rglob("*") if path.suffix in (".jsonl", ".json", ".yaml")
    )
    assert "judge-key" not in written and "meta-key" not in written
    assert "anthropic/claude-sonnet-4-5-20250929" in (run.path / "config.yaml").read_text()


def test_two_judges_in_two_runs_differ_only_by_the_environment(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for name in ("one", "two"):
        with LLMServer() as server:
            monkeypatch.setenv("MPO_JUDGE", f"openai/{name}")
            monkeypatch.setenv("MPO_JUDGE_API_BASE", server.url)
            train("--baseline", "iter0", name=name, steps=1)
            asked.append({body["model"] for body in server.requests})
    assert asked == [{"one"}, {"two"}]


def test_a_run_begun_with_relative_paths_resumes_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.jsonl").write_text("".join(f'{{"prompt": "question {n}"}}\n' for n in range(9)))
    monkeypatch.chdir(tmp_path)
    flags = ["--judge", "sandbox", "--policy", "sandbox", "--baseline", "iter0", "--data", "data.jsonl"]
    small = ["-o", "batch_prompts=1", "-o", "max_new_tokens=16", "--group-size", "4", "--steps", "1"]
    main(["train", *flags, *small, "--run-dir", "run", "--cache-dir", "cache"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(["resume", str(tmp_path / "run"), "--steps", "2", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 2
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_panel_at_two_addresses_stops_at_its_cap_on_tokens_and_resumes(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def harsh(kind: str, body: Any) -> str | None:
        return json.dumps({"discourse": {"reason": "weak", "level": 0}}) if kind == "judge" else None

    with LLMServer() as one, LLMServer(harsh, key="second-key") as other:
        monkeypatch.setenv("SECOND_KEY", "second-key")
        monkeypatch.setenv(
            "MPO_JUDGE",
            f"[{{model: openai/one, api_base: '{one.url}'}}, "
            f"{{model: openai/two, api_base: '{other.url}', api_key_env: SECOND_KEY}}]",
        )
        with pytest.raises(SystemExit, match="3"):
            train("--baseline", "iter0", "--max-tokens", "19400")
        errors = capsys.readouterr().err
        assert "spent; the run stops at the cap" in errors
        assert "--max-tokens 19400 reached" in errors
        main(["resume", str(tmp_path / "run"), "--max-tokens", "1000000", "--json"])
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 6
        for server in (one, other):
            asked = server.prompts("judge")
            assert len(asked) == len(set(asked)) > 80  # nothing twice, and nearly all rows differ
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert all(row["judge"] == "openai/one + openai/two" and row["disagreement"] > 0 for row in rows)
    assert "second-key" not in (tmp_path / "run" / "config.yaml").read_text()


def committed(cache: Path) -> int:
    """Answers in a cache."""
    with closing(sqlite3.connect(cache / "answers" / "cache.db")) as database:
        return database.execute("SELECT COUNT(*) FROM Cache").fetchone()[0]


@pytest.mark.parametrize("after", ["batch 1/6", "batch 3/6", "batch 5/6"])
def test_a_killed_run_resumes_to_the_same_bits_and_asks_nothing_twice(
    tmp_path: Path, prompts: Path, after: str
) -> None:
    several = {"trl": "{num_iterations: 2}"} if after == "batch 3/6" else {}
    with LLMServer(delay=0.02) as server:
        assert ended(start(tmp_path, prompts, "whole", server, **several))[0] == 0
        server.requests.clear()
        killed = start(tmp_path, prompts, "killed", server, **several)
        wait_for(killed, after)
        time.sleep(0.12)  # somewhere in the next batch
        killed.send_signal(signal.SIGKILL)
        ended(killed)
        time.sleep(0.5)  # what is on its way to the server still arrives
        before, kept = len(asked(server)), committed(tmp_path / "killed-cache")
        result = resume(tmp_path / "killed")
        assert result.returncode == 0, result.stderr
        everything = asked(server)
    # What is asked after the kill is exactly what was not committed before it.
    assert len(everything) - before == len(set(everything)) - kept
    same_run(tmp_path, "whole", "killed", step=12 if several else 6)


def test_a_cap_stops_with_exit_code_3_and_more_budget_resumes_to_the_same_bits(
    tmp_path: Path, prompts: Path
) -> None:
    with LLMServer() as server:
        assert ended(start(tmp_path, prompts, "whole", server))[0] == 0
        capped = start(tmp_path, prompts, "capped", server, max_calls=60)
        code, errors = ended(capped)
        assert code == 3
        assert "--max-calls 60 reached" in errors
        assert "Traceback" not in errors
        assert last_checkpoint(RunDir(tmp_path / "capped")) is not None
        assert len(read_rows(tmp_path / "capped" / "calls.jsonl")) == 60
        again = resume(tmp_path / "capped")
        assert again.returncode == 3  # the cap still holds: what was spent before counts
        assert resume(tmp_path / "capped", "--max-calls", "1000").returncode == 0
    same_run(tmp_path, "whole", "capped")


def test_ctrl_c_saves_and_resumes_to_the_same_bits(tmp_path: Path, prompts: Path) -> None:
    with LLMServer(delay=0.02) as server:
        assert ended(start(tmp_path, prompts, "whole", server))[0] == 0
        stopped = start(tmp_path, prompts, "stopped", server)
        wait_for(stopped, "batch 3/6")
        stopped.send_signal(signal.SIGINT)
        code, errors = ended(stopped)
        assert code == 130, errors
        assert "resume with: mpo-lite resume" in errors and "Traceback" not in errors
        assert resume(tmp_path / "stopped").returncode == 0
    same_run(tmp_path, "whole", "stopped")


def test_a_request_to_stop_is_not_lost_while_the_processes_are_asked(
    open_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLMServer() as server:
        session = open_session(server)

        def signal_comes_meanwhile(value: object) -> list[object]:
            session.interrupt()
            return [value]

        monkeypatch.setattr("mpo_lite.training.callback.all_gather", signal_comes_meanwhile)
        state: Any = SimpleNamespace(global_step=0)
        with pytest.raises(Interrupted):
            MPOCallback(session).on_step_begin(SimpleNamespace(), state, SimpleNamespace(), model=None)


def test_a_request_to_stop_is_answered_from_a_thread_of_its_own() -> None:
    """Whoever writes in a signal's handler may enter a write that it interrupted, which Python refuses."""
    writers: list[threading.Thread] = []
    state = SimpleNamespace(interrupted=False)
    session: Any = SimpleNamespace(
        state=state,
        context=SimpleNamespace(note=lambda text: writers.append(threading.current_thread())),
        interrupt=lambda: setattr(state, "interrupted", True),
    )
    with stoppable(session, "stopping"):
        signal.raise_signal(signal.SIGINT)
    assert state.interrupted
    while not writers:
        time.sleep(0.01)
    assert writers != [threading.main_thread()]


def test_a_batchs_figures_reach_the_trainers_log(train: Train, tmp_path: Path) -> None:
    train("--judge", "sandbox", "--baseline", "iter0", steps=2)
    state = json.loads((tmp_path / "run/checkpoints/checkpoint-2/trainer_state.json").read_text())
    logged = [row for row in state["log_history"] if "mpo/rubric_version" in row]
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert len(logged) == len(rows) == 2
    for told, row in zip(logged, rows, strict=True):
        assert told["mpo/rubric_version"] == row["version"] and told["mpo/alarms"] == len(row["alarms"])
        for name in ("reward", "spread", "judge_failures", "judge_calls", "usd"):
            assert told[f"mpo/{name}"] == pytest.approx(row[name], abs=1e-6)


def test_gold_reaches_the_trainers_log(tmp_path: Path) -> None:
    """With the batch after the one it was measured at: the log of that one is written by then."""
    small = ["-o", "batch_prompts=4", "-o", "micro_batch=16", "-o", "eval_every=1", "--group-size", "4"]
    names = [part for name in ("judge", "task", "policy") for part in (f"--{name}", "sandbox")]
    places = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    main(["train", *names, "--baseline", "iter0", "--steps", "2", *small, *places])
    state = json.loads((tmp_path / "run/checkpoints/checkpoint-2/trainer_state.json").read_text())
    told = [row["mpo/gold"] for row in state["log_history"] if "mpo/gold" in row]
    assert told == pytest.approx([row["gold"] for row in read_rows(tmp_path / "run/gold.jsonl")][:2])


def test_a_stop_file_ends_the_run_which_can_go_on(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lay_down(kind: str, body: Any) -> None:
        if len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 1:
            (tmp_path / "run" / "STOP").touch()

    with LLMServer(lay_down) as server:
        flags = ("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0")
        with pytest.raises(SystemExit) as stopped:
            train(*flags, steps=4)
        assert stopped.value.code == 130 and "resume with: mpo-lite resume" in capsys.readouterr().err
        assert 2 <= len(read_rows(tmp_path / "run" / "metrics.jsonl")) < 4
        main(["resume", str(tmp_path / "run"), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 4


def test_a_judge_that_fails_on_a_tenth_costs_no_other_completion_its_score(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"steps": 2, "batch_prompts": 12, "micro_batch": 48}
    with LLMServer() as server:
        flags = ("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0")
        train(*flags, name="healthy", **settings)
        server.fault = fails_on_every(10)
        summary = train(*flags, name="failing", max_judge_failures=0.4, **settings)
        healthy, failing = (
            read_rows(tmp_path / name / "rollouts.jsonl")[:48] for name in ("healthy", "failing")
        )
        failed = [row["id"] for row in failing if row["verdict"]["failure"]]
        assert summary["judge_failures"] == sum(summary["failures"].values()) >= len(failed) > 0
        for before, after in zip(healthy, failing, strict=True):
            assert after["completion"] == before["completion"]
            assert after["verdict"]["reward"] == (
                None if after["id"] in failed else before["verdict"]["reward"]
            )
        # At the default limit, the same judge stops the run, with its reason.
        with pytest.raises(SystemExit) as stopped:
            train(*flags, name="stopped", **settings)
        assert stopped.value.code == 1
        assert "malformed, more than --max-judge-failures" in capsys.readouterr().err


def test_a_judge_that_breaks_down_midway_leaves_a_checkpoint_to_go_on_from(
    tmp_path: Path, prompts: Path
) -> None:
    def breaks_down(kind: str, body: Any) -> str | None:
        late = len(read_rows(tmp_path / "broken" / "metrics.jsonl")) >= 3
        return "I would rather not say." if late and kind in ("judge", "repair") else None

    with LLMServer() as server:
        assert ended(start(tmp_path, prompts, "whole", server))[0] == 0
        server.fault = breaks_down
        broken = start(tmp_path, prompts, "broken", server)
        code, errors = ended(broken)
        assert code == 1
        assert "malformed, more than --max-judge-failures 0.05 allows; 'mpo-lite doctor'" in errors
        checkpoint = last_checkpoint(RunDir(tmp_path / "broken"))
        assert checkpoint is not None and checkpoint.name == "checkpoint-3"
        server.fault = lambda kind, body: None
        assert resume(tmp_path / "broken").returncode == 0
    same_run(tmp_path, "whole", "broken")


def test_trl_gives_rows_without_a_reward_no_advantage(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """What we rest on in TRL's private part; fails when TRL changes it."""
    rewards: list[list[float | None]] = []
    advantages: list[list[float]] = []
    reward, generate = MPO.reward, GRPOTrainer._generate_and_score_completions

    def watched_reward(self: MPO, **inputs: Any) -> list[float | None]:
        rewards.append(reward(self, **inputs))
        return rewards[-1]

    def watched_generate(self: GRPOTrainer, inputs: Any) -> Any:
        output = generate(self, inputs)
        advantages.append(output["advantages"].tolist())
        return output

    monkeypatch.setattr(MPO, "reward", watched_reward)
    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", watched_generate)
    with LLMServer(fails_on_every(5)) as server:
        train(
            "--judge",
            "openai/j",
            "--judge-api-base",
            server.url,
            "--baseline",
            "iter0",
            steps=2,
            max_judge_failures=0.5,
        )
    for batch, given in zip(rewards, advantages, strict=True):
        assert None in batch
        for first in range(0, len(batch), 4):
            group, moved = batch[first : first + 4], given[first : first + 4]
            known = [value for value in group if value is not None]
            mean = sum(known) / len(known) if known else 0.0
            for value, advantage in zip(group, moved, strict=True):
                # A row counts above or below the mean of those that were judged, or not at all.
                expected = 0 if value is None else (value > mean + 1e-6) - (value < mean - 1e-6)
                assert (advantage > 1e-6) - (advantage < -1e-6) == expected


def test_a_row_without_a_reward_puts_no_prompt_into_the_log(tmp_path: Path, prompts: Path) -> None:
    """TRL warns of such rows by printing them; the filter on that fails to match when TRL changes it."""
    with LLMServer(fails_on_every(5)) as server:
        code, said = ended(start(tmp_path, prompts, "run", server, steps=1, max_judge_failures=1.0))
    assert code == 0
    rollout = read_rows(tmp_path / "run" / "rollouts.jsonl")[0]
    assert any(row["reward"] is None for row in read_rows(tmp_path / "run" / "rollouts.jsonl"))
    assert rollout["prompt"] not in said and rollout["completion"] not in said


def test_changed_prompts_are_noticed_on_resume(
    tmp_path: Path, prompts: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text("".join(f'{{"prompt": "question {n}"}}\n' for n in range(9)))
    flags = ("--judge", "sandbox", "--baseline", "iter0", "--data", str(own))
    train(*flags, steps=2)
    own.write_text("".join(f'{{"prompt": "question {n}"}}\n' for n in range(8)))
    with pytest.raises(SystemExit) as stopped:
        main(["resume", str(tmp_path / "run"), "--steps", "4"])
    assert stopped.value.code == 2
    assert "its data is no longer what it was trained on" in capsys.readouterr().err


def test_the_cluster_of_a_prompt_reaches_the_journal(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "task"
    shutil.copytree(prompts_dir() / "tasks" / "essay", folder)
    own = (folder / "task.yaml").read_text().replace("  held_out: 64", "  cluster: kind\n  held_out: 64")
    (folder / "task.yaml").write_text(own)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"prompt": "question {n}", "kind": "k{n % 2}"}}\n' for n in range(12)))
    train("--judge", "sandbox", "--baseline", "iter0", "--task", str(folder), "--data", str(data), steps=1)
    rows = read_rows(tmp_path / "run" / "rollouts.jsonl")
    assert {(row["prompt"], row["cluster"]) for row in rows} <= {
        (f"question {n}", f"k{n % 2}") for n in range(12)
    }
    assert {row["cluster"] for row in rows} == {"k0", "k1"}


UNUSABLE = {
    "lora_target_modules=nothing": "lora or trl",
    "micro_batch=3": "micro_batch 3: batch_prompts x group_size = 16 completions must make",
    "trl.no_such_field=1": "no_such_field",
    "trl.gradient_accumulation_steps=0": "trainer: ",
    "trl.num_iterations=x": "trl.num_iterations 'x': must be a whole number",
    "trl.generation_batch_size=32": "a generation batch would hold 32 completions in groups of 4",
    "trl.eval_strategy=steps": "lora or trl",
    "trl.max_steps=3": "set by mpo-lite itself",
}


@pytest.mark.parametrize("setting", UNUSABLE)
def test_settings_that_cannot_work_are_one_line_and_leave_the_folder_free(
    setting: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--judge", "sandbox", "--baseline", "iter0")
    with pytest.raises(SystemExit) as stopped:
        train(*flags, "-o", setting, steps=1)
    said = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2
    assert said.startswith("mpo-lite: ") and UNUSABLE[setting] in said
    assert not RunDir(tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model.safetensors", "policy "),
        ("tokenizer.json", "policy "),
        ("chat_template.jinja", "its tokenizer has no chat template"),
    ],
)
def test_a_policy_that_cannot_be_used_is_one_line(
    lost: str, message: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(policy_dir(), policy)
    (policy / lost).unlink()
    with pytest.raises(SystemExit) as stopped:
        train("--judge", "sandbox", "--baseline", "iter0", "--policy", str(policy), steps=1)
    said = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and said.startswith("mpo-lite: ") and message in said


def test_a_wrong_key_stops_in_one_line_before_a_model_is_loaded(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPO_JUDGE_API_KEY", "sk-wrong-key")
    with LLMServer(key="right") as server, pytest.raises(SystemExit) as stopped:
        train("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0")
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert "mpo-lite: openai/j at" in output.err and "MPO_JUDGE_API_KEY" in output.err
    assert "sk-wrong-key" not in output.err + output.out and "loading" not in output.err
    assert not (tmp_path / "run").exists()


def test_a_batch_without_spread_moves_no_weight(train: Train, tmp_path: Path) -> None:
    """Momentum would move weights on a zero gradient: after two batches that teach come two that cannot."""
    flat = json.dumps({"discourse": {"reason": "the same for all", "level": 0}})  # as empty answers get

    def same_for_late_batches(kind: str, body: Any) -> str | None:
        late = len(read_rows(tmp_path / "run" / "metrics.jsonl")) >= 2
        # Short answers come again, and then from the cache: they get the same level from the beginning.
        return flat if late or len(completion_of(body).split()) < 5 else None

    with LLMServer(same_for_late_batches) as server:
        train("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0", steps=4, beta=0.0)
    run = tmp_path / "run"
    spreads = [row["spread"] for row in read_rows(run / "metrics.jsonl")]
    assert min(spreads[:2]) > 0 == max(spreads[2:])
    assert weights(run, 2) == weights(run, 4)


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_finished_run_is_complete_and_can_be_trained_on(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    with LLMServer() as server:
        flags = ("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0")
        first = train(*flags, steps=2, trl="{lr_scheduler_type: cosine}")
        server.requests.clear()
        with monkeypatch.context() as patch:
            patch.setattr("mpo_lite.training.job.Session", None)  # nothing is loaded or asked
            main(["resume", str(run.path), "--json"])
            output = capsys.readouterr()
            told_again = json.loads(output.out.splitlines()[-1])
            assert (
                f"complete: all 2 batches are done; to train longer: mpo-lite resume {run.path} --steps"
                in output.err
            )
            assert {**first, "seconds": 0.0} == told_again
            with pytest.raises(SystemExit, match="2"):
                main(["resume", str(run.path), "--steps", "1"])
            assert "--steps 1: " in capsys.readouterr().err
        assert server.requests == []
        main(["resume", str(run.path), "--steps", "4", "--max-calls", "500", "--json"])
        output = capsys.readouterr()
        assert json.loads(output.out.splitlines()[-1])["steps"] == 4
        assert "steps: 2 -> 4, from batch 3 on" in output.err
        assert "max_calls: none -> 500, from batch 3 on" in output.err
        assert "learning rate schedule 'cosine' now spans 4 batches instead of 2" in output.err
        assert "estimated" not in output.err
    settings = load_config(run.path / "config.yaml", environ={})
    assert (settings.steps, settings.max_calls) == (4, 500)
    before = load_config(run.path / "superseded" / "config-until-2.yaml", environ={})
    assert (before.steps, before.max_calls) == (2, None)
    main(["resume", str(run.path), "--json"])
    assert told(capsys)["steps"] == 4


def test_a_cap_that_is_used_up_stops_a_resumed_run_at_once(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LLMServer() as server:
        flags = ("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0")
        with pytest.raises(SystemExit, match="3"):
            train(*flags, steps=4, max_calls=20)
        said = capsys.readouterr().err
        assert "the cap of 20 calls pays for about 1 of 4 batches" in said
        assert f"saved; resume with: mpo-lite resume {tmp_path / 'run'} --max-calls 40" in said
        server.requests.clear()
        with pytest.raises(SystemExit, match="3"):
            main(["resume", str(tmp_path / "run")])
        said = capsys.readouterr().err
        assert "--max-calls 20 reached: 20 calls spent" in said
        assert server.requests == [] and "loading" not in said
        main(["resume", str(tmp_path / "run"), "--max-calls", "500", "--json"])
    assert told(capsys)["steps"] == 4


DOWN = {
    "no quota": lambda kind, body: web.json_response(
        {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, status=429
    ),
    "a wrong key": lambda kind, body: web.json_response({"error": {"message": "no"}}, status=401),
    "errors": lambda kind, body: web.json_response({"error": {"message": "no"}}, status=500),
}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("kind", [*DOWN, "no connection"])
def test_the_fallback_judge_takes_over_at_the_start(
    kind: str, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    with LLMServer(DOWN.get(kind, lambda kind, body: None)) as down, LLMServer() as other:
        address = "http://127.0.0.1:9/v1" if kind == "no connection" else down.url
        given = {"judge": "openai/first", "judge_api_base": address, "baseline": "iter0"}
        given |= {"judge_fallback": {"model": "openai/second", "api_base": other.url}, "data": str(prompts)}
        context = prepare_run(
            load_config(given=given | {"cache_dir": tmp_path / "cache"}, environ={}),
            lambda kind, row: notes.append(row["text"]),
        )
        try:
            context.check_models()
            session = Session(context, RunDir.create(tmp_path / "run", Config(), {}))
            assert context.models.judged_by == "openai/second"
            verdicts = judge_samples(session, [context.sample("Write.", "An answer of some words.")])
            assert verdicts[0].judge == "openai/second" and verdicts[0].reward is not None
        finally:
            context.close()
    (note,) = notes
    assert "openai/first at " in note and note.endswith("; openai/second judges instead")


@pytest.mark.usefixtures("quick_retries")
def test_a_run_judged_by_its_fallback_from_the_start_resumes(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LLMServer(DOWN["a wrong key"]) as down, LLMServer() as other:
        fallback = f"{{model: openai/second, api_base: '{other.url}'}}"
        flags = ("--judge", "openai/first", "--judge-api-base", down.url, "--baseline", "iter0")
        train(*flags, steps=2, judge_fallback=fallback)
        main(["resume", str(tmp_path / "run"), "--steps", "3", "--json"])
    assert told(capsys)["steps"] == 3
    rows = read_rows(tmp_path / "run" / "rollouts.jsonl")
    assert {row["verdict"]["judge"] for row in rows if row["verdict"]["source"] == "judge"} == {
        "openai/second"
    }


def test_a_withdrawn_run_leaves_its_folder_free(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--judge", "sandbox", "--baseline", "iter0")
    with pytest.raises(SystemExit, match="2"):
        train(*flags, "-o", "lora_target_modules=nothing", steps=1)
    capsys.readouterr()
    assert train(*flags, steps=1)["steps"] == 1
