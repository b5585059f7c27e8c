"""The model card of a trained policy: its purpose, its rubrics and the figures of its training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mpo_lite.config import SANDBOX, Config
from mpo_lite.jsonl import JsonRow
from mpo_lite.records import Step
from mpo_lite.report.figures import compute_figures, describe_step
from mpo_lite.report.row_reader import read_records
from mpo_lite.rubric import Rubric
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import pluralize
from mpo_lite.wording import simulated_note

_MARKS = "\\`*_[]{}|#~!^"
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def write_model_card(run: RunDir, config: Config, until: int, purpose: str) -> str:
    """The card as Markdown with the Hub's metadata. It contains no local path.

    Args:
        run: The run.
        config: Its configuration.
        until: Batches that the policy was trained for.
        purpose: The task's purpose.
    """
    hub_names = {"base_model": config.policy, "datasets": config.data}
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["meta-policy-optimization", "mpo-lite", config.algorithm],
        **{key: name for key, name in hub_names.items() if name and not _is_local(name)},
    }
    figures = compute_figures(run, config, until)
    newest = run.version(figures["rubric_version"])
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False).strip()}\n---",
        f"# {_escape(_strip_local_folders(config.policy))}, trained for {_describe_goal(config)}",
        "\n\n".join(map(_escape, re.split(r"\n\s*\n", purpose.strip()))),
        "A policy trained with mpo-lite by reinforcement learning against an LLM judge, whose rubric a "
        "meta-judge rewrote during training ([Meta Policy Optimization](https://arxiv.org/abs/2504.20157)).",
        "## Figures\n\n" + _format_table(_list_figures(config, figures)),
        f"## Final rubric (v{newest.number})\n\n" + _list_criteria(newest.rubric),
        "## Rubric history\n\n" + _list_versions(run, until),
    ]
    if figures["simulated"]:
        note = simulated_note(figures["simulated"])
        parts.insert(3, f"**{note[0].upper()}{note[1:]}.**")
    return "\n\n".join(parts) + "\n"


def _list_figures(config: Config, figures: JsonRow) -> list[tuple[str, str]]:
    reward, gold, usd = figures["reward"], figures["gold"], figures["usd"]
    judges = ", ".join(judge.label or judge.model for judge in config.judge)
    rows = [
        ("judge", judges),
        ("meta-judge", config.meta.model if config.meta else "none"),
        ("algorithm", config.algorithm),
        ("adapter", f"LoRA, rank {config.lora_r}, alpha {config.lora_alpha}, merged"),
        ("generation batches", f"{figures['steps']} of {pluralize(config.batch_completions, 'completion')}"),
        ("recent reward", _format_number(reward["end"])),
        (
            "gold on held-out prompts",
            f"{_format_number(gold['start'])} → {_format_number(gold['end'])}" if gold else "none",
        ),
        ("calls", "{judge_calls} judge, {gate_calls} gate, {meta_calls} meta".format(**figures)),
        ("spend", "unpriced" if usd is None else f"${usd:.2f}"),
    ]
    return rows


def _list_criteria(rubric: Rubric) -> str:
    kinds = {criterion.id: f"{criterion.kind}, weight {criterion.weight}" for criterion in rubric.criteria}
    lines = [
        f"- **{criterion.id}** ({kinds[criterion.id]}): {_escape(criterion.description)}"
        for criterion in rubric.criteria
    ]
    guidelines = [f"\n{_escape(rubric.guidelines)}"] if rubric.guidelines else []
    return "\n".join([*lines, *guidelines])


def _list_versions(run: RunDir, until: int) -> str:
    """One line per step: the version it published, or why the rubric stayed as it was."""
    author = run.version(0).author
    lines = [f"- v0: from {'a file' if _is_local(author) else _escape(author)}"]
    for step in read_records(run, run.lineage, Step):
        if step.batch >= until:
            continue
        outcome = _escape(describe_step(step))
        if step.status == "accepted":
            lines.append(f"- v{step.version}, after batch {step.batch}, by {_escape(step.author)}: {outcome}")
        else:
            lines.append(f"- after batch {step.batch}: v{step.version} unchanged: {outcome}")
    return "\n".join(lines)


def _format_table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_escape(value)} |" for name, value in rows)])


def _escape(text: str) -> str:
    """Untrusted text as one line without any meaning in Markdown or HTML."""
    signs = [_ENTITIES.get(sign, f"\\{sign}" if sign in _MARKS else sign) for sign in " ".join(text.split())]
    # List markers, headings and rules only have a meaning at the start of a line.
    return re.sub(r"^(\d*)([-+=.)])(?=\s|$|\2)", r"\1\\\2", "".join(signs))


def _describe_goal(config: Config) -> str:
    return "one goal" if config.goal else f"the task {_escape(_strip_local_folders(config.task))}"


def _format_number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _is_local(name: str) -> bool:
    return name == SANDBOX or Path(name).exists() or Path(name).is_absolute()


def _strip_local_folders(path: str) -> str:
    return Path(path).name if _is_local(path) else path
