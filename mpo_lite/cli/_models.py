"""What ``eval`` and ``compare`` share: a trained run or any model, and what it answers to held-
out prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpo_lite.activity import activity
from mpo_lite.checkpoints import intact_checkpoint
from mpo_lite.config import DATA_ENDINGS, DEFAULT_POLICY, SANDBOX, Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import with_sandbox_policy
from mpo_lite.tasks.spec import Task

if TYPE_CHECKING:
    from mpo_lite.training.chat import Completion

BATCH_SIZE = 64
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=BATCH_SIZE,
    show_default=True,
    help="Prompts generated at once; lower it where memory is short.",
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Policy:
    """Something that answers prompts.

    Attributes:
        name: How it is called in tables.
        config: Names the model, and how it answers.
        checkpoint: Holds its adapter; None for a model as it is.
    """

    name: str
    config: Config
    checkpoint: Path | None


def refuse_missing(source: str) -> None:
    """Raises ``ConfigError`` where there is nothing of that name here, and it is no name on the hub."""
    path = Path(source).expanduser()
    if path.exists() or source == SANDBOX:
        return
    if path.suffix in DATA_ENDINGS:
        raise ConfigError(f"{source}: no such file")
    among_runs = any(path.parent.glob("*/config.yaml"))
    if among_runs or not _HUB_ID.fullmatch(source):
        raise ConfigError(
            f"{source}: no such folder; give a run (mpo-lite runs lists them), a model folder, or a hub id "
            f"such as {DEFAULT_POLICY}"
        )


def policy_at(source: str, given: dict[str, Any], overrides: Sequence[str] = ()) -> Policy:
    """The policy of a run, or a model by folder or hub id.

    Args:
        source: A run directory, a model folder or a hub id.
        given: Settings by flag; of a run, they beat its own.
        overrides: ``key=value`` settings; not for runs.

    Raises:
        ConfigError: There is nothing of that name, or the run has no checkpoint.
        RunError: A file of its last checkpoint is damaged.
    """
    refuse_missing(source)
    path = Path(source)
    if path.is_file():
        raise ConfigError(f"{source}: is a file; give a run, a model folder, or a hub id")
    if not RunDir(path).exists():
        config = with_sandbox_policy(load_config(None, given | {"policy": source}, overrides))
        return Policy(path.name if path.exists() else source, config, None)
    # Another task stands in place of a goal that the run was trained for.
    task = {"task": given["task"], "goal": None} if given.get("task") else {}
    run, config = RunDir.open(path, {**given, "task": None})
    config = config.model_copy(update=task)
    return Policy(path.resolve().name, with_sandbox_policy(config), intact_checkpoint(run))


def answers(
    policy: Policy, task: Task, prompts: Sequence[str], batch_size: int = BATCH_SIZE
) -> list[tuple[str, Completion]]:
    """Prompts with what a policy answers, in order; those too long for it are left out.

    Args:
        policy: Who answers.
        task: Makes conversations of prompts.
        prompts: What is asked.
        batch_size: Prompts that are generated at once, at most.
    """
    with activity(f"loading policy {policy.name}"):
        from mpo_lite.training.generate import generate  # loads torch
        from mpo_lite.training.policy import chat_of, check_policy, fitting_prompts, load_trained_policy

        check_policy(policy.config)
        model, tokenizer = load_trained_policy(policy.config, policy.checkpoint)
    length = policy.config.max_new_tokens or task.generation.max_new_tokens
    chat = chat_of(policy.config, model, tokenizer)
    asked = fitting_prompts(prompts, task, model, chat, length)
    told = generate(
        model,
        chat,
        [task.policy_messages(prompt) for prompt in asked],
        max_new_tokens=length,
        temperature=policy.config.temperature,
        batch_size=batch_size,
    )
    return list(zip(asked, told, strict=True))
