"""Configuration: one flat model whose every field is a flag, an environment variable, a YAML key and an
argument.

``mpo_lite.config_sources`` reads it. API keys are not part of it: they are read from the environment when a
call is made, so that no saved file can contain one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mpo_lite.model_config import Judges, Model, NamedModel, Price, Url
from mpo_lite.validation import Settings

SANDBOX = "sandbox"
"""Name of the simulated judge and meta-judge, of the shipped policy and of its task."""

DATA_ENDINGS = (".jsonl", ".csv", ".parquet")
"""File name endings of prompt files."""
DEFAULT_POLICY = "Qwen/Qwen2.5-1.5B-Instruct"
METHODS: dict[str, dict[str, Any]] = {
    "guarded": {},
    # The paper's PPO with 64 completions per batch. Its rewards range from 0 to 5, ours from 0 to 1, so the
    # weights added to the reward (KL 0.02, missing EOS 1.0) are a fifth of its own. No adapter on lm_head:
    # TRL rejects it.
    "paper": {
        "algorithm": "ppo",
        "use_gate": False,
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
    },
}
"""Method → the defaults that it changes (arXiv 2504.20157, section on training; see docs/training.md)."""

# Shells expand ~ in flags, but nothing expands it in YAML files and variables.
LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]
PathOrName = Annotated[str, AfterValidator(os.path.expanduser)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(min_length=1),
]


class Ppo(Settings):
    """PPO-only settings, named as in TRL's former PPOConfig.

    Attributes:
        gamma: Discount per token.
        lam: Lambda of generalised advantage estimation.
        vf_coef: Weight of the value loss.
        cliprange_value: How far a value may move from its value at sampling time before its loss is clipped.
        value_learning_rate: Peak learning rate of the value head. Default: learning_rate.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    vf_coef: Annotated[float, Field(ge=0)] = 0.1
    cliprange_value: Annotated[float, Field(gt=0)] = 0.2
    value_learning_rate: Annotated[float, Field(gt=0)] | None = None


class Thresholds(Settings):
    """What a proposed rubric must meet before it is trained on.

    Attributes:
        prompts: Prompts that the initial policy answers before training; these answers anchor every check.
        margin: Minimum mean gap between the anchor answers and known-bad ones.
        agreement: Minimum Kendall's tau between the old and the new rubric on the anchor answers.
        varied: Minimum share of prompt groups whose rewards are not all equal.
        vetoed: Maximum share of recent answers that fail a veto.
        consensus: Minimum mean Kendall's tau, on the anchor answers, between a proposal and three merges
            that each leave one sample out; None: not measured. Costs three merges and their judgements.
        share: Judge calls for the gate, audits and probes, as a share of those planned for training.
    """

    prompts: Annotated[int, Field(ge=4)] = 12
    margin: Annotated[float, Field(ge=0, le=1)] = 0.2
    agreement: Annotated[float, Field(ge=-1, le=1)] = 0.0
    varied: Annotated[float, Field(ge=0, le=1)] = 0.5
    vetoed: Annotated[float, Field(ge=0, le=1)] = 0.8
    consensus: Annotated[float, Field(ge=-1, le=1)] | None = None
    share: Annotated[float, Field(gt=0)] = 0.2


class Config(Settings):
    """All settings of a run. Each description is also the flag's help text."""

    judge: Judges = Field(
        (),
        description="Judge: a LiteLLM model name, a short name, or 'sandbox'. Repeat the flag for a panel.",
    )
    judge_fallback: NamedModel | None = Field(
        None, description="Fallback judge, used for the rest of the run if the judge fails."
    )
    audit_judge: NamedModel | None = Field(
        None,
        description="Audit judge: another model that scores some answers by the task's purpose alone; "
        "nothing is trained on its scores.",
    )
    audit_share: float = Field(
        0.03, gt=0, le=1, description="Share of the training answers that the audit judge scores."
    )
    judge_mode: Literal["pointwise", "groupwise", "planned"] | None = Field(
        None,
        description="pointwise: one call per answer; groupwise: one call per prompt; planned: draft a "
        "marking plan per prompt, then one call per answer. Default: the task's.",
    )
    replicates: int = Field(1, ge=1, description="Verdicts per judge and answer; the reward is their mean.")
    judge_temperature: float | None = Field(
        None, ge=0, description="Sampling temperature of the judge. Default: 0, or 0.7 if replicates > 1."
    )
    meta: NamedModel | None = Field(
        None, description="Meta-judge: a LiteLLM model name, a short name, or 'sandbox'."
    )
    judge_api_base: Url | None = Field(None, description="Base URL of the judge's server.")
    meta_api_base: Url | None = Field(None, description="Base URL of the meta-judge's server.")
    policy: PathOrName = Field(
        DEFAULT_POLICY, description="Policy: a local model directory, a Hub model ID, or 'sandbox'."
    )
    task: PathOrName = Field("essay", description="Task: a built-in name or a task folder.")
    goal: str | None = Field(
        None, min_length=1, description="What a good answer is, in one sentence; replaces the task."
    )
    data: PathOrName | None = Field(
        None, description="Prompts: a .jsonl, .csv or .parquet file, or a Hub dataset ID."
    )
    prompt_column: str | None = Field(
        None,
        min_length=1,
        description="Column that holds the prompt, or a template of columns such as '$title: $text'. "
        "Default: the task's.",
    )
    data_subset: str | None = Field(None, min_length=1, description="Subset of a Hub dataset.")
    data_split: str | None = Field(
        None, min_length=1, description="Split of a Hub dataset. Default: the task's, or train."
    )
    rubric: LocalPath | None = Field(
        None,
        description="First rubric, instead of the task's: a YAML file, or a run, whose last is used.",
    )
    examples: LocalPath | None = Field(
        None,
        description="Labelled answers that judges are shown: a file that 'mpo-lite calibrate' wrote.",
    )
    method: Literal["guarded", "paper"] = Field(
        "guarded",
        description="guarded: gate, alarms and pairs; paper: the paper's method and hyperparameters, PPO "
        "included. Sets defaults; explicit settings override them.",
    )
    algorithm: Literal["grpo", "rloo", "ppo"] = Field("grpo", description="RL algorithm.")
    trainer: Literal["sync", "async"] = Field(
        "sync",
        description="sync: generates, judges and trains in turn; async: trains while a vLLM server generates "
        "and answers are judged (grpo only).",
    )
    steps: int = Field(200, ge=1, description="Number of generation batches to train on.")
    group_size: int = Field(8, ge=2, description="Completions per prompt.")
    batch_prompts: int = Field(8, ge=1, description="Prompts per generation batch.")
    micro_batch: int = Field(
        8, ge=1, description="Completions per forward pass and process; lower it to save memory."
    )
    num_iterations: int = Field(1, ge=1, description="Training passes over each generation batch.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate of AdamW.")
    beta: float = Field(
        default_factory=lambda given: {"async": 0.0}.get(
            given.get("trainer", ""), 0.02 if given.get("algorithm") == "grpo" else 0.004
        ),
        ge=0,
        description="KL penalty coefficient. Default: 0.02 with GRPO, which divides rewards by their spread, "
        "and 0.004 with RLOO and PPO, which do not; 0 with the async trainer, which has none.",
    )
    temperature: float = Field(
        1.0, ge=0, description="Sampling temperature of the policy; 0 (greedy) only with eval and compare."
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="Maximum completion length in tokens. Default: the task's."
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, description="Subtracted from the reward of a truncated completion."
    )
    criterion_weights: Literal["rubric", "contrast"] = Field(
        "rubric",
        description="Weights of criteria in the reward that the optimiser sees. rubric: the rubric's; "
        "contrast: those times how much the answers to a prompt differ in the criterion, by batch.",
    )
    aggregate: Literal["sum", "normalize"] = Field(
        "sum",
        description="How criteria make up the reward that the optimiser sees. sum: their weighted mean; "
        "normalize: each is standardised within its prompt group first.",
    )
    overlap: bool = Field(
        True, description="Judge each completion as soon as it ends, while others are still generated."
    )
    interval: int = Field(10, ge=1, description="Generation batches between meta steps.")
    meta_samples: int = Field(8, ge=1, description="Rollouts shown to the meta-judge per meta step.")
    use_gate: bool = Field(True, description="Check every proposed rubric before it is used.")
    schedule: Literal["alarms", "interval"] = Field(
        "alarms",
        description="interval: a meta step every 'interval' batches; alarms: also when an alarm fires.",
    )
    cooldown: int = Field(
        5, ge=1, description="Minimum batches between a meta step and one that an alarm triggers."
    )
    publish_after: int = Field(
        0,
        ge=0,
        description="Run the meta step asynchronously and apply its rubric this many batches later; 0: wait.",
    )
    meta_timeout: float = Field(
        900.0, gt=0, description="Timeout of a meta step in seconds; after it, the rubric stays as it is."
    )
    strategy: Literal["pairs", "samples"] = Field(
        "pairs",
        description="What the meta-judge sees. pairs: each answer next to the initial policy's, or to the "
        "answer of its group whose reward differs most; samples: answers alone.",
    )
    prescreen: bool = Field(
        False,
        description="Have the meta-judge look through all answers of the interval first, and analyse the "
        "badly judged ones.",
    )
    baseline: Literal["iter0", "expert", "autoprompt", "oracle"] | None = Field(
        None,
        description="Fixed-rubric baseline. iter0: the first rubric; expert: the task's expert.yaml; "
        "autoprompt: refined before training; oracle: the last rubric of the run given as --rubric.",
    )
    rounds: int = Field(
        3, ge=1, description="Meta steps of 'mpo-lite refine' and of the autoprompt baseline."
    )
    gate: Thresholds = Field(default_factory=Thresholds, description="Thresholds of the gate.")
    run_dir: LocalPath | None = Field(None, description="Run directory. Default: runs/<task>-<time>.")
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed of data order, sampling and selection.")
    save_every: int = Field(10, ge=1, description="Generation batches between checkpoints.")
    eval_every: int = Field(5, ge=1, description="Generation batches between gold evaluations.")
    max_usd: float | None = Field(None, gt=0, description="Hard cap on spending in USD.")
    max_calls: int | None = Field(None, gt=0, description="Hard cap on model calls.")
    max_tokens: int | None = Field(None, gt=0, description="Hard cap on input plus output tokens.")
    max_judge_failures: float = Field(
        0.05, ge=0, le=1, description="Maximum share of a batch that may fail to be judged."
    )
    breaker_pause: float = Field(
        30.0, ge=0, description="Seconds to wait before failed judgements are retried."
    )
    concurrency: int = Field(64, ge=1, description="Maximum judge calls in flight in the whole job.")
    call_timeout: float = Field(
        120.0,
        gt=0,
        description="Timeout of a call attempt in seconds; scaled up for replies that may exceed 1,024 "
        "tokens, and doubled for the attempts after one that timed out.",
    )
    verdict_timeout: float = Field(
        default_factory=lambda given: 2.5 * given.get("call_timeout", 120.0),
        gt=0,
        description="Calls to a model fail once it has answered none of them for this many seconds. 'score', "
        "'refine', 'compare' and 'calibrate' also wait this long for a server that is down. Default: 2.5 × "
        "call_timeout.",
    )
    batch_timeout: float = Field(
        default_factory=lambda given: given.get("verdict_timeout", 300.0) + 100.0,
        gt=0,
        description="Seconds without any verdict after which the rest of a batch counts as not judged, and "
        "nine times that in any case. Default: verdict_timeout + 100.",
    )
    judge_max_tokens: int | None = Field(
        None,
        ge=16,
        description="Maximum length of a judge's reply in tokens. Default: by the number of criteria and "
        "answers.",
    )
    meta_max_tokens: int | None = Field(
        None,
        ge=16,
        description="Maximum length of a meta-judge's reply in tokens. Default: by what it is asked for.",
    )
    judge_price: Price | None = Field(
        None, description="The judge's USD per million input, output and (optionally) cached input tokens."
    )
    meta_price: Price | None = Field(None, description="The meta-judge's price; same form as judge_price.")
    log_calls: LocalPath | None = Field(
        None,
        description="Log complete requests and replies, prompts and answers included, to this file; keys are "
        "left out. With train and resume, a relative path is inside the run directory.",
    )
    cache_dir: LocalPath = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "mpo-lite",
        description="Response cache on disk, shared by all runs.",
    )
    lora_r: int = Field(32, ge=1, description="LoRA rank.")
    lora_alpha: int = Field(64, ge=1, description="LoRA scaling factor (alpha).")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout.")
    lora_target_modules: Names = Field(
        ("all-linear",), description="LoRA target modules; repeat the flag for several."
    )
    load_in_4bit: bool = Field(
        False, description="Load the frozen base weights in 4 bits (QLoRA; needs a GPU)."
    )
    gradient_checkpointing: bool | None = Field(
        None, description="Gradient checkpointing. Default: on with a GPU."
    )
    bf16: bool | None = Field(None, description="Train in bfloat16. Default: on with a GPU.")
    use_vllm: bool | None = Field(None, description="Generate with vLLM.")
    vllm_mode: Literal["colocate", "server"] | None = Field(
        None,
        description="colocate: vLLM in the training process; server: a server started by 'trl vllm-serve'. "
        "The async trainer takes one started by 'vllm serve'.",
    )
    vllm_server_base_url: Url | None = Field(None, description="Base URL of the vLLM server.")
    vllm_gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Share of GPU memory for vLLM in colocate mode."
    )
    report_to: Names | None = Field(
        None,
        description="Experiment tracker: tensorboard, wandb, trackio, ... Repeat the flag for several.",
    )
    ppo: Ppo = Field(default_factory=Ppo, description="PPO-only settings.")
    trl: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Any field of TRL's GRPOConfig (with rloo: RLOOConfig)."
    )

    @property
    def asks_meta(self) -> bool:
        """Whether a training run asks the meta-judge: a frozen rubric needs none."""
        return self.baseline in (None, "autoprompt")

    @property
    def simulated(self) -> tuple[str, ...]:
        """Which of judge, meta-judge and audit judge the sandbox simulates."""
        models = {
            "judge": [*self.judge, self.judge_fallback],
            "meta-judge": [self.meta],
            "audit judge": [self.audit_judge],
        }
        return tuple(
            role for role, named in models.items() if any(model and model.model == SANDBOX for model in named)
        )

    @property
    def models(self) -> list[Model]:
        """The models that the settings name: judges, fallback judge, meta-judge and audit judge."""
        named = (*self.judge, self.judge_fallback, self.meta, self.audit_judge)
        return [model for model in named if model]

    @property
    def batch_completions(self) -> int:
        """Completions per generation batch."""
        return self.batch_prompts * self.group_size
