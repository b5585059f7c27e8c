"""Which model a name means, where it is served, and what it costs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Literal

from mpo_lite.config import SANDBOX, Config
from mpo_lite.errors import ConfigError
from mpo_lite.model_config import Model, Price

ALIASES = {
    "claude": "anthropic/claude-sonnet-4-5-20250929",
    "claude-sonnet": "anthropic/claude-sonnet-4-5-20250929",
    "claude-haiku": "anthropic/claude-haiku-4-5-20251001",
    "claude-opus": "anthropic/claude-opus-4-5-20251101",
    "gpt-4o": "openai/gpt-4o-2024-11-20",
    "gpt-4o-mini": "openai/gpt-4o-mini-2024-07-18",
    "gpt-4.1": "openai/gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "openai/gpt-4.1-mini-2025-04-14",
    "gpt-5": "openai/gpt-5-2025-08-07",
    "gpt-5-mini": "openai/gpt-5-mini-2025-08-07",
    "gemini": "gemini/gemini-2.5-pro",
    "gemini-flash": "gemini/gemini-2.5-flash",
}
"""Short name → pinned full name, so that a run means the same model next month. ``mpo-lite train`` prints the
full name."""

KEYLESS = "none"
"""Sent as the key to a self-hosted server: clients insist on one."""

Role = Literal["judge", "meta", "audit"]
"""Whose settings and variables apply to a model: ``--judge-api-base``, ``MPO_META_API_KEY``."""


@dataclass(frozen=True)
class Backend:
    """One model at one address, and how to ask it.

    Attributes:
        label: Identity in the cache: the full model name unless set. Not the address, which may change.
        model: LiteLLM's name for the model.
        api_base: Address of the server, or None for the provider's own.
        api_key: Key to send; never printed. None: the provider's usual variable.
        temperature: Sampling temperature of the answers.
        max_tokens: Maximum answer length in tokens; None: set by each call.
        price: See ``mpo_lite.model_config.Price``; None: LiteLLM's table.
        role: The role it is asked in.
        key_variable: Variable that ``api_key`` was read from; empty if from none.
    """

    label: str
    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 0.0
    max_tokens: int | None = None
    price: Price | None = None
    role: Role = "judge"
    key_variable: str = ""

    @property
    def is_simulated(self) -> bool:
        """Whether it is the built-in simulated judge or meta-judge."""
        return self.model.startswith(f"openai/{SANDBOX}-")

    @property
    def address_setting(self) -> str:
        """Where its address is set, for the end of an error."""
        return "api_base of audit_judge" if self.role == "audit" else f"--{self.role}-api-base"

    @property
    def where(self) -> str:
        """Name and address, for the beginning of an error."""
        return f"{self.model}{f' at {self.api_base}' if self.api_base else ''}"


def full_name(name: str) -> str:
    """The pinned name that a short name stands for; any other name unchanged."""
    return ALIASES.get(name, name)


def judge_backends(config: Config, environ: Mapping[str, str] | None = None) -> tuple[Backend, ...]:
    """The judges of this configuration; several form a panel.

    ``judge_api_base`` and ``judge_price`` apply to judges without their own; ``MPO_JUDGE_API_KEY`` applies to
    a single judge only: several use ``api_key_env`` or their providers' variables.

    Raises:
        ConfigError: No judge is given, or two of them have the same label.
    """
    environ = os.environ if environ is None else environ
    if not config.judge:
        raise ConfigError(
            "no judge: pass --judge MODEL (for example gpt-4o), set MPO_JUDGE, "
            "or try it without a key: mpo-lite quickstart"
        )
    common = {"api_base": config.judge_api_base, "price": config.judge_price}
    key_variable = "MPO_JUDGE_API_KEY" if len(config.judge) == 1 else ""
    judges = tuple(
        _judge(_with_defaults(spec, common), config, environ, key_variable) for spec in config.judge
    )
    labels = [judge.label for judge in judges]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise ConfigError(
            f"judge {repeated[0]}: listed twice; to ask one judge several times use --replicates, "
            "and give different servers different labels"
        )
    return judges


def fallback_backend(config: Config, environ: Mapping[str, str] | None = None) -> Backend | None:
    """The judge that takes over if the others are down, or None."""
    environ = os.environ if environ is None else environ
    return _judge(config.judge_fallback, config, environ) if config.judge_fallback else None


def meta_backend(config: Config, environ: Mapping[str, str] | None = None) -> Backend:
    """The meta-judge. Raises ``ConfigError`` if none is given; the message says how to give one."""
    environ = os.environ if environ is None else environ
    if not config.meta:
        raise ConfigError(
            "no meta-judge: pass --meta MODEL (for example claude; it may be the judge's model), "
            "set MPO_META, or train without one: --baseline iter0"
        )
    spec = _with_defaults(config.meta, {"api_base": config.meta_api_base, "price": config.meta_price})
    return _backend(spec, "meta", config, environ, "MPO_META_API_KEY", 0.7, config.meta_max_tokens)


def audit_backend(config: Config, environ: Mapping[str, str] | None = None) -> Backend | None:
    """The model that audits, or None."""
    environ = os.environ if environ is None else environ
    if not config.audit_judge:
        return None
    return _backend(
        config.audit_judge, "audit", config, environ, "MPO_AUDIT_API_KEY", 0.0, config.judge_max_tokens
    )


def _judge(spec: Model, config: Config, environ: Mapping[str, str], key_variable: str = "") -> Backend:
    # At temperature 0, replicates would repeat the same verdict.
    several = config.replicates > 1
    temperature = config.judge_temperature if config.judge_temperature is not None else 0.7 * several
    return _backend(spec, "judge", config, environ, key_variable, temperature, config.judge_max_tokens)


def _backend(
    spec: Model,
    role: Role,
    config: Config,
    environ: Mapping[str, str],
    key_variable: str,
    temperature: float,
    max_tokens: int | None,
) -> Backend:
    if spec.api_key_env and not environ.get(spec.api_key_env):
        raise ConfigError(
            f"{role} {spec.model}: the variable {spec.api_key_env} (named by api_key_env) is not set"
        )
    simulated = spec.model == SANDBOX
    if simulated and not spec.api_base:
        raise ConfigError(
            f"{role} {SANDBOX!r}: only the command line starts it automatically; "
            "run 'mpo-lite sandbox serve' and use what it prints"
        )
    name = full_name(spec.model)
    key_variable = spec.api_key_env or key_variable
    key = environ.get(key_variable)
    return Backend(
        # A simulated model is part of the program: another version may answer differently.
        label=spec.label or (f"{SANDBOX}-{version('mpo-lite')}/{role}-{config.seed}" if simulated else name),
        model=f"openai/{SANDBOX}-{role}" if simulated else name,
        api_base=spec.api_base,
        # Never send a provider's key from the environment to a self-hosted server.
        api_key=key or (KEYLESS if spec.api_base else None),
        temperature=temperature,
        max_tokens=max_tokens,
        price=(0.0, 0.0) if simulated else spec.price,
        role=role,
        key_variable=key_variable if key else "",
    )


def _with_defaults(spec: Model, common: Mapping[str, object]) -> Model:
    missing = {name: value for name, value in common.items() if getattr(spec, name) is None}
    return spec.model_copy(update=missing)
