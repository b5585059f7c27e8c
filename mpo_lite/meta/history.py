"""What the meta-judge is told of its own past: which rubrics were tried, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpo_lite.rubric import Rubric, rubric_changes

VERSIONS, REFUSALS = 5, 3
"""Latest rubric versions and latest refused proposals that are listed."""
DESCRIPTION_CHARS = 160
"""Characters of a refused criterion's description that are shown."""


@dataclass(frozen=True)
class PastVersion:
    """A rubric that answers were judged by.

    Attributes:
        name: For example ``v2``.
        rubric: Its content.
        came_from: How it came about.
        became: What was seen under it.
    """

    name: str
    rubric: Rubric
    came_from: str
    became: str


@dataclass(frozen=True)
class RefusedProposal:
    """A proposal that was not used.

    Attributes:
        when: For example ``after batch 20``.
        rubric: What was proposed.
        old: The rubric that was current then.
        reason: Why it was refused.
    """

    when: str
    rubric: Rubric
    old: Rubric
    reason: str


def describe_history(versions: Sequence[PastVersion], refused: Sequence[RefusedProposal]) -> str:
    """The latest versions and refusals, one paragraph each; empty where there is nothing to learn from.

    Args:
        versions: From the first to the current one.
        refused: In order.
    """
    parts: list[str] = []
    for place, version in enumerate(versions):
        before = versions[place - 1].rubric if place else None
        changes = f" It {_list_changes(rubric_changes(before, version.rubric))}." if before else ""
        parts.append(f"{version.name}, {version.came_from}.{changes} {version.became}")
    parts = parts[-VERSIONS:] if len(parts) > 1 or refused else []
    for proposal in refused[-REFUSALS:]:
        changes = rubric_changes(proposal.old, proposal.rubric)
        listed = [f"Refused {proposal.when}: a proposal that {_list_changes(changes)}."]
        listed += [
            f"  {criterion.id}: {criterion.description[:DESCRIPTION_CHARS]}"
            for criterion in proposal.rubric.criteria
            if criterion.id in {*changes["added"], *changes["changed"]}
        ]
        parts.append("\n".join([*listed, f"  The reason: {proposal.reason}."]))
    return "\n\n".join(parts)


def _list_changes(changes: Mapping[str, Sequence[str]]) -> str:
    parts = [f"{verb} {', '.join(names)}" for verb, names in changes.items() if names]
    return "; ".join(parts) or "changed weights, kinds or guidelines only"
