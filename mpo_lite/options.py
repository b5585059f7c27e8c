"""The settings as keyword arguments, for editors and type checkers: one for each field of ``Config``.

``Config`` checks the values and describes them; a test keeps the names the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

ModelOption = str | Mapping[str, Any]
"""A model's name, or a mapping with the keys of ``mpo_lite.model_config.Model``."""


class Options(TypedDict, total=False):
    """Any field of ``mpo_lite.config.Config``; what is left out comes from ``MPO_*`` variables, ``.env`` and
    defaults.
    """

    judge: ModelOption | Sequence[ModelOption] | None
    judge_fallback: ModelOption | None
    audit_judge: ModelOption | None
    audit_share: float | None
    judge_mode: Literal["pointwise", "groupwise", "planned"] | None
    replicates: int | None
    judge_temperature: float | None
    meta: ModelOption | None
    judge_api_base: str | None
    meta_api_base: str | None
    policy: str | None
    task: str | None
    goal: str | None
    data: str | None
    prompt_column: str | None
    data_subset: str | None
    data_split: str | None
    rubric: str | Path | None
    examples: str | Path | None
    method: Literal["guarded", "paper"] | None
    algorithm: Literal["grpo", "rloo", "ppo"] | None
    trainer: Literal["sync", "async"] | None
    steps: int | None
    group_size: int | None
    batch_prompts: int | None
    micro_batch: int | None
    num_iterations: int | None
    learning_rate: float | None
    beta: float | None
    temperature: float | None
    max_new_tokens: int | None
    missing_eos_penalty: float | None
    criterion_weights: Literal["rubric", "contrast"] | None
    aggregate: Literal["sum", "normalize"] | None
    overlap: bool | None
    interval: int | None
    meta_samples: int | None
    use_gate: bool | None
    schedule: Literal["alarms", "interval"] | None
    cooldown: int | None
    publish_after: int | None
    meta_timeout: float | None
    strategy: Literal["pairs", "samples"] | None
    prescreen: bool | None
    baseline: Literal["iter0", "expert", "autoprompt", "oracle"] | None
    rounds: int | None
    gate: Mapping[str, float] | None
    run_dir: str | Path | None
    seed: int | None
    save_every: int | None
    eval_every: int | None
    max_usd: float | None
    max_calls: int | None
    max_tokens: int | None
    max_judge_failures: float | None
    breaker_pause: float | None
    concurrency: int | None
    call_timeout: float | None
    verdict_timeout: float | None
    batch_timeout: float | None
    judge_max_tokens: int | None
    meta_max_tokens: int | None
    judge_price: Sequence[float] | None
    meta_price: Sequence[float] | None
    log_calls: str | Path | None
    cache_dir: str | Path | None
    lora_r: int | None
    lora_alpha: int | None
    lora_dropout: float | None
    lora_target_modules: str | Sequence[str] | None
    load_in_4bit: bool | None
    gradient_checkpointing: bool | None
    bf16: bool | None
    use_vllm: bool | None
    vllm_mode: Literal["colocate", "server"] | None
    vllm_server_base_url: str | None
    vllm_gpu_memory_utilization: float | None
    report_to: str | Sequence[str] | None
    ppo: Mapping[str, float] | None
    trl: Mapping[str, Any] | None
