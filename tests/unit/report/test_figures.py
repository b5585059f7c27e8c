"""Figures of a report that need no run."""

from typing import Any

import pytest

from mpo_lite.records import Gold
from mpo_lite.report.rubric_history import diff
from mpo_lite.report.run_data import measure_gold_change
from mpo_lite.rubric import Criterion, Rubric


def test_gold_changes_prompt_by_prompt() -> None:
    def row(values: list[float]) -> Gold:
        samples = [{"prompt": str(n), "completion": "", "gold": value} for n, value in enumerate(values)]
        return Gold.model_validate({"batch": 0, "gold": 0.0, "samples": samples})

    first = row([0.0, 0.5, 1.0])
    assert measure_gold_change([first]) is None
    change = measure_gold_change([first, row([0.2, 0.7, 1.2])])
    assert change is not None and change.mean == pytest.approx(0.2)
    assert change.low == pytest.approx(0.2) and change.n == 3  # every prompt moved by the same
    ends = [row([0.3] * 3), row([0.6] * 3), row([0.9] * 3)]
    change = measure_gold_change([first, row([9.0] * 3), *ends])
    assert change is not None and change.mean == pytest.approx(0.1)  # the mean of the last three
    assert change.low < 0 < change.high


def test_criteria_are_compared_whole() -> None:
    def rubric(**given: Any) -> Rubric:
        return Rubric(criteria=(Criterion(**{"id": "a", "description": "d", "levels": ("x", "y")} | given),))

    assert diff(rubric(), rubric())[0]["state"] == "same"
    assert diff(rubric(), rubric(provenance=("b1r1",)))[0]["state"] == "same"
    for other in ({"weight": 2}, {"levels": ("x", "z")}, {"levels": ("x", "y", "z")}, {"description": "e"}):
        assert diff(rubric(), rubric(**other))[0]["state"] == "changed"
    longer = diff(rubric(levels=("x", "y", "z")), rubric())[0]
    assert [len(longer[side]["levels"]) for side in ("old", "new")] == [3, 2]
