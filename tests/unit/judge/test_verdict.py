"""A verdict: its schema, and that nothing else is taken for one."""

import json

import pytest

from mpo_lite.judge.base import REASON_CHARS, parse_verdict, verdict_schema
from mpo_lite.rubric import Rubric


def test_the_schema_bounds_each_reason(rubric: Rubric) -> None:
    for criterion in verdict_schema(rubric)["properties"].values():
        assert criterion["properties"]["reason"] == {"type": "string", "maxLength": REASON_CHARS}


GOOD = {
    "structure": {"reason": "clear", "level": 2},
    "evidence": {"reason": "none", "level": 0},
    "on_task": {"reason": "yes", "level": 1},
}


def change(**entries: object) -> dict:
    return {key: entries.get(key, value) for key, value in GOOD.items()}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"structure": GOOD["structure"]},
        GOOD | {"other": {"reason": "x", "level": 0}},
        change(structure=2),
        change(structure={"level": 2}),
        change(structure={"reason": "x", "level": 2, "note": "y"}),
        change(structure={"reason": None, "level": 2}),
        change(structure={"reason": "x", "level": 3}),
        change(structure={"reason": "x", "level": -1}),
        change(structure={"reason": "x", "level": 3.0}),
        change(structure={"reason": "x", "level": 1.5}),
        change(structure={"reason": "x", "level": True}),
        change(structure={"reason": "x", "level": "3"}),
        change(structure={"reason": "x", "level": "02"}),
        change(structure={"reason": "x", "level": "2.0"}),
        change(structure={"reason": "x", "level": "²"}),
        change(structure={"reason": "x", "level": "２"}),
        change(structure={"reason": "x", "level": "two"}),
        change(structure={"reason": "x", "level": "level 2"}),
        change(structure={"reason": "x", "level": "clear"}),
        change(structure={"reason": "x", "level": [2]}),
        change(structure={"reason": "x", "level": 1e300}),
        change(structure={"reason": "x", "level": None}),
        change(structure={"reason": "x", "level": 10**40}),
    ],
)
def test_no_verdict_from_anything_but_exactly_what_was_asked(data: dict, rubric: Rubric) -> None:
    with pytest.raises(ValueError, match=r"keys|hold|reason|level"):
        parse_verdict(data, rubric)


@pytest.mark.parametrize("level", [2, 2.0, "2"])
def test_a_level_may_be_written_as_text_or_with_a_point_where_it_names_one_level(
    level: object, rubric: Rubric
) -> None:
    data = json.loads(json.dumps(change(structure={"reason": "x", "level": level})))
    assert parse_verdict(data, rubric)["structure"].level == 2


def test_a_good_verdict_keeps_the_rubrics_order(rubric: Rubric) -> None:
    verdict = parse_verdict(dict(reversed(GOOD.items())), rubric)
    assert list(verdict) == ["structure", "evidence", "on_task"]
    assert rubric.reward(verdict) == 0.75


def test_the_schema_leaves_no_room_to_repeat_or_drop_a_criterion(rubric: Rubric) -> None:
    schema = verdict_schema(rubric)
    assert schema["required"] == ["structure", "evidence", "on_task"]
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]["structure"]["properties"]) == ["reason", "level"]
    assert schema["properties"]["structure"]["properties"]["level"]["enum"] == [0, 1, 2]
