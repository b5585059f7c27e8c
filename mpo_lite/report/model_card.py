"""The model card of a trained policy: what it was trained for, by which rubrics, and how it went."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mpo_lite.config import SANDBOX, Config
from mpo_lite.jsonl import JsonRow
from mpo_lite.report.figures import changes_in_words, reason_in_words, run_figures
from mpo_lite.rubric import Rubric
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import pluralize
from mpo_lite.wording import simulated_note

_MARKS = "\\`*_[]{}|#~!^"
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def model_card(run: RunDir, config: Config, until: int, purpose: str) -> str:
    """The card as Markdown with the hub's metadata. It names no file of this machine.

    Args:
        run: The run.
        config: Its configuration.
        until: Batches that the policy was trained for.
        purpose: What the policy was trained for.
    """
    hub_names = {"base_model": config.policy, "datasets": config.data}
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["meta-policy-optimization", "mpo-lite", config.algorithm],
        **{key: name for key, name in hub_names.items() if name and not _is_local(name)},
    }
    figures = run_figures(run, config, until)
    newest = run.version(figures["rubric_version"])
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False).strip()}\n---",
        f"# {_plain(_name(config.policy))}, trained for {_goal(config)}",
        "\n\n".join(map(_plain, re.split(r"\n\s*\n", purpose.strip()))),
        "A policy trained by reinforcement learning against an LLM judge, whose rubric a meta-judge rewrote "
        "while training ran ([Meta Policy Optimization](https://arxiv.org/abs/2504.20157)), with mpo-lite.",
        "## Figures\n\n" + _table(_figures(config, figures)),
        f"## The rubric at the end (v{newest.number})\n\n" + _rubric(newest.rubric),
        "## How the rubric came about\n\n" + _history(run, until),
    ]
    if figures["simulated"]:
        note = simulated_note(figures["simulated"])
        parts.insert(3, f"**{note[0].upper()}{note[1:]}.**")
    return "\n\n".join(parts) + "\n"


def _figures(config: Config, figures: JsonRow) -> list[tuple[str, str]]:
    reward, gold, usd = figures["reward"], figures["gold"], figures["usd"]
    judges = ", ".join(judge.label or judge.model for judge in config.judge)
    rows = [
        ("judge", judges),
        ("meta-judge", config.meta or "none"),
        ("algorithm", config.algorithm),
        ("adapter", f"LoRA, rank {config.lora_r}, alpha {config.lora_alpha}, merged"),
        ("generation batches", f"{figures['steps']} of {pluralize(config.batch_completions, 'completion')}"),
        ("reward over the last batches", _number(reward["end"])),
        (
            "gold on held-out prompts",
            f"{_number(gold['start'])} → {_number(gold['end'])}" if gold else "none",
        ),
        ("calls", "{judge_calls} judge, {gate_calls} gate, {meta_calls} meta".format(**figures)),
        ("spend", "unpriced" if usd is None else f"${usd:.2f}"),
    ]
    return rows


def _rubric(rubric: Rubric) -> str:
    lines = [
        f"- **{criterion.id}** ({criterion.kind}, weight {criterion.weight}): {_plain(criterion.description)}"
        for criterion in rubric.criteria
    ]
    guidelines = [f"\n{_plain(rubric.guidelines)}"] if rubric.guidelines else []
    return "\n".join([*lines, *guidelines])


def _history(run: RunDir, until: int) -> str:
    """One line per version, and one per proposal that was refused."""
    author = run.version(0).author
    lines = [f"- v0: from {'a file' if _is_local(author) else _plain(author)}"]
    for row in run.rows(run.lineage):
        if row["batch"] >= until:
            continue
        if row["status"] == "accepted":
            version, author, what = row["version"], _plain(row["author"]), _plain(changes_in_words(row))
            lines.append(f"- v{version}, after batch {row['batch']}, by {author}: {what}")
        else:
            reason = _plain(reason_in_words(row))
            lines.append(f"- after batch {row['batch']}: v{row['version']} stayed: {reason}")
    return "\n".join(lines)


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_plain(value)} |" for name, value in rows)])


def _plain(text: str) -> str:
    """One line that is text and nothing else in Markdown and HTML: models and users wrote much of it."""
    signs = [_ENTITIES.get(sign, f"\\{sign}" if sign in _MARKS else sign) for sign in " ".join(text.split())]
    # What begins a list, a heading or a rule does so at the beginning of a line alone.
    return re.sub(r"^(\d*)([-+=.)])(?=\s|$|\2)", r"\1\\\2", "".join(signs))


def _goal(config: Config) -> str:
    return "one goal" if config.goal else f"the task {_plain(_name(config.task))}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _is_local(name: str) -> bool:
    return name == SANDBOX or Path(name).exists() or Path(name).is_absolute()


def _name(path: str) -> str:
    return Path(path).name if _is_local(path) else path
