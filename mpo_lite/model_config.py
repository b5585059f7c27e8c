"""How a configuration names a model: its name, address, key variable, price and cache label."""

from __future__ import annotations

import re
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo

from mpo_lite.validation import Settings

_KEY_VARIABLES = {"judge_api_base": "MPO_JUDGE_API_KEY", "meta_api_base": "MPO_META_API_KEY"}
# %3b and %3f are an encoded ';' and '?': some proxies take a key behind them.
_KEY_LIKE = re.compile(r";|%3[bf]|\bsk-\w|\b(?:key|token)=", re.IGNORECASE)


def _refuse_key(name: str) -> str:
    """Refuses an API key given as a model name: names are printed and saved."""
    if re.match(r"sk-\w", name):
        raise ValueError("looks like an API key; give the model's name here and the key in a variable")
    return name


def _refuse_unsafe_url(url: str, info: ValidationInfo) -> str:
    """Refuses URLs that are not http(s), and those with a credential: runs save the configuration."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment or _KEY_LIKE.search(parts.path):
        variable = _KEY_VARIABLES.get(info.field_name or "", "the variable that api_key_env names")
        secret = "a password" if "@" in parts.netloc else "a key, a '?' or a ';'"
        raise ValueError(f"must not contain {secret}; set the key in {variable}")
    return url


def _parse_price(value: Any) -> Any:
    entries = cast(list[Any], value) if isinstance(value, list | tuple) else []
    are_prices = all(
        isinstance(entry, int | float) and not isinstance(entry, bool) and entry >= 0 for entry in entries
    )
    if len(entries) not in (2, 3) or not are_prices:
        raise ValueError("must be USD per million input and output tokens, such as [0.15, 0.6]")
    return tuple(entries)


ModelName = Annotated[str, AfterValidator(_refuse_key)]
Url = Annotated[str, AfterValidator(_refuse_unsafe_url)]
Price = Annotated[
    tuple[Annotated[float, Field(ge=0)], ...],
    Field(min_length=2, max_length=3),
    BeforeValidator(_parse_price),
]
"""USD per million input and output tokens and, optionally, cached input tokens."""


class Model(Settings):
    """A judge or meta-judge: a bare model name, or a name with its own address, key, price and cache label.

    Attributes:
        model: LiteLLM model name, short name, or ``sandbox``.
        api_base: Base URL of its server.
        api_key_env: Name of the environment variable that holds its key; never the key itself.
        price: Its price.
        label: Name in the cache and in figures; needed if two servers serve different models under one name.
    """

    model: Annotated[ModelName, Field(min_length=1)]
    api_base: Url | None = None
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    price: Price | None = None
    label: str | None = None


def _expand_name(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _expand_list(value: Any) -> Any:
    entries = cast(list[Any], value) if isinstance(value, list | tuple) else [] if value is None else [value]
    return tuple(_expand_name(entry) for entry in entries)


def _compact(model: Model) -> Any:
    """A bare name where nothing else is set, so that a saved configuration reads as people write it."""
    entry = model.model_dump(mode="json", exclude_none=True)
    return entry["model"] if set(entry) == {"model"} else entry


def _compact_list(models: tuple[Model, ...]) -> Any:
    return _compact(models[0]) if len(models) == 1 else [_compact(model) for model in models]


NamedModel = Annotated[
    Model, BeforeValidator(_expand_name), PlainSerializer(lambda model: _compact(model) if model else None)
]
Judges = Annotated[tuple[Model, ...], BeforeValidator(_expand_list), PlainSerializer(_compact_list)]
