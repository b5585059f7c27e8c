"""All three algorithms: what they rest on in TRL, judging while generating, and going on after a kill."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOTrainer, RLOOTrainer

from mpo_lite.cli.main import main
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.training.trainers import PrefetchMixin
from mpo_lite.training.trl_args import LOSSES
from tests.support.jobs import Train, asked, ended, resume, same_run, start, wait_for
from tests.support.llm_server import LLMServer

ALGORITHMS = ("grpo", "rloo", "ppo")


def test_trl_knows_the_losses_we_let_pass() -> None:
    """TRL itself finds an unknown one only while it trains."""
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "Unknown loss type" in source and all(f'"{name}"' in source for name in LOSSES)


@pytest.mark.parametrize("trainer", [GRPOTrainer, RLOOTrainer])
def test_trls_methods_are_those_we_override(trainer: Any) -> None:
    """Fails when TRL changes what our trainers wrap: then they have to be looked at again."""
    of_grpo = trainer is GRPOTrainer
    expected = {
        "_generate_and_score_completions": ["inputs"],
        "_generate": ["prompts"],
        "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields"]
        + (["num_generations", "has_tool_images"] if of_grpo else []),
        "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
        "_compute_loss": ["model", "inputs"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(trainer, name)).parameters)[1:] == parameters, name
    scoring = list(inspect.signature(trainer._get_per_token_logps_and_entropies).parameters)
    assert scoring[1:6] == ["model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]
    text = inspect.getsource(trainer)
    # Generation goes through the unwrapped model's generate, with the arguments we pass on.
    assert "unwrapped_model.generate(\n                    **generate_inputs, generation_config=" in text
    assert "def _save_checkpoint(self, model, trial)" in text
    if of_grpo:  # PPO: advantages per token, masked by tool_mask, KL only where beta is not 0
        loss = inspect.getsource(trainer._compute_loss)
        assert "if advantages.dim() == 1:" in loss
        assert 'completion_mask if "tool_mask" not in inputs' in loss
        assert loss.count("self.beta != 0.0") == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_judging_while_generating_changes_nothing_but_when(
    algorithm: str, train: Train, tmp_path: Path
) -> None:
    judged: dict[str, list[str]] = {}
    for name in ("overlap", "no-overlap"):
        with LLMServer() as server:
            train(
                *("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0"),
                *("--algorithm", algorithm, f"--{name}"),
                name=name,
                steps=3,
            )
            judged[name] = sorted(asked(server))
    # Twins of the nonce key: each cache has its own, so prompts are compared by what is judged.
    one, other = RunDir(tmp_path / "overlap"), RunDir(tmp_path / "no-overlap")
    assert len(judged["overlap"]) == len(judged["no-overlap"]) > 0
    assert read_rows(one.rollouts) == read_rows(other.rollouts)
    for before, after in zip(read_rows(one.metrics), read_rows(other.metrics), strict=True):
        for name in ("reward", "loss", "kl", "grad_norm", "logprob_gap"):
            assert before[name] == after[name], name
        assert before["logprob_gap"] != 0


@pytest.mark.parametrize("mode", ["pointwise", "groupwise"])
def test_completions_are_sent_before_their_batch_is_whole(
    mode: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[int] = []
    generate = PrefetchMixin._generate_single_turn

    with LLMServer() as server:

        def watched(self: Any, *arguments: Any, **options: Any) -> Any:
            told = generate(self, *arguments, **options)
            whole.append(len(asked(server)))
            return told

        monkeypatch.setattr(PrefetchMixin, "_generate_single_turn", watched)
        # Answers end at different times, some of them only at the limit, long after the first was judged.
        train(
            *("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0"),
            *("--judge-mode", mode),
            steps=2,
            max_new_tokens=40,
            batch_prompts=8,
            micro_batch=32,
        )
        per_batch = 32 if mode == "pointwise" else 8
        assert len(set(asked(server))) == len(asked(server)) <= 2 * per_batch  # nothing is asked for twice
        assert 0 < whole[0] < whole[1] < len(asked(server)) and whole[0] < per_batch


def test_what_a_user_pays_for_a_cut_answer_is_taken_off(
    train: Train, tmp_path: Path, monkeypatch: Any
) -> None:
    from mpo_lite.training.mpo import MPO

    given: list[tuple[float | None, bool]] = []
    reward = MPO.reward

    def watched(self: MPO, **inputs: Any) -> list[float | None]:
        told = reward(self, **inputs)
        # As long as may be, and yet without its end: one may end with the very last token.
        cut = [len(ids) == 24 and ids[-1] not in self.callback.chat.ends for ids in inputs["completion_ids"]]
        given.extend(zip(told, cut, strict=True))
        return told

    monkeypatch.setattr(MPO, "reward", watched)
    train(
        *("--judge", "sandbox", "--baseline", "iter0", "--missing-eos-penalty", "0.3"),
        steps=1,
        max_new_tokens=24,
    )
    rows = read_rows(tmp_path / "run" / "rollouts.jsonl")
    assert {cut for _, cut in given} == {True, False}
    for row, (told, cut) in zip(rows, given, strict=True):
        assert row["truncated"] == cut
        assert told == pytest.approx(row["reward"] - 0.3 * cut)


@pytest.mark.parametrize(("algorithm", "weights"), [("rloo", "rubric"), ("ppo", "contrast")])
def test_every_algorithm_goes_on_to_the_same_bits_after_a_kill(
    algorithm: str, weights: str, tmp_path: Path, prompts: Path
) -> None:
    # Two optimiser steps per pass over a batch, two passes: checkpoints may lie at every fourth step.
    settings: dict[str, Any] = {
        "algorithm": algorithm,
        "criterion_weights": weights,
        "num_iterations": 2,
        "micro_batch": 8,
        "trl.gradient_accumulation_steps": 1,
        "trl.steps_per_generation": 2,
        "lora_dropout": 0.1,
        "missing_eos_penalty": 0.1,
    }
    with LLMServer(delay=0.02) as server:
        assert ended(start(tmp_path, prompts, "whole", server, **settings))[0] == 0
        killed = start(tmp_path, prompts, "killed", server, **settings)
        wait_for(killed, "batch 3/6")
        killed.kill()
        killed.communicate()
        assert resume(tmp_path / "killed").returncode == 0
    same_run(tmp_path, "whole", "killed", step=24)
    told = [
        [row.get("weights") for row in read_rows(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "killed")
    ]
    assert told[0] == told[1] and (None not in told[0]) == (weights == "contrast")


@pytest.mark.parametrize("setting", ["criterion_weights=contrast", "aggregate=normalize"])
def test_the_optimiser_alone_sees_how_criteria_are_composed(
    setting: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpo_lite.training.mpo import MPO

    given: list[float | None] = []
    reward = MPO.reward

    def watched(self: MPO, **inputs: Any) -> list[float | None]:
        given.extend(told := reward(self, **inputs))
        return told

    monkeypatch.setattr(MPO, "reward", watched)
    flags = ("--task", "sandbox", "--judge", "sandbox", "--baseline", "expert")
    for name, more in (("plain", ()), ("composed", ("-o", setting))):
        train(*flags, *more, name=name, steps=2, max_new_tokens=64)
    half = len(given) // 2
    plain, composed = (read_rows(tmp_path / name / "rollouts.jsonl") for name in ("plain", "composed"))
    # The first batch is the same answers by the same rubric: only what is learned from them differs.
    assert plain[:16] == composed[:16] and plain[16:] != composed[16:]
    assert given[:half] == [row["reward"] for row in plain]
    assert given[half:] != [row["reward"] for row in composed] and None not in given
    figures = [read_rows(tmp_path / name / "metrics.jsonl")[0] for name in ("plain", "composed")]
    assert figures[0]["reward"] == figures[1]["reward"] and figures[0]["spread"] == figures[1]["spread"]
    assert figures[0]["loss"] != figures[1]["loss"] or figures[0]["grad_norm"] != figures[1]["grad_norm"]


def test_a_trainers_settings_go_to_trl_by_its_own_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mpo_lite.config import Config
    from mpo_lite.training.trl_args import trainer_arguments

    def told(**given: Any) -> Any:
        config = Config(judge="m", batch_prompts=4, group_size=4, micro_batch=8, **given)
        session: Any = type("S", (), {"config": config, "max_new_tokens": 16})
        return trainer_arguments(session, tmp_path)

    plain = told()
    assert (plain.bf16, plain.gradient_checkpointing, plain.use_vllm) == (False, False, False)
    served = told(
        use_vllm=True, vllm_mode="server", vllm_server_base_url="http://localhost:8000", num_iterations=3
    )
    assert (served.use_vllm, served.vllm_mode, served.num_iterations) == (True, "server", 3)
    assert served.vllm_server_base_url == "http://localhost:8000"
    assert type(told(algorithm="rloo")).__name__ == "RLOOConfig"
    assert told(algorithm="ppo").loss_type == "bnpo"
    with pytest.raises(ConfigError, match="loss_type 'mean': TRL knows grpo, bnpo"):
        told(trl={"loss_type": "mean"})
    assert told(gradient_checkpointing=True).gradient_checkpointing is True
    with pytest.raises(SystemExit):
        main(["train", "--judge", "m", "--baseline", "iter0", "--algorithm", "dpo"])
    assert "'grpo', 'rloo', 'ppo'" in capsys.readouterr().err
