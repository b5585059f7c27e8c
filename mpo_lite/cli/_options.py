"""Flags made from the configuration: a field is described once, in ``mpo_lite.config``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from mpo_lite.config import Config
from mpo_lite.validation import BATCH_SIZES, bare_type, nearest_name

Decorated = Callable[..., Any]


GROUPS = {
    "Judges": (
        "judge", "meta", "judge_api_base", "meta_api_base", "judge_fallback", "audit_judge",
        "audit_share", "judge_mode", "replicates", "examples", "concurrency", "max_judge_failures",
        "cache_dir", "log_calls",
    ),
    "Task and data": (
        "task", "goal", "data", "prompt_column", "data_subset", "data_split", "rubric", "baseline",
    ),
    "Budget": ("max_usd", "max_calls", "max_tokens"),
    "Training": (
        "policy", "algorithm", "trainer", "steps", "batch_prompts", "group_size", "learning_rate",
        "beta", "temperature", "num_iterations", "missing_eos_penalty", "criterion_weights", "aggregate",
        "overlap", "seed", "run_dir", "save_every", "eval_every", "report_to",
    ),
    "Adapter, memory, generation": (
        "max_new_tokens", "micro_batch", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
        "load_in_4bit", "gradient_checkpointing", "bf16", "use_vllm", "vllm_mode", "vllm_server_base_url",
        "vllm_gpu_memory_utilization",
    ),
    "Meta step": (
        "method", "interval", "meta_samples", "use_gate", "schedule", "strategy", "prescreen",
        "publish_after",
    ),
}  # fmt: skip
"""Heading of ``--help`` → the settings under it, each of which is a flag. The settings that are no flags are
set by ``-o``, ``MPO_*`` or YAML.
"""
FLAGS = tuple(name for names in GROUPS.values() for name in names)


class GroupedCommand(click.Command):
    """A command whose help lists its settings under the headings of ``GROUPS``."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options, group after group; those in no group come last."""
        params = {str(param.name): param for param in self.get_params(ctx)}
        others = tuple(name for name in params if name not in FLAGS)
        for heading, names in {**GROUPS, "Options": others}.items():
            records = [params[name].get_help_record(ctx) for name in names if name in params]
            if shown := [record for record in records if record]:  # a hidden option has no record
                with formatter.section(heading):
                    formatter.write_dl(shown)


def config_options(*names: str, hidden: Collection[str] = ()) -> Callable[[Decorated], Decorated]:
    """Adds one flag per field of ``Config``, with its type and description. A flag that is not given arrives
    as None, so that it does not override the environment or the file.

    Args:
        names: The fields; none: all of ``FLAGS``.
        hidden: Fields whose flags are accepted but not listed in the help.
    """

    def decorate(function: Decorated) -> Decorated:
        for name in reversed(names or FLAGS):
            function = _make_option(name, name in hidden)(function)
        return function

    return decorate


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."
)
"""``--json``, the same for all commands."""

overrides_option = click.option(
    "-o",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set any other setting, e.g. -o gate.margin=0.1.",
)
"""``-o``, for commands that read the configuration."""


def explain_unknown(error: click.NoSuchOption) -> str:
    """What to do about an unknown option: the one that was probably meant, or how to set that setting."""
    command = error.ctx.command if error.ctx else None
    params = command.params if command else []
    flags = [flag for param in params for flag in (*param.opts, *param.secondary_opts) if flag[:2] == "--"]
    name = error.option_name.lstrip("-").removeprefix("no-").replace("-", "_")
    takes_settings = any(param.name == "overrides" for param in params)
    if name in Config.model_fields and takes_settings and f"--{name.replace('_', '-')}" not in flags:
        return f"no option {error.option_name}; use -o {name}=VALUE"
    if name == "batch_size" and "--batch-prompts" in flags:
        return f"no option {error.option_name}; {_write_as_flags(BATCH_SIZES)}"
    if error.ctx and error.ctx.info_name == "resume" and name in Config.model_fields:
        return (
            f"no option {error.option_name}: a run is resumed with the settings it was started with; to "
            "change them, start a new run: mpo-lite train RUN/config.yaml --run-dir NEW"
        )
    meant = nearest_name(name, [flag[2:].replace("-", "_") for flag in flags])
    return f"no option {error.option_name}" + (
        f"; did you mean --{meant.replace('_', '-')}?" if meant else ""
    )


def _write_as_flags(text: str) -> str:
    """A text in which the names of settings are written as flags."""
    words = (f"--{word.replace('_', '-')}" if word.strip(",") in FLAGS else word for word in text.split())
    return " ".join(words)


def _make_option(name: str, hidden: bool) -> Callable[[Decorated], Decorated]:
    field = Config.model_fields[name]
    kind = _click_type(field.annotation)
    text = field.description or ""
    if field.default not in (None, ()) and not field.default_factory:
        default = {True: "yes", False: "no"}.get(field.default) if kind is bool else field.default
        text += f" [default: {default[0] if isinstance(default, tuple) else default}]"
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text, hidden=hidden)
    if kind is tuple:
        return click.option(flag, name, multiple=True, callback=_none_if_empty, help=text, hidden=hidden)
    click_type = click.Path(path_type=Path) if kind is Path else kind
    return click.option(flag, name, type=click_type, help=text, hidden=hidden)


def _none_if_empty(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Any:
    # Click gives an empty tuple where a flag is not used; only None leaves the setting alone.
    return values or None


def _click_type(annotation: Any) -> Any:
    """A field's type for click; addresses and other refinements are text to click, and checked later."""
    kind = bare_type(annotation)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple:
        return tuple
    return kind if kind in (int, float, bool, Path) else str
