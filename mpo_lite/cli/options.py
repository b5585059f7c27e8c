"""Flags made from the configuration: a field is described once, in ``mpo_lite.config``."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from mpo_lite.config import Config

Decorated = Callable[..., Any]


def config_options(*names: str) -> Callable[[Decorated], Decorated]:
    """Adds one flag per named field of ``Config``, typed and described by it; absent ones arrive as None."""

    def decorate(function: Decorated) -> Decorated:
        for name in reversed(names):
            function = _option(name)(function)
        return function

    return decorate


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."
)
"""``--json``, as all commands have it."""


def _option(name: str) -> Callable[[Decorated], Decorated]:
    field = Config.model_fields[name]
    kind = _kind(field.annotation)
    text = field.description or ""
    if field.default not in (None, ()) and not field.default_factory:
        told = {True: "yes", False: "no"}.get(field.default) if kind is bool else field.default
        text += f" [default: {told[0] if isinstance(told, tuple) else told}]"
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    if kind is tuple:
        return click.option(flag, name, multiple=True, callback=_given, help=text)
    return click.option(flag, name, type=click.Path(path_type=Path) if kind is Path else kind, help=text)


def _given(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Any:
    return values or None


def _kind(annotation: Any) -> Any:
    """The one type that a field holds apart from None; addresses and other refinements are text to click."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if get_origin(annotation) is tuple:
        return tuple
    return annotation if annotation in (int, float, bool, Path) else str
