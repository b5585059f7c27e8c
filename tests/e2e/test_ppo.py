"""PPO: its estimates against brute force, and training with it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from mpo_lite.jsonl import read_rows
from mpo_lite.training.ppo import PPO, gae, token_rewards, value_losses
from tests.support.jobs import Train
from tests.support.llm_server import LLMServer, fails_on_every

unit = st.floats(-2, 2, width=32)


@st.composite
def episodes(draw: Callable[..., Any]) -> tuple[list[list[float]], list[list[float]], int]:
    """Rewards and values of some completions of different lengths, and the longest length."""
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    rewards = [draw(st.lists(unit, min_size=n, max_size=n)) for n in lengths]
    values = [draw(st.lists(unit, min_size=n, max_size=n)) for n in lengths]
    return rewards, values, max(lengths) + draw(st.integers(0, 2))


def padded(rows: list[list[float]], width: int, filler: float = 0.0) -> torch.Tensor:
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def by_definition(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """arXiv 1506.02438, equation 16: discounted one-step errors; after the end nothing has worth."""
    worth = [*values, 0.0]
    errors = [reward + gamma * worth[t + 1] - worth[t] for t, reward in enumerate(rewards)]
    return [
        sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, len(errors))) for t in range(len(errors))
    ]


@given(episodes(), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_advantages_are_those_of_the_definition(episode: Any, gamma: float, lam: float) -> None:
    rewards, values, width = episode
    mask = padded([[1.0] * len(row) for row in rewards], width)
    # What stands beyond the end must not matter.
    advantages, returns = gae(padded(rewards, width), padded(values, width, 7.0), mask, gamma, lam)
    for row, (reward, value) in enumerate(zip(rewards, values, strict=True)):
        expected = by_definition(reward, value, gamma, lam)
        told = advantages[row].tolist()
        assert told[: len(expected)] == pytest.approx(expected, abs=1e-5, rel=1e-5)
        assert not any(told[len(expected) :]) and not any(returns[row, len(expected) :].tolist())
        for t, one in enumerate(expected):
            assert returns[row, t].item() == pytest.approx(one + value[t], abs=1e-5, rel=1e-5)


def test_advantages_match_brute_force_to_a_millionth() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(16, 40, generator=generator) for _ in range(2))
    mask = (torch.arange(40) < torch.randint(1, 41, (16, 1), generator=generator)).float()
    advantages, _ = gae(rewards * mask, values, mask, 1.0, 0.95)
    worst = 0.0
    for row in range(16):
        length = int(mask[row].sum())
        expected = by_definition(
            rewards[row, :length].double().tolist(), values[row, :length].double().tolist(), 1.0, 0.95
        )
        worst = max(worst, max(abs(a - b) for a, b in zip(expected, advantages[row].tolist(), strict=False)))
    assert worst < 5e-6
    scale = advantages.abs().max().item()
    assert worst / scale < 1e-6


def test_the_reward_falls_on_the_last_token_and_the_penalty_on_each() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    told = token_rewards(torch.tensor([0.5, 1.0]), torch.full((2, 4), 0.1), mask)
    expected = torch.tensor([[-0.1, -0.1, 0.4, 0.0], [0.9, 0.0, 0.0, 0.0]])
    assert torch.allclose(told, expected)


def test_a_value_that_moves_too_far_is_not_paid_for_it() -> None:
    old, returns = torch.zeros(1, 3), torch.ones(1, 3)
    told = value_losses(torch.tensor([[0.1, 0.5, -0.5]]), old, returns, 0.2)
    assert told.tolist()[0] == pytest.approx([0.5 * 0.9**2, 0.5 * 0.8**2, 0.5 * 1.5**2])


def test_completions_without_a_reward_are_masked_and_the_rest_is_whitened(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[dict[str, Any]] = []
    scores: list[torch.Tensor] = []
    generate = PPO._generate_and_score_completions

    def watched(self: PPO, inputs: Any) -> Any:
        batches.append(generate(self, inputs))
        scores.append(self._scores)
        return batches[-1]

    monkeypatch.setattr(PPO, "_generate_and_score_completions", watched)
    with LLMServer(fails_on_every(5)) as server:
        train(
            *("--judge", "openai/j", "--judge-api-base", server.url, "--baseline", "iter0"),
            *("--algorithm", "ppo", "--num-iterations", "2", "-o", "max_judge_failures=0.5"),
            steps=2,
        )
    rollouts = read_rows(tmp_path / "run" / "rollouts.jsonl")
    for number, batch in enumerate(batches, start=1):
        known = [row["reward"] is not None for row in rollouts if row["batch"] == number]
        assert False in known
        assert (batch["tool_mask"].amax(1) == 1).tolist() == known
        taken = (batch["completion_mask"] * batch["tool_mask"]).bool()
        assert not batch["advantages"][~taken].any()
        moved = batch["advantages"][taken]
        assert moved.mean().item() == pytest.approx(0, abs=1e-5)
        assert moved.square().mean().item() == pytest.approx(1, abs=1e-3)
    # The first batch of a version sets the bias to its mean reward, here per token; then the head learns.
    first = batches[0]["old_values"][batches[0]["completion_mask"].bool()]
    taken = batches[0]["completion_mask"] * batches[0]["tool_mask"]
    mean = (torch.nan_to_num(scores[0]).unsqueeze(1) * taken).sum() / taken.sum()
    assert torch.allclose(first, mean) and mean > 0
    assert batches[1]["old_values"][batches[1]["completion_mask"].bool()].std() > 0
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and math.isfinite(rows[1]["kl"])


def test_the_value_head_is_trained_and_kept_in_the_checkpoint(train: Train, tmp_path: Path) -> None:
    rate = ("-o", "ppo.value_learning_rate=0.05")
    train("--judge", "sandbox", "--baseline", "iter0", "--algorithm", "ppo", *rate, steps=2, save_every=1)
    heads = []
    for step in (1, 2):
        path = tmp_path / f"run/checkpoints/checkpoint-{step}/adapter_model.safetensors"
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if "v_head" in name]  # noqa: SIM118
            assert len(names) == 2, names
            heads.append(torch.cat([file.get_tensor(name).flatten() for name in sorted(names)]))
            assert any("lora" in name for name in file.keys())  # noqa: SIM118
    weights = heads[0][1:]  # after the bias; Adam's first step is as long as the learning rate
    assert weights.abs().median().item() == pytest.approx(0.05, rel=0.01)
    assert not torch.equal(heads[0], heads[1])
