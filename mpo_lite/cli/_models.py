"""What ``eval`` and ``compare`` share: a run's policy, or any model, and its answers to prompts."""

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
    from mpo_lite.types import Completion

BATCH_SIZE = 64
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=BATCH_SIZE,
    show_default=True,
    help="Prompts generated at once; lower it if memory runs out.",
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Policy:
    """Something that answers prompts.

    Attributes:
        name: Its name in tables.
        config: The model, and how it generates.
        checkpoint: Where its adapter is; None for a model without one.
    """

    name: str
    config: Config
    checkpoint: Path | None


def check_exists(source: str) -> None:
    """Raises ``ConfigError`` if nothing of that name exists here and it cannot be a Hub id."""
    path = Path(source).expanduser()
    if path.exists() or source == SANDBOX:
        return
    if path.suffix in DATA_ENDINGS:
        raise ConfigError(f"{source}: no such file")
    # A name next to runs is a misspelt run rather than a Hub id, which has the same form.
    is_among_runs = any(path.parent.glob("*/config.yaml"))
    if is_among_runs or not _HUB_ID.fullmatch(source):
        raise ConfigError(
            f"{source}: no such directory; give a run (mpo-lite runs lists them), a model directory, or a "
            f"Hub id such as {DEFAULT_POLICY}"
        )


def open_policy(source: str, given: dict[str, Any], overrides: Sequence[str] = ()) -> Policy:
    """The policy of a run, or a model by its directory or Hub id.

    Args:
        source: A run directory, a model directory or a Hub id.
        given: Settings by flag; they override those of a run.
        overrides: ``key=value`` settings; not for runs.

    Raises:
        ConfigError: Nothing of that name exists, or the run has no checkpoint.
        RunError: A file of its last checkpoint is damaged.
    """
    check_exists(source)
    path = Path(source)
    if path.is_file():
        raise ConfigError(f"{source}: is a file; give a run, a model directory, or a Hub id")
    if not RunDir(path).exists():
        config = with_sandbox_policy(load_config(None, given | {"policy": source}, overrides))
        return Policy(path.name if path.exists() else source, config, None)
    # A task that is named here also replaces the goal of a run that was trained for one.
    task = {"task": given["task"], "goal": None} if given.get("task") else {}
    run, config = RunDir.open(path, {**given, "task": None})
    config = config.model_copy(update=task)
    return Policy(path.resolve().name, with_sandbox_policy(config), intact_checkpoint(run))


def generate_answers(
    policy: Policy, task: Task, prompts: Sequence[str], batch_size: int = BATCH_SIZE
) -> list[tuple[str, Completion]]:
    """Prompts with a policy's answers, in order; prompts that are too long for it are left out.

    Args:
        policy: What answers.
        task: Turns prompts into conversations.
        prompts: The prompts.
        batch_size: Prompts generated at once, at most.
    """
    with activity(f"loading policy {policy.name}"):
        from mpo_lite.training.generate import generate  # loads torch
        from mpo_lite.training.policy import chat_of, check_policy, fitting_prompts, load_trained_policy

        check_policy(policy.config)
        model, tokenizer = load_trained_policy(policy.config, policy.checkpoint)
    length = policy.config.max_new_tokens or task.generation.max_new_tokens
    chat = chat_of(policy.config, model, tokenizer)
    fitting = fitting_prompts(prompts, task, model, chat, length)
    completions = generate(
        model,
        chat,
        [task.policy_messages(prompt) for prompt in fitting],
        max_new_tokens=length,
        temperature=policy.config.temperature,
        batch_size=batch_size,
    )
    return list(zip(fitting, completions, strict=True))
