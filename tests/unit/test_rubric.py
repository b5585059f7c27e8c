from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mpo_lite.errors import TaskError
from mpo_lite.rubric import Criterion, Rubric, dump_rubric, load_rubric, parse_rubric
from mpo_lite.types import Assessment

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=60).filter(
    str.strip
)


@st.composite
def criteria(draw: st.DrawFn, name: str, kind: str = "merit") -> Criterion:
    count = 2 if kind == "veto" else draw(st.integers(2, 7))
    levels = draw(st.lists(TEXT, min_size=count, max_size=count))
    weight = draw(st.integers(1, 5))
    return Criterion(id=name, description=draw(TEXT), levels=tuple(levels), weight=weight, kind=kind)


@st.composite
def rubrics(draw: st.DrawFn) -> Rubric:
    merits = [draw(criteria(f"m{n}")) for n in range(draw(st.integers(1, 6)))]
    vetoes = [draw(criteria(f"v{n}", "veto")) for n in range(draw(st.integers(0, 3)))]
    return Rubric(criteria=tuple(draw(st.permutations(merits + vetoes))), guidelines=draw(st.just("") | TEXT))


def assess(rubric: Rubric, level_of) -> dict[str, Assessment]:
    return {c.id: Assessment("r", level_of(c)) for c in rubric.criteria}


@given(rubrics())
def test_yaml_round_trip_is_identity(rubric: Rubric) -> None:
    assert parse_rubric(dump_rubric(rubric), "test") == rubric


@given(rubrics(), st.data())
def test_reward_lies_in_unit_interval(rubric: Rubric, data: st.DataObject) -> None:
    levels = {c.id: data.draw(st.integers(0, len(c.levels) - 1)) for c in rubric.criteria}
    assert 0.0 <= rubric.reward(assess(rubric, lambda c: levels[c.id])) <= 1.0


@given(rubrics())
def test_best_levels_earn_one_and_worst_earn_nothing(rubric: Rubric) -> None:
    assert rubric.reward(assess(rubric, lambda c: len(c.levels) - 1)) == 1.0
    assert rubric.reward(assess(rubric, lambda c: 0)) == 0.0


def test_reward_is_the_weighted_mean_of_ranks_and_a_failed_veto_leaves_a_tenth(rubric: Rubric) -> None:
    levels = {"structure": 1, "evidence": 1, "on_task": 1}
    assert rubric.reward(assess(rubric, lambda c: levels[c.id])) == pytest.approx((3 * 0.5 + 1 * 1) / 4)
    levels["on_task"] = 0
    assert rubric.reward(assess(rubric, lambda c: levels[c.id])) == pytest.approx(0.1 * (3 * 0.5 + 1 * 1) / 4)


def test_no_reward_from_a_partial_or_foreign_or_out_of_range_verdict(rubric: Rubric) -> None:
    whole = assess(rubric, lambda c: 1)
    with pytest.raises(ValueError, match="exactly once"):
        rubric.reward({key: value for key, value in whole.items() if key != "evidence"})
    with pytest.raises(ValueError, match="exactly once"):
        rubric.reward(whole | {"other": Assessment("r", 0)})
    with pytest.raises(ValueError, match="outside"):
        rubric.reward(whole | {"evidence": Assessment("r", 2)})


def test_judge_hash_ignores_weight_and_provenance_and_reward_hash_does_not_ignore_weight(
    rubric: Rubric,
) -> None:
    first, *rest = rubric.criteria
    heavier = rubric.model_copy(update={"criteria": (first.model_copy(update={"weight": 5}), *rest)})
    sourced = rubric.model_copy(
        update={"criteria": (first.model_copy(update={"provenance": ("b1r2",)}), *rest)}
    )
    reworded = rubric.model_copy(
        update={"criteria": (first.model_copy(update={"description": "Else."}), *rest)}
    )
    assert heavier.judge_hash == rubric.judge_hash == sourced.judge_hash
    assert reworded.judge_hash != rubric.judge_hash
    assert sourced.reward_hash == rubric.reward_hash != heavier.reward_hash


def test_clusters_have_guidelines_of_their_own_and_are_part_of_the_identity(rubric: Rubric) -> None:
    def with_clusters(clusters: dict[str, str]) -> Rubric:
        return Rubric(criteria=rubric.criteria, clusters=clusters)

    one = with_clusters({"algebra": "Check signs.", "geometry": "Check the figure."})
    assert one.set_hash == with_clusters(dict(reversed(one.clusters.items()))).set_hash
    swapped = with_clusters({"algebra": "Check the figure.", "geometry": "Check signs."})
    assert len({one.set_hash, swapped.set_hash, rubric.set_hash}) == 3
    assert one.reward_hash == rubric.reward_hash  # outside of these clusters nothing differs
    assert "Check signs." in one.render("algebra")
    assert one.render("number theory") == one.render() == rubric.render()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criteria": []}, "at least 1"),
        ({"criteria": [{"id": "A", "description": "d", "levels": ["x", "y"]}]}, "pattern"),
        ({"criteria": [{"id": "a", "description": "d", "levels": ["x"]}]}, "at least 2"),
        ({"criteria": [{"id": "a", "description": "d", "levels": list("abcdefgh")}]}, "at most 7"),
        (
            {"criteria": [{"id": "a", "description": "d", "levels": ["x", "y"], "weight": 6}]},
            "less than or equal to 5",
        ),
        ({"criteria": [{"id": "a", "description": "d", "levels": ["x", "y"], "kind": "veto"}]}, "one merit"),
        ({"criteria": [{"id": "a", "description": "d", "levels": ["x", "y"]}] * 2}, "repeated: a"),
        ({"criteria": [{"id": "a", "description": "d", "levels": ["x", "y"], "points": 3}]}, "Extra inputs"),
    ],
)
def test_malformed_rubrics_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rubric.model_validate(change)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (
            "levels: [no, yes]",
            "r.yaml:4 criteria.0.levels.0: YAML reads no and yes as booleans; quote them: levels: ",
        ),
        ("levels: [x, y]\n  wieght: 2", 'r.yaml:5 criteria.0.wieght: unknown key, did you mean "weight"?'),
        ("levels: [no, yes]\n  wieght: 2", 'r.yaml:5 criteria.0.wieght: unknown key, did you mean "weight"?'),
        ("levels: [x, y]\n  kind: on", "r.yaml:5 criteria.0.kind: must be 'merit' or 'veto'"),
    ],
)
def test_a_mistake_in_a_rubric_file_is_told_with_line_key_and_fix(criterion: str, message: str) -> None:
    text = f"criteria:\n- id: a\n  description: d\n  {criterion}\n"
    with pytest.raises(TaskError) as caught:
        parse_rubric(text, "r.yaml")
    assert str(caught.value).startswith(message)


def test_a_fourth_veto_is_refused() -> None:
    merit = Criterion(id="m", description="d", levels=("x", "y"))
    vetoes = [
        Criterion(id=f"v{n}", description="d", levels=("failed", "passed"), kind="veto") for n in range(4)
    ]
    with pytest.raises(ValidationError, match="at most 3 vetoes"):
        Rubric(criteria=(merit, *vetoes))


def test_a_bad_rubric_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "rubric.yaml"
    for text, message in (
        ("criteria: [", "not valid YAML"),
        ("criteria: []", "criteria"),
        ("x" * 300_000, "larger"),
    ):
        path.write_text(text)
        with pytest.raises(TaskError, match=message) as caught:
            load_rubric(path)
        assert str(path) in str(caught.value)
    with pytest.raises(TaskError, match="no such file"):
        load_rubric(tmp_path / "none.yaml")


def test_yaml_tags_that_would_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rubric.yaml"
    path.write_text("criteria: !!python/object/apply:os.system ['true']")
    with pytest.raises(TaskError, match="not valid YAML"):
        load_rubric(path)


def test_what_defusing_leaves_blank_is_stripped_or_refused() -> None:
    level = Criterion(id="a", description="sound\u202e", levels=("none\u202e", "some"))
    rubric = Rubric(criteria=(level,), guidelines="\u202e")
    assert (level.description, level.levels[0], rubric.guidelines) == ("sound", "none", "")
    assert parse_rubric(dump_rubric(rubric), "here") == rubric
    with pytest.raises(ValidationError):
        Criterion(id="a", description="\u202e", levels=("none", "some"))
