"""What a merge keeps, what changed in it, and which criteria are refused."""

from typing import Any

import pytest

from mpo_lite.meta import schemas
from mpo_lite.rubric import Rubric, rubric_changes
from tests.support.proposals import CRITERION


def test_changes_name_criteria_added_changed_and_dropped(rubric: Rubric) -> None:
    structure, evidence, on_task = rubric.criteria
    added = structure.model_copy(update={"id": "example"})
    new = Rubric(criteria=(structure.model_copy(update={"provenance": ("x",)}), on_task, added))
    new = new.model_copy(
        update={"criteria": (new.criteria[0], on_task.model_copy(update={"weight": 4}), new.criteria[2])}
    )
    assert rubric_changes(rubric, new) == {
        "added": ["example"],
        "changed": ["on_task"],
        "dropped": [evidence.id],
    }


def merged(criteria: list[dict[str, Any]], rubric: Rubric) -> Rubric:
    rows = [criterion | {"from": []} for criterion in criteria]
    return schemas.parse_merge({"criteria": rows, "guidelines": ""}, rubric, {})


def test_a_merge_keeps_the_order_in_force_and_the_limits(rubric: Rubric) -> None:
    kept = [each.model_dump(mode="json", exclude={"provenance"}) for each in rubric.criteria]
    new = merged([CRITERION, *reversed(kept)], rubric)
    assert [each.id for each in new.criteria] == ["structure", "evidence", "on_task", "example"]
    long = [CRITERION | {"id": f"c{n}", "description": "word " * 150} for n in range(7)]
    with pytest.raises(ValueError, match="at most 900"):
        merged(long, rubric)
    with pytest.raises(ValueError, match="at most 12"):
        merged([CRITERION | {"id": f"c{n}"} for n in range(13)], rubric)


@pytest.mark.parametrize(
    "description",
    [
        "At most 4 criteria, ids in lower-case letters, digits and underscores, 2 to 7 levels each.",
        "This has levels from worst to best, each described by what is seen at that level.",
        "The kind of criterion should be either 'merit' or 'veto'.",
    ],
)
def test_criteria_made_of_the_instructions_are_refused(rubric: Rubric, description: str) -> None:
    draft = {
        "id": "form",
        "description": description,
        "levels": ["0: Not at all", "1: Fully so"],
        "weight": 1,
        "kind": "merit",
    }
    with pytest.raises(ValueError, match="form: the description repeats these instructions"):
        schemas.parse_refinement({"change": "", "criteria": [draft], "drop": []}, rubric)
    with pytest.raises(ValueError, match="form: the description repeats these instructions"):
        merged([{**draft, "from": []}], rubric)
    own = {
        **draft,
        "description": "Whether each paragraph has a claim and a reason for it, and no set phrases.",
    }
    refined = schemas.parse_refinement({"change": "", "criteria": [own], "drop": ["form", "on_task"]}, rubric)
    assert [criterion.id for criterion in refined.criteria] == ["form"] and refined.drop == ("on_task",)
