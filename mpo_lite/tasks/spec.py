"""A task is a folder: ``task.yaml``, the policy's prompt ``policy.md`` and the first rubric
``rubric.yaml``.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
)

from mpo_lite.config import Config
from mpo_lite.errors import TaskError
from mpo_lite.prompts import prompts_dir, render_text
from mpo_lite.resolve import key_lines, unknown_key
from mpo_lite.rubric import Criterion, Rubric, load_rubric
from mpo_lite.types import Message

Reference = Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")]
Sentinel = Literal["empty", "title", "prompt", "repeated", "other_prompt", "foreign", "injection"]
Row = Mapping[str, Any]
"""A row of the data: its own columns, and ``prompt``, ``reference`` and ``cluster`` as the task maps them."""
Metric = Callable[[str, Row], float]
"""(completion, row) → a number in [0, 1]."""


_DEGREES = ("Not at all.", "Hardly.", "In part.", "Mostly.", "Fully.")
_READER = "You are an experienced and strict reader, who knows what good work of this kind looks like."


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression ({error})") from error
    return text


class DataSource(BaseModel):
    """Where a task's prompts come from.

    Attributes:
        source: Hub id, file, or ``module:function`` that takes ``train`` or ``held_out`` and gives rows; None
            where each run names its own.
        split: Split of a hub data set.
        prompt: Name of the column that holds the prompt, or a template of columns such as
            ``$context Question: $question``.
        reference: Name of the column that holds what is right, for verifier and gold metric, or None; a dot
            goes into nested columns.
        cluster: Name of the column that tells kinds of prompts apart, or None.
        held_out: Rows kept out of training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None = None
    split: str = "train"
    prompt: str = "prompt"
    reference: str | None = None
    cluster: str | None = None
    held_out: Annotated[int, Field(ge=0)] = 64


class Generation(BaseModel):
    """How the policy answers: its longest completion in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: Annotated[int, Field(ge=1)] = 256


class Rules(BaseModel):
    """What is decided without a judge: an answer that breaks a rule earns 0.

    Attributes:
        min_words: Fewest words.
        must_match: Regular expression that must be found in it, such as a tag.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words: Annotated[int, Field(ge=1)] = 1
    must_match: Annotated[str, AfterValidator(_pattern)] | None = None


class Verifier(BaseModel):
    """A check against the reference that takes the judge's place in some batches.

    Attributes:
        function: ``module:function`` of a metric.
        rate: Share of batches that it scores alone; drawn by the run's seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: Reference
    rate: Annotated[float, Field(ge=0, le=1)] = 0.5


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
        verifier: Scores some of the batches by the reference, or None.
        judge_mode: How the judge works unless the run says else; see ``Config.judge_mode``.
        sentinels: Known-bad answers that no rubric may pay for; see ``mpo_lite.meta.sentinels``.
        gold: ``module:function`` of a metric the policy is not trained on, or None; never shown to judge or
            meta-judge.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
    description: str
    purpose: str
    persona: str
    data: DataSource
    generation: Generation = Generation()
    rules: Rules = Rules()
    verifier: Verifier | None = None
    judge_mode: Literal["pointwise", "groupwise", "planned"] = "pointwise"
    sentinels: tuple[Sentinel, ...] = get_args(Sentinel)
    gold: Reference | None = None
    _folder: Path = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Keeps the folder that the task was read from, given as validation context."""
        self._folder = Path(context["folder"]) if context else Path()

    @property
    def rubric(self) -> Rubric:
        """The first rubric: ``rubric.yaml``, or the purpose itself where there is none.

        Raises:
            TaskError: It is malformed.
        """
        path = self._folder / "rubric.yaml"
        if path.is_file():
            return load_rubric(path)
        whole = Criterion(id="purpose", description=" ".join(self.purpose.split()), levels=_DEGREES)
        return Rubric(criteria=(whole,))

    @property
    def expert_rubric(self) -> Rubric:
        """The rubric an expert wrote for the task. Raises ``TaskError`` where it has none."""
        path = self._folder / "expert.yaml"
        if not path.is_file():
            raise TaskError(f"{path}: task {self.name} has no expert rubric; write one there")
        return load_rubric(path)

    def policy_messages(self, prompt: str) -> list[Message]:
        """The conversation the policy is to continue: by ``policy.md``, or the prompt alone without one."""
        path = self._folder / "policy.md"
        return render_text(_read(path) if path.is_file() else "=== user\n$prompt\n", prompt=prompt)

    def gold_metric(self) -> Metric | None:
        """The gold metric as a function, or None. Raises ``TaskError`` where it cannot be imported."""
        return self._metric(self.gold, "gold") if self.gold else None

    def verify_metric(self) -> Metric | None:
        """The verifier as a function, or None. Raises ``TaskError`` where it cannot be imported."""
        return self._metric(self.verifier.function, "verifier.function") if self.verifier else None

    def _metric(self, reference: str, key: str) -> Metric:
        """A function of somebody's, its failures told with the place that names it."""
        where = f"{self._folder / 'task.yaml'}: {key}"
        function = load_function(reference, where, self._folder)

        def metric(completion: str, row: Row) -> float:
            try:
                value = float(function(completion, row))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                raise TaskError(f"{where}: {reference} failed on a completion ({said})") from error
            if not 0 <= value <= 1:
                raise TaskError(f"{where}: {reference} gave {value:g}; it must give a number from 0 to 1")
            return value

        return metric


def task_of(config: Config) -> Task:
    """The task of a run: the one it names, or one made of its goal. Raises ``TaskError``."""
    if config.goal is None:
        return load_task(config.task)
    return Task(name="goal", description=config.goal, purpose=config.goal, persona=_READER, data=DataSource())


def builtin_tasks() -> dict[str, Task]:
    """The tasks that are shipped, by name, in the order of the alphabet."""
    names = sorted(path.parent.name for path in (prompts_dir() / "tasks").glob("*/task.yaml"))
    return {name: load_task(name) for name in names}


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
        task = Task.model_validate(yaml.safe_load(_read(file)), context={"folder": folder})
    except yaml.YAMLError as error:
        raise TaskError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        raise TaskError(_complaint(error, file)) from error
    beside = folder / (task.data.source or "")
    if not beside.is_file():
        return task
    data = task.data.model_copy(update={"source": str(beside.absolute())})
    return task.model_copy(update={"data": data})


def _complaint(error: ValidationError, file: Path) -> str:
    """One line: where, which key, what is wrong. A misspelt key comes before what is missing for it."""
    problems = error.errors(include_url=False)
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in problem["loc"]]
    lines = key_lines(yaml.compose(_read(file), Loader=yaml.SafeLoader))
    line = next((lines[key] for n in range(len(path), 0, -1) if (key := ".".join(path[:n])) in lines), 1)
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {
            "data": DataSource, "generation": Generation, "rules": Rules, "verifier": Verifier
        }  # fmt: skip
        said = unknown_key(path[-1], (parts.get(path[0], Task) if len(path) > 1 else Task).model_fields)
    return f"{file}:{line} {'.'.join(path)}: {said}"


def load_function(reference: str, where: str, folder: Path = Path()) -> Callable[..., Any]:
    """Imports ``module:function``.

    Args:
        reference: What to import.
        where: The place that names it, for errors.
        folder: Looked into first: functions of one's own may lie beside the task.

    Raises:
        TaskError: There is no such function.
    """
    module, _, name = reference.partition(":")
    sys.path.insert(0, str(folder.absolute()))
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise TaskError(f"{where}: cannot import {reference} ({error})") from error
    finally:
        sys.path.remove(str(folder.absolute()))
    if not callable(function):
        raise TaskError(f"{where}: {reference} is no function")
    return function


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})") from error
