"""A task is a folder: ``task.yaml``, the policy's prompt ``policy.md`` and the first rubric
``rubric.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import AfterValidator, Field, PrivateAttr, StringConstraints, model_validator

from mpo_lite.config import DATA_ENDINGS, Config
from mpo_lite.errors import TaskError
from mpo_lite.prompts import builtin_tasks, prompts_dir, render_text
from mpo_lite.rubric import Criterion, Rubric, load_rubric
from mpo_lite.tasks.functions import load_function
from mpo_lite.tasks.policy_prompt import DEFAULT, check_policy_prompt, describe_policy_prompt
from mpo_lite.tasks.symbolic import NotCompared
from mpo_lite.types import Brief, Message
from mpo_lite.validation import Settings, load_model

FunctionReference = Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")]
Sentinel = Literal["empty", "title", "prompt", "repeated", "other_prompt", "foreign", "injection"]
Shortcut = Literal["praise", "connectives", "headings", "padding", "insistence", "keywords", "numbers"]
Row = Mapping[str, Any]
"""A data row: its own columns, and ``prompt``, ``reference`` and ``cluster`` as the task maps them."""
Metric = Callable[[str, Row], float | None]
"""(completion, row) → a number in [0, 1]; None if the answer could not be measured."""

_DEGREES = ("Not at all.", "Hardly.", "In part.", "Mostly.", "Fully.")
_READER = "You are an experienced and strict reader, who knows what good work of this kind looks like."


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a valid regular expression ({error})") from error
    return text


class DataSource(Settings):
    """Where a task's prompts come from.

    Attributes:
        source: Hub dataset ID or file; None if each run names its own.
        subset: Subset of a Hub dataset.
        split: Split of a Hub dataset.
        prompt: Column that contains the prompt, or a template of columns such as
            ``$context Question: $question``.
        reference: Column that contains the correct answer, for verifier and gold metric, or None; a dotted
            path reaches into nested columns.
        cluster: Column that contains the kind of prompt, or None.
        held_out: Prompts kept out of training; None: a fifth, at most 64, if a gold metric needs them.
        held_out_source: A file of held-out prompts instead.
    """

    source: str | None = None
    subset: str | None = None
    split: str = "train"
    prompt: str = "prompt"
    reference: str | None = None
    cluster: str | None = None
    held_out: Annotated[int, Field(ge=0)] | None = None
    held_out_source: str | None = None


class Generation(Settings):
    """How the policy answers: its maximum completion length in tokens."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256


class Rules(Settings):
    """What is decided without a judge: an answer that breaks a rule gets 0.

    Attributes:
        min_words: Minimum number of words.
        must_match: Regular expression that must match somewhere in the answer, such as a tag.
    """

    min_words: Annotated[int, Field(ge=1)] = 1
    must_match: Annotated[str, AfterValidator(_check_pattern)] | None = None


class Verifier(Settings):
    """A check against the reference that replaces the judge in some batches.

    Attributes:
        function: ``module:function`` of a metric.
        rate: Share of batches that it scores alone, chosen at random from the run's seed.
    """

    function: FunctionReference
    rate: Annotated[float, Field(ge=0, le=1)] = 0.5


class Task(Settings):
    """What a policy is trained for.

    Attributes:
        name: Short name; also names runs.
        description: One line for listings.
        purpose: What readers of the answers want; shown to the meta-judge only.
        persona: The role that the judge plays.
        data: Where prompts come from.
        generation: How the policy answers.
        rules: What is decided without a judge.
        verifier: Scores some of the batches by the reference, or None.
        judge_mode: How the judge works unless the run sets it; see ``Config.judge_mode``.
        judge_sees: ``reference``: judge and meta-judge are shown the reference of a prompt, if it has one.
        sentinels: Known-bad answers that no rubric may reward; see ``mpo_lite.meta.sentinels``.
        shortcuts: What makes no answer better, so that no rubric may pay for adding it; see
            ``mpo_lite.meta.shortcuts``.
        gold: ``module:function`` of a metric the policy is not trained on, or None; never shown to judge or
            meta-judge.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
    description: str
    purpose: str
    persona: str
    data: DataSource
    generation: Generation = Generation()
    rules: Rules = Rules()
    verifier: Verifier | None = None
    judge_mode: Literal["pointwise", "groupwise", "planned"] = "pointwise"
    judge_sees: tuple[Literal["reference"], ...] = ()
    sentinels: tuple[Sentinel, ...] = get_args(Sentinel)
    shortcuts: tuple[Shortcut, ...] = get_args(Shortcut)
    gold: FunctionReference | None = None

    @model_validator(mode="after")
    def _has_what_judges_see(self) -> Self:
        if "reference" in self.judge_sees and self.data.reference is None:
            raise ValueError("judge_sees lists reference, but data.reference names no column")
        return self

    _folder: Path = PrivateAttr()
    _policy_prompt: str = PrivateAttr(DEFAULT)

    def model_post_init(self, context: Any, /) -> None:
        """Remembers the folder that the task was read from (the validation context), and its ``policy.md``.

        Raises:
            TaskError: The policy's prompt is not a conversation.
        """
        self._folder = Path(context["folder"]) if context else Path()
        path = self._folder / "policy.md"
        if context and path.is_file():
            self._policy_prompt = _read_text(path)
            check_policy_prompt(self._policy_prompt, str(path))

    @property
    def rubric(self) -> Rubric:
        """The first rubric: ``rubric.yaml``, or the purpose itself as one criterion if there is none.

        Raises:
            TaskError: It is malformed.
        """
        path = self._folder / "rubric.yaml"
        if path.is_file():
            return load_rubric(path)
        return self.purpose_rubric

    @property
    def purpose_rubric(self) -> Rubric:
        """The purpose itself as one criterion."""
        criterion = Criterion(id="purpose", description=" ".join(self.purpose.split()), levels=_DEGREES)
        return Rubric(criteria=(criterion,))

    @property
    def expert_rubric(self) -> Rubric:
        """The rubric that an expert wrote for the task. Raises ``TaskError`` if there is none."""
        path = self._folder / "expert.yaml"
        if not path.is_file():
            raise TaskError(f"{path}: task {self.name} has no expert rubric; write one to this file")
        return load_rubric(path)

    def policy_messages(self, prompt: str) -> list[Message]:
        """The conversation that the policy continues: from ``policy.md``, or the prompt alone without one."""
        return render_text(self._policy_prompt, prompt=prompt)

    def brief(self, max_new_tokens: int | None = None) -> Brief:
        """What judges and meta-judge are told of the task.

        Args:
            max_new_tokens: Longest answer of the policy, in tokens; None where the answers come from
                elsewhere.
        """
        parts = [describe_policy_prompt(self._policy_prompt)]
        if max_new_tokens:
            words = f"about {max_new_tokens * 3 // 4:,} English words"
            parts.append(f"An answer is cut off after {max_new_tokens:,} tokens ({words}).")
        rejected = [f"of fewer than {self.rules.min_words} words"] if self.rules.min_words > 1 else []
        if self.rules.must_match:
            rejected.append(f"without a match of the regular expression {self.rules.must_match}")
        if rejected:
            parts.append(f"Rejected without being judged: answers {', and answers '.join(rejected)}.")
        return Brief(self.persona, self.purpose, "\n\n".join(part for part in parts if part))

    def shown_reference(self, row: Row) -> str:
        """The reference of a data row as judges are shown it; empty where the task or the row has none."""
        value = row.get("reference") if "reference" in self.judge_sees else None
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, (list, tuple)):  # several correct answers
            return "\n".join(dict.fromkeys(map(str, cast("list[Any]", value))))
        return str(value)

    def gold_metric(self) -> Metric | None:
        """The gold metric as a function, or None. Raises ``TaskError`` if it cannot be loaded."""
        return self._load_metric(self.gold, "gold") if self.gold else None

    def verify_metric(self) -> Metric | None:
        """The verifier as a function, or None. Raises ``TaskError`` if it cannot be loaded."""
        return self._load_metric(self.verifier.function, "verifier.function") if self.verifier else None

    def prepare_metrics(self) -> None:
        """Starts what verifier and gold metric need, such as a process. Raises ``TaskError`` if it cannot."""
        for reference, key in self._function_references:
            function = load_function(reference, f"{self._folder / 'task.yaml'}: {key}", self._folder)
            getattr(function, "prepare", lambda: None)()

    @property
    def _function_references(self) -> list[tuple[str, str]]:
        candidates = (self.gold, "gold"), (self.verifier and self.verifier.function, "verifier.function")
        return [(reference, key) for reference, key in candidates if reference]

    def _load_metric(self, reference: str, key: str) -> Metric:
        """Wraps a user's function so that its failures name the place in ``task.yaml`` that refers to it."""
        where = f"{self._folder / 'task.yaml'}: {key}"
        function = load_function(reference, where, self._folder)

        def metric(completion: str, row: Row) -> float | None:
            try:
                value = float(function(completion, row))
            except TaskError:
                raise
            # Unknown is not wrong: no reward instead of 0.
            except NotCompared:
                return None
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                raise TaskError(f"{where}: {reference} failed on a completion ({problem})") from error
            if not 0 <= value <= 1:
                raise TaskError(
                    f"{where}: {reference} returned {value:g}; it must return a number from 0 to 1"
                )
            return value

        return metric


def task_of(config: Config) -> Task:
    """The task of a run: the one it names, or one built from its goal; with the run's own data, if any.

    Raises:
        TaskError: There is no such task, or its files are malformed.
    """
    goal = config.goal
    task = (
        load_task(config.task)
        if goal is None
        else Task(name="goal", description=goal, purpose=goal, persona=_READER, data=DataSource())
    )
    data, update = task.data, dict[str, Any]()
    needs_held_out = bool(task.gold or data.held_out or data.held_out_source)
    if config.data is not None:  # the task's other settings of its source do not apply to another one
        source_settings = ("subset", "split", "held_out", "held_out_source")
        update = {name: DataSource.model_fields[name].default for name in source_settings} | {
            "source": config.data
        }
    if not needs_held_out:
        update["held_out"] = 0
    is_file = config.data is not None and Path(config.data).suffix in DATA_ENDINGS
    for name in ("data_subset", "data_split"):
        if is_file and getattr(config, name) is not None:
            flag = f"--{name.replace('_', '-')} {getattr(config, name)}"
            raise TaskError(f"{flag}: applies to Hub datasets, but {config.data} is a file; remove it")
    overrides = {"prompt": config.prompt_column, "subset": config.data_subset, "split": config.data_split}
    update |= {name: value for name, value in overrides.items() if value is not None}
    return task.model_copy(update={"data": data.model_copy(update=update)})


def load_builtin_tasks() -> dict[str, Task]:
    """The shipped tasks by name, in alphabetical order."""
    return {name: load_task(name) for name in builtin_tasks()}


def load_task(name: str) -> Task:
    """Loads a task by built-in name or folder.

    Raises:
        TaskError: There is no such task, or its files are malformed.
    """
    folder = prompts_dir() / "tasks" / name if name in builtin_tasks() else Path(name).expanduser()
    file = folder / "task.yaml"
    if not file.is_file():
        names = ", ".join(builtin_tasks())
        raise TaskError(f"task {name!r}: neither a folder with a task.yaml nor a built-in task ({names})")
    task = load_model(_read_text(file), str(file), Task, TaskError, context={"folder": folder})
    files = {
        name: _resolve_source(folder, getattr(task.data, name)) for name in ("source", "held_out_source")
    }
    return task.model_copy(update={"data": task.data.model_copy(update=files)})


def _resolve_source(folder: Path, source: str | None) -> str | None:
    """A path relative to the task's folder, made absolute; a Hub dataset ID stays unchanged."""
    if source is None:
        return None
    path = folder.absolute() / Path(source).expanduser()
    return str(path) if path.suffix in DATA_ENDINGS or path.exists() else source


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})") from error
