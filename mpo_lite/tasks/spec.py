"""A task is a folder: ``task.yaml``, the policy's prompt ``policy.md`` and the first rubric
``rubric.yaml``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError

from mpo_lite.errors import TaskError
from mpo_lite.prompts import prompts_dir, render_text
from mpo_lite.rubric import Rubric, first_problem, load_rubric
from mpo_lite.types import Message

Reference = Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")]
Sentinel = Literal["empty", "title", "prompt", "repeated", "other_prompt", "foreign", "injection"]
GoldMetric = Callable[[str, str], float]
"""(prompt, completion) → quality in [0, 1]; never shown to judge or meta-judge."""


class DataSource(BaseModel):
    """Where a task's prompts come from.

    Attributes:
        source: Hub id, file, or ``module:function`` that takes ``train`` or ``held_out`` and gives rows.
        split: Split of a hub data set.
        prompt: Name of the column that holds the prompt.
        cluster: Name of the column that tells kinds of prompts apart, or None.
        held_out: Rows kept out of training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    split: str = "train"
    prompt: str = "prompt"
    cluster: str | None = None
    held_out: Annotated[int, Field(ge=0)] = 64


class Generation(BaseModel):
    """How the policy answers: its longest completion in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: Annotated[int, Field(ge=1)] = 256


class Rules(BaseModel):
    """What is decided without a judge: an answer of fewer than ``min_words`` words earns 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words: Annotated[int, Field(ge=1)] = 1


class Task(BaseModel):
    """What is trained for.

    Attributes:
        name: Short name; also names runs.
        description: One line for listings.
        purpose: What readers of the answers want; shown to the meta-judge only.
        persona: Who the judge is to be.
        data: Where prompts come from.
        generation: How the policy answers.
        rules: What is decided without a judge.
        sentinels: Known-bad answers that no rubric may pay for; see ``mpo_lite.meta.sentinels``.
        gold: ``module:function`` of a metric the policy is not trained on, or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
    description: str
    purpose: str
    persona: str
    data: DataSource
    generation: Generation = Generation()
    rules: Rules = Rules()
    sentinels: tuple[Sentinel, ...] = get_args(Sentinel)
    gold: Reference | None = None
    _folder: Path = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Keeps the folder that the task was read from, given as validation context."""
        self._folder = Path(context["folder"]) if context else Path()

    @property
    def rubric(self) -> Rubric:
        """The task's first rubric. Raises ``TaskError`` where it is malformed."""
        return load_rubric(self._folder / "rubric.yaml")

    @property
    def expert_rubric(self) -> Rubric:
        """The rubric an expert wrote for the task. Raises ``TaskError`` where it has none."""
        path = self._folder / "expert.yaml"
        if not path.is_file():
            raise TaskError(f"{path}: task {self.name} has no expert rubric; write one there")
        return load_rubric(path)

    def policy_messages(self, prompt: str) -> list[Message]:
        """The conversation the policy is to continue, for one prompt of the data."""
        return render_text(_read(self._folder / "policy.md"), prompt=prompt)

    def gold_metric(self) -> GoldMetric | None:
        """The gold metric as a function, or None. Raises ``TaskError`` where it cannot be imported."""
        return load_function(self.gold, f"{self._folder / 'task.yaml'}: gold") if self.gold else None


def load_task(name: str) -> Task:
    """Loads a task by built-in name or folder.

    Raises:
        TaskError: There is none of that name, or its files are malformed.
    """
    builtin = prompts_dir() / "tasks"
    folder = builtin / name if (builtin / name / "task.yaml").is_file() else Path(name).expanduser()
    if not (folder / "task.yaml").is_file():
        names = ", ".join(sorted(path.name for path in builtin.iterdir()))
        raise TaskError(f"task {name!r}: neither a folder with a task.yaml nor a built-in task ({names})")
    file = folder / "task.yaml"
    try:
        return Task.model_validate(yaml.safe_load(_read(file)), context={"folder": folder})
    except yaml.YAMLError as error:
        raise TaskError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        raise TaskError(f"{file}: {first_problem(error)}") from error


def load_function(reference: str, where: str) -> Callable[..., Any]:
    """Imports ``module:function``; ``where`` names the place in errors. Raises ``TaskError``."""
    module, _, name = reference.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise TaskError(f"{where}: cannot import {reference} ({error})") from error
    if not callable(function):
        raise TaskError(f"{where}: {reference} is no function")
    return function


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})") from error
