"""Which model a name means, where it is served, and what it costs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from mpo_lite.config import Config, Role
from mpo_lite.errors import ConfigError

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
"""Short name → pinned full name: a run must mean the same model next month. ``mpo-lite train`` prints what it
took."""

KEYLESS = "none"
"""Sent as the key to a server of one's own: clients insist on one."""

SANDBOX = "sandbox"
"""The model name that stands for the embedded, simulated judge and meta-judge."""

_HINTS = {
    "judge": "no judge: give --judge MODEL (for example gpt-4o), set MPO_JUDGE, "
    "or see it work without a key: mpo-lite quickstart",
    "meta": "no meta-judge: give --meta MODEL (for example claude; it may be the judge's model), "
    "set MPO_META, or train without one: --freeze-rubric",
}


@dataclass(frozen=True)
class Backend:
    """One model at one address, with how it is to be asked.

    Attributes:
        label: Identity in the cache: the full model name. Not the address, which may move.
        model: LiteLLM's name of the model.
        api_base: Address of the server, or None for the provider's own.
        api_key: Key to send; never shown. None leaves it to the provider's usual variable.
        temperature: Sampling temperature of the answers.
        max_tokens: Longest answer in tokens.
        price: USD per million input and output tokens, or None: LiteLLM's table decides.
    """

    label: str
    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 0.0
    max_tokens: int = 1024
    price: tuple[float, float] | None = None


def full_name(name: str) -> str:
    """The pinned name that a short name stands for; any other name as it is."""
    return ALIASES.get(name, name)


def backend(config: Config, role: Role, environ: Mapping[str, str] | None = None) -> Backend:
    """The model that plays ``role`` in this configuration.

    Raises:
        ConfigError: No model is named for the role; says how to name one.
    """
    environ = os.environ if environ is None else environ
    name = config.judge if role == "judge" else config.meta
    if not name:
        raise ConfigError(_HINTS[role])
    api_base = config.judge_api_base if role == "judge" else config.meta_api_base
    if name == SANDBOX and not api_base:
        raise ConfigError(
            f"{role} {SANDBOX!r}: only the command line serves it by itself; run mpo-lite sandbox serve "
            f"and name what it prints"
        )
    api_key = environ.get(f"MPO_{role.upper()}_API_KEY") or None
    if api_base and not api_key:
        # A server of one's own needs no key; the provider's key in the environment is not for it.
        api_key = KEYLESS
    return Backend(
        # A simulated model is the program's own: another version of it may answer otherwise.
        label=f"{SANDBOX}-{version('mpo-lite')}/{role}-{config.seed}" if name == SANDBOX else full_name(name),
        model=f"openai/{SANDBOX}-{role}" if name == SANDBOX else full_name(name),
        api_base=api_base,
        api_key=api_key,
        temperature=0.0 if role == "judge" else 0.7,
        max_tokens=config.judge_max_tokens if role == "judge" else config.meta_max_tokens,
        price=(0.0, 0.0)
        if name == SANDBOX
        else (config.judge_price if role == "judge" else config.meta_price),
    )
