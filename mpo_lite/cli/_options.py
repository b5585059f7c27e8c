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
    "Judges": "judge meta judge_api_base meta_api_base judge_fallback judge_mode replicates concurrency "
    "max_judge_failures cache_dir log_calls",
    "What is trained for": "task goal data prompt_column data_subset data_split rubric baseline",
    "Budget": "max_usd max_calls max_tokens",
    "Training": "policy algorithm steps batch_prompts group_size learning_rate beta temperature "
    "num_iterations missing_eos_penalty overlap seed run_dir save_every eval_every report_to",
    "Adapter, memory, generation": "max_new_tokens micro_batch lora_r lora_alpha lora_dropout "
    "lora_target_modules load_in_4bit "
    "gradient_checkpointing bf16 use_vllm vllm_mode vllm_server_base_url vllm_gpu_memory_utilization",
    "How the rubric evolves": "method interval meta_samples use_gate schedule strategy prescreen "
    "publish_after",
}
"""Headings of ``--help`` and the settings under each; all else stands under *Options*."""
FLAGS = tuple(" ".join(GROUPS.values()).split())
"""Fields with a flag of their own; the others are set by ``-o``, ``MPO_*`` or YAML."""


class GroupedCommand(click.Command):
    """A command whose help lists its settings under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options, group after group."""
        left = {param.name: param for param in self.get_params(ctx)}
        for heading, names in {**GROUPS, "Options": " ".join(map(str, left))}.items():
            records = [left.pop(name).get_help_record(ctx) for name in names.split() if name in left]
            if found := [record for record in records if record]:
                with formatter.section(heading):
                    formatter.write_dl(found)


def config_options(*names: str, hidden: Collection[str] = ()) -> Callable[[Decorated], Decorated]:
    """Adds one flag per named field of ``Config``, typed and described by it; absent ones arrive as None.

    Args:
        names: The fields.
        hidden: Those of them that are taken, and that the help leaves out.
    """

    def decorate(function: Decorated) -> Decorated:
        for name in reversed(names):
            function = _option(name, name in hidden)(function)
        return function

    return decorate


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout."
)
"""``--json``, as all commands have it."""


overrides_option = click.option(
    "-o", "overrides", metavar="KEY=VALUE", multiple=True, help="Any other setting, e.g. -o gate.margin=0.1."
)
"""``-o``, as commands that read the configuration have it."""


def explain_unknown(error: click.NoSuchOption) -> str:
    """What to say of an option that a command does not have: which was meant, or how a setting is given."""
    command = error.ctx.command if error.ctx else None
    params = command.params if command else []
    flags = [flag for param in params for flag in (*param.opts, *param.secondary_opts) if flag[:2] == "--"]
    name = error.option_name.lstrip("-").removeprefix("no-").replace("-", "_")
    takes_settings = any(param.name == "overrides" for param in params)
    if name in Config.model_fields and takes_settings and f"--{name.replace('_', '-')}" not in flags:
        return f"no option {error.option_name}; set it by -o {name}=VALUE"
    if name == "batch_size" and "--batch-prompts" in flags:
        return f"no option {error.option_name}; {_with_dashes(BATCH_SIZES)}"
    if error.ctx and error.ctx.info_name == "resume" and name in Config.model_fields:
        return (
            f"no option {error.option_name}: a run is resumed with the settings it began with; to train with "
            "others, begin a new one: mpo-lite train RUN/config.yaml --run-dir NEW"
        )
    meant = nearest_name(name, [flag[2:].replace("-", "_") for flag in flags])
    return f"no option {error.option_name}" + (
        f"; did you mean --{meant.replace('_', '-')}?" if meant else ""
    )


def _with_dashes(text: str) -> str:
    """A text with the settings it names as flags."""
    words = (f"--{word.replace('_', '-')}" if word.strip(",") in FLAGS else word for word in text.split())
    return " ".join(words)


def _option(name: str, hidden: bool) -> Callable[[Decorated], Decorated]:
    field = Config.model_fields[name]
    kind = _kind(field.annotation)
    text = field.description or ""
    if field.default not in (None, ()) and not field.default_factory:
        told = {True: "yes", False: "no"}.get(field.default) if kind is bool else field.default
        text += f" [default: {told[0] if isinstance(told, tuple) else told}]"
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text, hidden=hidden)
    if kind is tuple:
        return click.option(flag, name, multiple=True, callback=_given, help=text, hidden=hidden)
    of = click.Path(path_type=Path) if kind is Path else kind
    return click.option(flag, name, type=of, help=text, hidden=hidden)


def _given(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Any:
    return values or None


def _kind(annotation: Any) -> Any:
    """A field's type as click knows it; addresses and other refinements are text to click."""
    kind = bare_type(annotation)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple:
        return tuple
    return kind if kind in (int, float, bool, Path) else str
