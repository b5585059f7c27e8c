"""What the meta-judge is asked to answer with."""

import re
from typing import Any

import pytest

from mpo_lite.meta import schemas
from mpo_lite.rubric import Criterion, Rubric

OLD = Rubric(criteria=(Criterion(id="old", description="Whether it is good.", levels=("no", "yes")),))


def test_the_schemas_ask_for_what_is_needed() -> None:
    criteria = schemas.REFINED["properties"]["criteria"]
    assert (criteria["minItems"], criteria["maxItems"]) == (0, 4)
    assert next(iter(schemas.REFINED["properties"])) == "change"  # decided before the lists are written
    form = criteria["items"]["properties"]
    assert (form["levels"]["minItems"], form["levels"]["maxItems"]) == (2, 7)
    assert form["levels"]["items"]["minLength"] > 1 and re.match(form["id"]["pattern"], "flow_2")
    assert schemas.MERGED["properties"]["criteria"]["maxItems"] == 12


def refined(*levels: str) -> schemas.Refinement:
    draft = {
        "id": "a",
        "description": "Whether it is there.",
        "levels": list(levels),
        "weight": 1,
        "kind": "merit",
    }
    data = {"change": "It has to be there.", "criteria": [draft], "drop": []}
    return schemas.parse_refinement(data, OLD)


@pytest.mark.parametrize("levels", [("3", "3", "3"), ("3.5", "4.5"), ("Absent.", "…")])
def test_a_level_must_say_something(levels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"a: level [01] must describe in words"):
        refined(*levels)


def test_levels_that_say_the_same_are_no_levels() -> None:
    with pytest.raises(ValueError, match="a: two levels say the same"):
        refined("It is absent.", "it is absent", "It is there.")


def test_the_numbers_of_levels_are_no_part_of_them() -> None:
    (criterion,) = refined("0.92: Absent.", "Level 1: There are 2: both.", "2) 3 of them.").criteria
    assert criterion.levels == ("Absent.", "There are 2: both.", "3 of them.")
    (criterion,) = refined("2 reasons.", "3 reasons.").criteria
    assert criterion.levels == ("2 reasons.", "3 reasons.")


def test_a_criterion_is_no_copy_of_the_critique() -> None:
    critique = "It does not outline how religion bears on people, and its one example is not explained."
    draft = {"id": "a", "levels": ["Absent.", "There."], "weight": 1, "kind": "merit"}
    own = {**draft, "description": "Whether each example is explained: what it shows, and why."}
    copied = {**draft, "description": f"The answer: {critique}"}

    def parse(criterion: dict[str, Any]) -> schemas.Refinement:
        data = {"change": "Examples have to be explained.", "criteria": [criterion], "drop": []}
        return schemas.parse_refinement(data, OLD, critique)

    assert parse(own).criteria[0].id == "a"
    with pytest.raises(ValueError, match="a: the description repeats the critique"):
        parse(copied)
