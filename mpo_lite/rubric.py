"""Rubrics: what the judge judges by, and how its levels become a reward.

A rubric is an ordered list of criteria plus optional guidelines. It is immutable: a change makes a new one.
Its text form (``render``) is what a judge reads and what ``judge_hash`` identifies; weights, kinds and
history are not part of that text, so they cannot influence the judge. Rubric text is written by models: it
only ever fills a slot in a fixed prompt and is never used as a template.

Source: the rubric of Meta Policy Optimization (arXiv 2504.20157, section 3); the reward differs from the
paper's sum of points: a weighted mean keeps its range when the rubric grows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from mpo_lite import validation
from mpo_lite.errors import TaskError
from mpo_lite.sanitize import neutralize
from mpo_lite.strict_yaml import dump_yaml
from mpo_lite.types import Assessment, text_hash
from mpo_lite.validation import Settings, describe_problem, dotted_path, load_model

VETO_FACTOR = 0.1
"""Factor on the reward after a failed veto."""
MAX_VETOES = 3
MAX_CRITERIA = 12
MAX_LEVELS = 7
CRITERION_ID = r"^[a-z][a-z0-9_]{0,39}$"
MAX_CLUSTERS = 64


def _neutralize_text(value: Any) -> Any:
    return neutralize(value) if isinstance(value, str) else value


# Rubrics are written by models that have read what the policy wrote, so special tokens are neutralised. What
# is left may be empty, so this comes before the length check.
Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
    BeforeValidator(_neutralize_text),
]

Guidelines = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=4000), BeforeValidator(_neutralize_text)
]


class Criterion(Settings):
    """One thing the judge looks at.

    Attributes:
        id: Lower-case name, at most 40 characters; its key in the judge's answer.
        description: What to look at.
        levels: Anchor texts, worst first; 2 to 7 of them, exactly 2 for a veto.
        weight: 1 to 5.
        kind: ``merit`` adds to the reward; a failed ``veto`` (level 0) cuts it to a tenth.
        provenance: IDs of the rollouts that led to this criterion.
    """

    id: Annotated[str, StringConstraints(pattern=CRITERION_ID)]
    description: Text
    levels: Annotated[tuple[Text, ...], Field(min_length=2, max_length=MAX_LEVELS)]
    weight: Annotated[int, Field(ge=1, le=5, strict=True)] = 1
    kind: Literal["merit", "veto"] = "merit"
    provenance: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _veto_has_two_levels(self) -> Self:
        if self.kind == "veto" and len(self.levels) != 2:
            raise ValueError("a veto has exactly two levels, failed and passed")
        return self


class Rubric(Settings):
    """An ordered set of criteria; immutable.

    Attributes:
        criteria: 1 to 12 criteria with distinct ids, at least one merit, at most three vetoes.
        guidelines: Further advice for the judge, or empty.
        clusters: Cluster of prompts → what to look at in those prompts only.
    """

    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1, max_length=MAX_CRITERIA)]
    guidelines: Guidelines = ""
    clusters: Annotated[dict[str, Guidelines], Field(max_length=MAX_CLUSTERS)] = Field(
        default_factory=dict[str, str]
    )

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        ids = [criterion.id for criterion in self.criteria]
        if repeated := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"criterion ids must differ; repeated: {', '.join(repeated)}")
        kinds = [criterion.kind for criterion in self.criteria]
        if "merit" not in kinds:
            raise ValueError("a rubric needs at least one merit")
        if kinds.count("veto") > MAX_VETOES:
            raise ValueError(f"a rubric has at most {MAX_VETOES} vetoes")
        return self

    def render(self, cluster: str = "", with_weights: bool = False) -> str:
        """The rubric as text.

        Args:
            cluster: The cluster of the prompt that is judged, whose guidelines are added.
            with_weights: Whether each criterion names its weight and kind: for the meta-judge, never for a
                judge.
        """
        text = self._text(with_weights=True) if with_weights else self._judged_text
        cluster_text = self.clusters.get(cluster)
        return f"{text}\n\n### For this kind of task\n{cluster_text}" if cluster_text else text

    @cached_property  # needed for every answer that is judged
    def _judged_text(self) -> str:
        return self._text(with_weights=False)

    def _text(self, with_weights: bool) -> str:
        blocks: list[str] = []
        for criterion in self.criteria:
            scale = f" (weight {criterion.weight}, {criterion.kind})" if with_weights else ""
            # On one line each: a line break could begin what reads as another criterion.
            lines = [_one_line(criterion.description), "Levels, worst to best:"]
            lines += [f"  {rank}: {_one_line(anchor)}" for rank, anchor in enumerate(criterion.levels)]
            blocks.append("\n".join([f"### {criterion.id}{scale}", *lines]))
        if self.guidelines:
            blocks.append(f"### Guidelines\n{self.guidelines}")
        return "\n\n".join(blocks)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a simulated model is given of the rubric; see ``Call.facts``."""
        names = {"id", "description", "levels"}
        return {"rubric": [criterion.model_dump(mode="json", include=names) for criterion in self.criteria]}

    @property
    def judge_hash(self) -> str:
        """Identity of the rendered text: two rubrics with the same ``judge_hash`` get the same verdicts."""
        return text_hash(self.render())

    @cached_property
    def reward_hash(self) -> str:
        """Identity of the reward: adds weights and kinds to ``judge_hash``."""
        return self._reward_hash("")

    @cached_property
    def set_hash(self) -> str:
        """Identity of the rubric over all clusters; without clusters, there is only the cluster ``""``."""
        return text_hash(
            json.dumps([(name, self._reward_hash(name)) for name in sorted({"", *self.clusters})])
        )

    def _reward_hash(self, cluster: str) -> str:
        scale = [[criterion.weight, criterion.kind] for criterion in self.criteria]
        return text_hash(json.dumps([text_hash(self.render(cluster)), scale]))

    def reward(
        self, assessments: Mapping[str, Assessment], weights: Mapping[str, float] | None = None
    ) -> float:
        """Weighted mean of the merits' levels, reduced by failed vetoes.

        Args:
            assessments: Every criterion ID exactly once, each level within its criterion's range.
            weights: Merit ID → weight, instead of the rubric's own; other merits count nothing.

        Returns:
            R = Σ w·s / Σ w × (0.1 if any veto failed else 1), in [0, 1], with s = rank / (levels − 1).

        Raises:
            ValueError: The IDs are not exactly the rubric's, or a level is out of range. There is no partial
                reward.
        """
        if set(assessments) != {criterion.id for criterion in self.criteria}:
            raise ValueError("a verdict must assess every criterion exactly once")
        total = weight = 0.0
        factor = 1.0  # not multiplied per veto: several failed vetoes reduce the reward as much as one
        for criterion in self.criteria:
            level = assessments[criterion.id].level
            if not 0 <= level < len(criterion.levels):
                raise ValueError(
                    f"level {level} of {criterion.id!r} is outside 0–{len(criterion.levels) - 1}"
                )
            if criterion.kind == "merit":
                share = criterion.weight if weights is None else weights.get(criterion.id, 0.0)
                total += share * level / (len(criterion.levels) - 1)
                weight += share
            elif level == 0:
                factor = VETO_FACTOR
        # min: rounding may put the mean just above 1.
        return min(1.0, total / weight) * factor


def _one_line(text: str) -> str:
    return " ".join(text.split())


def rubric_changes(old: Rubric, new: Rubric) -> dict[str, list[str]]:
    """Ids of the criteria that ``new`` added, changed and dropped against ``old``."""
    before = {criterion.id: criterion for criterion in old.criteria}
    after = {criterion.id: criterion for criterion in new.criteria}

    def content(criterion: Criterion) -> dict[str, Any]:
        return criterion.model_dump(exclude={"provenance"})

    return {
        "added": [name for name in after if name not in before],
        "changed": [
            name for name in after if name in before and content(after[name]) != content(before[name])
        ],
        "dropped": [name for name in before if name not in after],
    }


def load_rubric(path: Path) -> Rubric:
    """Reads a rubric file: a mapping with ``criteria`` and, optionally, ``guidelines``.

    Raises:
        TaskError: The file is missing, too large, not YAML or not a valid rubric; says where and why.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TaskError(f"{path}: no such file; a rubric is a YAML file with criteria") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read ({error})") from error
    return parse_rubric(text, where=str(path))


def parse_rubric(text: str, where: str) -> Rubric:
    """Parses the text of a rubric file; ``where`` names it in errors. Raises ``TaskError`` like
    ``load_rubric``.
    """
    return load_model(text, where, Rubric, TaskError)


def dump_rubric(rubric: Rubric) -> str:
    """The rubric as YAML; ``parse_rubric`` returns an equal rubric."""
    return dump_yaml(rubric.model_dump(mode="json", exclude_defaults=True))


def first_problem(error: ValidationError) -> str:
    """The first problem of an invalid draft, as ``place: problem``; the meta-judge gets to see it."""
    problem = validation.first_problem(error)
    place = dotted_path(problem)
    message = "unknown key" if problem["type"] == "extra_forbidden" else describe_problem(problem, Rubric)
    return f"{place}: {message}" if place else message
