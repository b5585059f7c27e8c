"""Configuration: one flat model whose every field is a flag, an environment variable, a YAML key and an
argument.

``mpo_lite.config_sources`` reads it. API keys are no part of it: they are read from the environment when a
call is made, so that no saved file can hold one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, field_validator

from mpo_lite.validation import Settings

SANDBOX = "sandbox"
"""Name of the simulated judge and meta-judge, of the shipped policy and of its task."""

DATA_ENDINGS = (".jsonl", ".csv", ".parquet")
"""How the name of a file of prompts ends."""
DEFAULT_POLICY = "Qwen/Qwen2.5-1.5B-Instruct"
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's PPO on 64 completions a batch. Its rewards lie in 0 to 5, ours in 0 to 1: the weights that
    # meet the reward (KL 0.02, missing EOS 1.0) are a fifth of its own. TRL refuses an adapter on lm_head.
    "paper": {
        "algorithm": "ppo",
        "mode": "paper",
        "schedule": "interval",
        "strategy": "samples",
        "meta_samples": 20,
        "judge_temperature": 0.02,
        "batch_prompts": 32,
        "group_size": 2,
        "num_iterations": 4,
        "learning_rate": 3e-6,
        "beta": 0.004,
        "missing_eos_penalty": 0.2,
        "lora_r": 64,
        "lora_alpha": 128,
        "lora_dropout": 0.1,
    }
}
"""Values that a preset stands for (arXiv 2504.20157, section on training; see docs/training.md)."""


_KEY_VARIABLES = {"judge_api_base": "MPO_JUDGE_API_KEY", "meta_api_base": "MPO_META_API_KEY"}


_KEY_LIKE = re.compile(r";|%3[bf]|\bsk-\w|\b(?:key|token)=", re.IGNORECASE)


def _model_name(name: str) -> str:
    """Refuses a key in the place of a model's name: names are printed and saved."""
    if re.match(r"sk-\w", name):
        raise ValueError("looks like a key; name the model here, and give its key by a variable")
    return name


def _plain_url(url: str, info: ValidationInfo) -> str:
    """Refuses what is no http(s) URL, and URLs that carry a credential: the configuration is saved with the
    run.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment or _KEY_LIKE.search(parts.path):
        variable = _KEY_VARIABLES.get(info.field_name or "", "the variable that api_key_env names")
        carried = "a password" if "@" in parts.netloc else "a key, or anything behind a '?' or ';'"
        raise ValueError(f"must not carry {carried}; give the key as {variable}")
    return url


def _prices(value: Any) -> Any:
    entries = cast(list[Any], value) if isinstance(value, list | tuple) else []
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) and one >= 0 for one in entries)
    if len(entries) not in (2, 3) or not numbers:
        raise ValueError("give USD per million input and output tokens, such as [0.15, 0.6]")
    return tuple(entries)


# Shells expand ~ in flags; in YAML and variables nobody does.
LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]
PathOrName = Annotated[str, AfterValidator(os.path.expanduser)]
Url = Annotated[str, AfterValidator(_plain_url)]
Price = Annotated[
    tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=2, max_length=3), BeforeValidator(_prices)
]
"""USD per million input and output tokens and, if wanted, input tokens from the provider's cache."""


class Model(Settings):
    """A judge: its name alone, or with an address, key, price and cache name of its own.

    Attributes:
        model: LiteLLM name, short name, or ``sandbox``.
        api_base: Address of its server.
        api_key_env: Name of the variable that holds its key; never the key.
        price: Its price.
        label: Name in cache and figures; needed where two servers serve different models under one name.
    """

    model: Annotated[str, Field(min_length=1), AfterValidator(_model_name)]
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
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(min_length=1),
]
Judges = Annotated[
    tuple[Model, ...],
    BeforeValidator(_listed),
    PlainSerializer(
        lambda models: _short(models[0]) if len(models) == 1 else [_short(each) for each in models]
    ),
]


class Ppo(Settings):
    """What PPO has beyond the other algorithms, by the names of TRL's former PPOConfig.

    Attributes:
        gamma: Discount per token.
        lam: Lambda of generalised advantage estimation.
        vf_coef: Weight of the value loss.
        cliprange_value: How far a value may move from the one sampled under before its loss is clipped.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    vf_coef: Annotated[float, Field(ge=0)] = 0.1
    cliprange_value: Annotated[float, Field(gt=0)] = 0.2


class Thresholds(Settings):
    """What a proposed rubric must pass before it is trained on.

    Attributes:
        prompts: Prompts answered by the initial policy before training; these answers anchor every check.
        margin: How far known-bad answers must score below them, on average.
        agreement: Kendall's tau between old and new rubric on them, at least.
        varied: Share of prompt groups whose rewards are not all equal, at least.
        vetoed: Share of recent answers that fail a veto, at most.
        share: Judgements the gate, audits and probes may take, as a share of those that training plans.
    """

    prompts: Annotated[int, Field(ge=4)] = 12
    margin: Annotated[float, Field(ge=0, le=1)] = 0.2
    agreement: Annotated[float, Field(ge=-1, le=1)] = 0.0
    varied: Annotated[float, Field(ge=0, le=1)] = 0.5
    vetoed: Annotated[float, Field(ge=0, le=1)] = 0.8
    share: Annotated[float, Field(gt=0)] = 0.1


class Config(Settings):
    """Everything a run can be told. Each description is also the flag's help."""

    judge: Judges = Field(
        (), description="Judge: a LiteLLM model name, a short name, or 'sandbox'. Given again: a panel."
    )
    judge_fallback: NamedModel | None = Field(
        None, description="Judge that takes over for good where the judge is down."
    )
    judge_mode: Literal["pointwise", "groupwise", "planned"] | None = Field(
        None,
        description="Judge answers one by one, all answers to a prompt in one call, or by a plan per prompt; "
        "default: the task's.",
    )
    replicates: int = Field(1, ge=1, description="Times each judge is asked; the reward is the mean.")
    judge_temperature: float | None = Field(
        None, ge=0, description="Sampling temperature of the judge; default 0, or 0.7 with replicates."
    )
    meta: Annotated[str, AfterValidator(_model_name)] | None = Field(
        None, description="Name of the meta-judge's model."
    )
    judge_api_base: Url | None = Field(None, description="Address of the judge's server.")
    meta_api_base: Url | None = Field(None, description="Address of the meta-judge's server.")
    policy: PathOrName = Field(DEFAULT_POLICY, description="Policy: a folder, a hub id, or 'sandbox'.")
    task: PathOrName = Field("essay", description="Task: a built-in name or a folder.")
    goal: str | None = Field(
        None, min_length=1, description="Instead of a task: what good answers are, in a sentence."
    )
    data: PathOrName | None = Field(
        None, description="Prompts: a .jsonl, .csv or .parquet file, or the id of a hub data set."
    )
    prompt_column: str | None = Field(
        None,
        min_length=1,
        description="Column of the data that holds the prompt, or a template such as '$title: $text'; "
        "default: the task's.",
    )
    data_subset: str | None = Field(None, min_length=1, description="Subset of a hub data set.")
    data_split: str | None = Field(
        None, min_length=1, description="Split of a hub data set; default: train, or the task's own."
    )
    rubric: LocalPath | None = Field(
        None, description="First rubric instead of the task's: a YAML file, or a run, for its last rubric."
    )
    preset: Literal["paper"] | None = Field(
        None, description="Settings to begin with: those of the paper. What is given beside it wins."
    )
    algorithm: Literal["grpo", "rloo", "ppo"] = Field("grpo", description="How rewards move the policy.")
    steps: int = Field(200, ge=1, description="Generation batches to train.")
    group_size: int = Field(8, ge=2, description="Completions per prompt.")
    batch_prompts: int = Field(8, ge=1, description="Prompts per generation batch.")
    micro_batch: int = Field(8, ge=1, description="Completions per forward pass and process (memory).")
    num_iterations: int = Field(1, ge=1, description="Passes over each generation batch.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate of AdamW.")
    beta: float = Field(0.02, ge=0, description="Weight of the KL penalty.")
    temperature: float = Field(
        1.0, ge=0, description="Sampling temperature of the policy; 0, for eval and compare alone, is greedy."
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="Longest completion in tokens; default: the task's."
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, description="Taken off the reward of a completion that was cut at its longest."
    )
    overlap: bool = Field(
        True, description="Judge each completion as it ends, while others are still generated."
    )
    interval: int = Field(10, ge=1, description="Generation batches between meta steps.")
    meta_samples: int = Field(8, ge=1, description="Rollouts shown to the meta-judge per step.")
    mode: Literal["guarded", "paper"] = Field(
        "guarded", description="A proposed rubric must pass the gate, or, as in the paper, is taken as it is."
    )
    schedule: Literal["alarms", "interval"] = Field(
        "alarms",
        description="Meta steps at each interval, and early when an alarm is raised; or without these.",
    )
    cooldown: int = Field(
        5, ge=1, description="Generation batches between a meta step and an early one, at least."
    )
    publish_after: int = Field(
        0, ge=0, description="Generation batches a meta step may run beside training before it is waited for."
    )
    meta_timeout: float = Field(
        900.0, gt=0, description="Seconds a meta step may take; late: the rubric stays."
    )
    strategy: Literal["pairs", "samples"] = Field(
        "pairs",
        description="Show the meta-judge answers beside the initial policy's, or, as in the paper, alone.",
    )
    prescreen: bool = Field(
        False, description="Have the meta-judge look for badly judged answers first, and analyse those."
    )
    baseline: Literal["iter0", "expert", "autoprompt", "oracle"] | None = Field(
        None,
        description="Train against one rubric to the end: the first; the task's expert.yaml; one refined "
        "before training; the last of the run that --rubric names.",
    )
    rounds: int = Field(
        3, ge=1, description="Meta steps of 'mpo-lite refine' and of the baseline autoprompt."
    )
    gate: Thresholds = Field(default_factory=Thresholds, description="Thresholds of the gate.")
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
    call_timeout: float = Field(
        120.0,
        gt=0,
        description="Seconds an attempt of a call may take (more for replies that may have more than 1,024 "
        "tokens); after one that took longer, twice as long.",
    )
    verdict_timeout: float = Field(
        default_factory=lambda given: 2.5 * given.get("call_timeout", 120.0),
        gt=0,
        description="Seconds without any answer of a model after which calls to it fail; while it answers, "
        "they wait. 'score', 'refine' and 'compare' wait so long for a server that is down. Default: 2.5 "
        "times call_timeout.",
    )
    batch_timeout: float = Field(
        default_factory=lambda given: given.get("verdict_timeout", 300.0) + 100.0,
        gt=0,
        description="Seconds without any verdict after which what is missing of a batch counts as not "
        "judged; at nine times that it does in any case. Default: verdict_timeout and 100 more.",
    )
    judge_max_tokens: int | None = Field(
        None,
        ge=16,
        description="Longest reply of the judge in tokens; default: by the number of criteria and answers.",
    )
    meta_max_tokens: int | None = Field(
        None,
        ge=16,
        description="Longest reply of the meta-judge in tokens; default: by what it is asked for.",
    )
    judge_price: Price | None = Field(
        None, description="USD per million input, output and, if wanted, cached input tokens of the judge."
    )
    meta_price: Price | None = Field(None, description="The same of the meta-judge.")
    log_calls: LocalPath | None = Field(
        None,
        description="File for whole requests and replies, without keys: it holds prompts and answers. In "
        "train and resume a relative one lies in the run's folder.",
    )
    cache_dir: LocalPath = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mpo-lite",
        description="Disk cache of model answers, shared by all runs.",
    )
    lora_r: int = Field(32, ge=1, description="Rank of the adapter.")
    lora_alpha: int = Field(64, ge=1, description="Scale of the adapter.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout within the adapter.")
    lora_target_modules: Names = Field(
        ("all-linear",), description="Modules with an adapter. Given again: several."
    )
    load_in_4bit: bool = Field(False, description="Hold the frozen weights in 4 bits (QLoRA; needs a GPU).")
    gradient_checkpointing: bool | None = Field(
        None, description="Save memory by computing activations twice; default: on a GPU."
    )
    bf16: bool | None = Field(None, description="Train in bfloat16; default: on a GPU.")
    use_vllm: bool | None = Field(None, description="Generate by vLLM.")
    vllm_mode: Literal["colocate", "server"] | None = Field(
        None, description="vLLM in the training process, or a server of 'trl vllm-serve'."
    )
    vllm_server_base_url: Url | None = Field(None, description="Address of that server.")
    vllm_gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Share of GPU memory for a vLLM in the training process."
    )
    report_to: Names | None = Field(
        None, description="Tracker: tensorboard, wandb, trackio, ... Given again: several."
    )
    ppo: Ppo = Field(default_factory=Ppo, description="Settings of PPO alone.")
    trainer: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Any field of TRL's GRPOConfig (rloo: RLOOConfig)."
    )

    @field_validator("meta", mode="before")
    @classmethod
    def _meta_is_a_name(cls, value: Any) -> Any:
        if isinstance(value, (dict, list)):
            raise ValueError(
                "give the meta-judge's name alone; its address goes to meta_api_base, its price to meta_price"
            )
        return value

    @property
    def asks_meta(self) -> bool:
        """Whether a training asks the meta-judge: a frozen rubric needs none."""
        return self.baseline in (None, "autoprompt")

    @property
    def simulated(self) -> tuple[str, ...]:
        """Which of judge and meta-judge the sandbox plays."""
        judges = [*self.judge, *([self.judge_fallback] if self.judge_fallback else [])]
        roles = {"judge": any(each.model == SANDBOX for each in judges), "meta-judge": self.meta == SANDBOX}
        return tuple(role for role, is_simulated in roles.items() if is_simulated)

    @property
    def batch_completions(self) -> int:
        """Completions per generation batch."""
        return self.batch_prompts * self.group_size
