"""Configuration: one flat model whose every field is a flag, an environment variable, a YAML key and an
argument.

Precedence: explicit argument or flag > ``MPO_*`` environment (``.env`` included) > YAML > default, in the
command line and in ``MPO(...)`` alike. API keys are no part of it: they are read from the environment when a
call is made, so that no saved file can hold one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

import yaml
from dotenv import load_dotenv
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from mpo_lite.errors import ConfigError

DEFAULT_POLICY = "Qwen/Qwen2.5-1.5B-Instruct"


def _plain_url(url: str) -> str:
    """Refuses what is no http(s) URL, and URLs that carry a password: the configuration is saved with the
    run.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address such as http://localhost:8000/v1")
    if parts.username or parts.password:
        raise ValueError("must not carry a password; give it as MPO_JUDGE_API_KEY or MPO_META_API_KEY")
    return url


# Shells expand ~ in flags; in YAML and variables nobody does.
LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]
PathOrName = Annotated[str, AfterValidator(os.path.expanduser)]
Url = Annotated[str, AfterValidator(_plain_url)]
Price = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=2, max_length=3)]
"""USD per million input and output tokens and, if wanted, input tokens from the provider's cache."""


class Model(BaseModel):
    """A judge: its name alone, or with an address, key, price and cache name of its own.

    Attributes:
        model: LiteLLM name, short name, or ``sandbox``.
        api_base: Address of its server.
        api_key_env: Name of the variable that holds its key; never the key.
        price: Its price.
        label: Name in cache and figures; needed where two servers serve different models under one name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, Field(min_length=1)]
    api_base: Url | None = None
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    price: Price | None = None
    label: str | None = None


def _named(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    entries = cast(list[Any], value) if isinstance(value, list | tuple) else [] if value is None else [value]
    return tuple(_named(entry) for entry in entries)


def _short(model: Model) -> Any:
    told = model.model_dump(mode="json", exclude_none=True)
    return told["model"] if set(told) == {"model"} else told


NamedModel = Annotated[
    Model, BeforeValidator(_named), PlainSerializer(lambda model: _short(model) if model else None)
]
Judges = Annotated[
    tuple[Model, ...],
    BeforeValidator(_listed),
    PlainSerializer(
        lambda models: _short(models[0]) if len(models) == 1 else [_short(each) for each in models]
    ),
]


class Lora(BaseModel):
    """The adapter that is trained. Defaults follow common LoRA practice; the paper uses r 64, alpha 128."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: Annotated[int, Field(ge=1)] = 32
    alpha: Annotated[int, Field(ge=1)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | tuple[str, ...] = "all-linear"


class Config(BaseModel):
    """Everything a run can be told. Each description is also the flag's help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: Judges = Field(
        (), description="Judge: a LiteLLM model name, a short name, or 'sandbox'. Given again: a panel."
    )
    judge_fallback: NamedModel | None = Field(
        None, description="Judge that takes over for good where the judge is down."
    )
    judge_mode: Literal["pointwise", "groupwise"] = Field(
        "pointwise", description="Judge answers one by one, or all answers to a prompt in one call."
    )
    replicates: int = Field(1, ge=1, description="Times each judge is asked; the reward is the mean.")
    judge_temperature: float | None = Field(
        None, ge=0, description="Sampling temperature of the judge; default 0, or 0.7 with replicates."
    )
    meta: str | None = Field(None, description="Meta-judge: likewise.")
    judge_api_base: Url | None = Field(None, description="Address of the judge's server.")
    meta_api_base: Url | None = Field(None, description="Address of the meta-judge's server.")
    policy: PathOrName = Field(DEFAULT_POLICY, description="Policy: a folder, a hub id, or 'sandbox'.")
    task: PathOrName = Field("essay", description="Task: a built-in name or a folder.")
    data: PathOrName | None = Field(None, description="Prompts: jsonl, csv, parquet or hub id.")
    rubric: LocalPath | None = Field(None, description="First rubric (YAML) instead of the task's.")
    steps: int = Field(200, ge=1, description="Generation batches to train.")
    group_size: int = Field(8, ge=2, description="Completions per prompt (GRPO group).")
    batch_prompts: int = Field(8, ge=1, description="Prompts per generation batch.")
    micro_batch: int = Field(8, ge=1, description="Completions per forward pass (memory).")
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate of AdamW.")
    beta: float = Field(0.02, ge=0, description="Weight of the KL penalty.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of the policy.")
    max_new_tokens: int | None = Field(
        None, ge=1, description="Longest completion in tokens; default: the task's."
    )
    interval: int = Field(10, ge=1, description="Generation batches between meta steps.")
    meta_samples: int = Field(8, ge=1, description="Rollouts shown to the meta-judge per step.")
    freeze_rubric: bool = Field(False, description="Train against the first rubric to the end.")
    run_dir: LocalPath | None = Field(None, description="Folder of the run; default runs/<task>-<time>.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of data order, sampling and selection.")
    save_every: int = Field(10, ge=1, description="Generation batches between checkpoints.")
    eval_every: int = Field(5, ge=1, description="Generation batches between gold evaluations.")
    max_usd: float | None = Field(None, gt=0, description="Hard cap on spend in USD.")
    max_calls: int | None = Field(None, gt=0, description="Hard cap on model calls.")
    max_tokens: int | None = Field(None, gt=0, description="Hard cap on tokens, sent and received.")
    max_judge_failures: float = Field(
        0.05, ge=0, le=1, description="Share of a batch whose judging may fail before the run stops."
    )
    breaker_pause: float = Field(
        30.0, ge=0, description="Seconds to wait before failed judgements are tried again."
    )
    concurrency: int = Field(64, ge=1, description="Judge calls in flight, at most, in the whole job.")
    call_timeout: float = Field(120.0, gt=0, description="Seconds one attempt of a call may take.")
    verdict_timeout: float = Field(
        300.0, gt=0, description="Seconds a call may take with all its attempts, from the first one on."
    )
    # Two rounds and a pause, and the same once more for a fallback, stay below the 1800 s after which torch
    # takes a process that waits for the others for dead.
    batch_timeout: float = Field(
        400.0, gt=0, description="Seconds a batch is judged for; what is late then counts as not judged."
    )
    judge_max_tokens: int = Field(1024, ge=16, description="Longest reply of the judge in tokens.")
    meta_max_tokens: int = Field(4096, ge=16, description="Longest reply of the meta-judge in tokens.")
    judge_price: Price | None = Field(
        None, description="USD per million input, output and, if wanted, cached input tokens of the judge."
    )
    meta_price: Price | None = Field(None, description="The same of the meta-judge.")
    cache_dir: LocalPath = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mpo-lite",
        description="Disk cache of model answers, shared by all runs.",
    )
    lora: Lora = Field(default_factory=Lora, description="Adapter settings.")
    trainer: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Any field of TRL's GRPOConfig."
    )

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of all judges and of the meta-judge, as they were given."""
        judges = [*self.judge, *([self.judge_fallback] if self.judge_fallback else [])]
        return (*(judge.model for judge in judges), *([self.meta] if self.meta else []))

    @property
    def batch_completions(self) -> int:
        """Completions per generation batch."""
        return self.batch_prompts * self.group_size


@dataclass(frozen=True)
class _Given:
    """One value somebody gave, and where: the place that an error names."""

    value: Any
    origin: str


def load_config(
    path: Path | None = None,
    given: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Resolves a configuration from all its sources.

    Args:
        path: A YAML file, or None.
        given: Explicit arguments or flags by field name; None values count as not given.
        overrides: ``key.path=value`` texts, as strong as flags; values are read as YAML.
        environ: The environment; None means the process's, after reading ``.env`` in the working directory.

    Raises:
        ConfigError: A source is unreadable, or a value is unknown or out of range; names the place and the
            mend.
    """
    if environ is None:
        load_dotenv(Path(".env"))
        environ = os.environ
    merged: dict[str, _Given] = _from_yaml(path) if path else {}
    for name in Config.model_fields:
        variable = f"MPO_{name.upper()}"
        if value := environ.get(variable):
            merged = _without(merged, name) | _flatten({name: _scalar(value)}, origin=variable)
    for name, value in (given or {}).items():
        if value is not None:
            merged = _without(merged, name) | _flatten({name: value}, origin=f"--{name.replace('_', '-')}")
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"-o {text}: write key.path=value, for example -o lora.r=16")
        merged = _without(merged, name) | {name: _Given(_scalar(value), f"-o {name}")}
    return _validate(merged)


def save_config(config: Config) -> str:
    """The resolved configuration as YAML; ``load_config`` reads it back to an equal value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _scalar(text: str) -> Any:
    """Reads a value from a flag or variable; text that is no YAML stays text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML 1.1 reads 1e-5 as text, which pydantic turns into a number where one is wanted.
    return text if value is None and text else value


def _without(merged: Mapping[str, _Given], name: str) -> dict[str, _Given]:
    """Drops ``name`` and what lies below it: a stronger source replaces the whole value."""
    return {key: value for key, value in merged.items() if key != name and not key.startswith(f"{name}.")}


def _flatten(
    data: Mapping[str, Any], origin: str, lines: Mapping[str, int] | None = None, prefix: str = ""
) -> dict[str, _Given]:
    """Dotted key → value; a file's values are placed by their lines."""
    flat: dict[str, _Given] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flatten(cast(dict[str, Any], value), origin, lines, f"{path}.")
        else:
            flat[path] = _Given(value, f"{origin}:{lines.get(path, 1)}" if lines is not None else origin)
    return flat


def _from_yaml(path: Path) -> dict[str, _Given]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data: Any = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, like 'steps: 200'")
    lines = _key_lines(node)
    return _flatten(cast(dict[str, Any], data), str(path), lines)


def _key_lines(node: yaml.Node | None, prefix: str = "") -> dict[str, int]:
    """Dotted key → line number in the file, from 1."""
    lines: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}{key.value}"
            lines[path] = key.start_mark.line + 1
            lines |= _key_lines(value, f"{path}.")
    return lines


def _validate(merged: Mapping[str, _Given]) -> Config:
    tree: dict[str, Any] = {}
    for path, entry in merged.items():
        *parents, leaf = path.split(".")
        branch: Any = tree
        for part in parents:
            branch = cast(dict[str, Any], branch).setdefault(part, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{entry.origin}: {path} lies below a value that is no mapping")
        branch[leaf] = entry.value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(_complaint(path, problem["type"], problem["msg"], merged)) from error


def _complaint(path: str, kind: str, message: str, merged: Mapping[str, _Given]) -> str:
    """One line: where, which key, what is wrong, how to mend it."""
    origin = next((entry.origin for key, entry in merged.items() if _related(path, key)), "configuration")
    if kind != "extra_forbidden":
        return f"{origin} {path}: {message.removeprefix('Value error, ')}"
    *parents, leaf = path.split(".")
    if leaf.endswith("api_key"):
        mend = "name the variable that holds it by api_key_env" if parents else f"set MPO_{leaf.upper()}"
        return f"{origin} {path}: keys are never read from files or flags; {mend}"
    level = parents[0] if parents else ""
    names = {"lora": Lora, "judge": Model, "judge_fallback": Model}.get(level, Config).model_fields
    close = difflib.get_close_matches(leaf, names, n=1)
    hint = f', did you mean "{close[0]}"?' if close else f"; known keys: {', '.join(names)}"
    return f"{origin} {path}: unknown key{hint}"


def _related(path: str, key: str) -> bool:
    return path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.")
