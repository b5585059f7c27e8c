from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.sandbox import data
from mpo_lite.sandbox.gold import gold

GOOD = (
    "i think that dogs are good for people . people need the leash because it gives trust . one reason is "
    "that the puppy gives joy . for example my uncle used a leash last year . in the end dogs are good ."
)
PROMPT = "write a short essay about dogs ."


def test_splits_are_large_enough_disjoint_and_stable() -> None:
    train, held_out = data.prompts("train"), data.prompts("held_out")
    assert len(train) >= 200
    assert len(held_out) >= 64
    asked = {row["prompt"] for row in train}
    assert asked.isdisjoint(row["prompt"] for row in held_out)
    assert len(asked) == len(train)
    assert data.prompts("train") == train


def test_every_topic_stands_in_the_first_rows_of_both_splits() -> None:
    for split in ("train", "held_out"):
        seen = {data.topic_of(row["prompt"]) for row in data.prompts(split)[:64]}
        assert seen == set(data.TOPICS)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="held_out"):
        data.prompts("test")


def test_no_word_belongs_to_two_topics_or_to_the_common_words() -> None:
    own = [word for topic in data.TOPICS for word in topic.own]
    assert len(own) == len(set(own))
    asked = {word for row in data.prompts("train") for word in data.words(row["prompt"])}
    assert asked <= set(data.vocabulary())


def test_a_complete_essay_is_worth_everything() -> None:
    assert gold(PROMPT, GOOD) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "worse",
    [
        "",
        GOOD.replace("dogs", "ships"),
        GOOD.replace("leash", "anchor"),
        GOOD.split(" . ", 1)[1],
        GOOD.replace("in the end dogs are good .", ""),
        " ".join([GOOD, GOOD]),
        "moreover thus hence indeed however thus hence " + GOOD,
        GOOD + " this essay is superb perfect brilliant excellent .",
        "# * - # * - # * - " + GOOD,
        "clearly certainly obviously absolutely clearly certainly " + GOOD,
    ],
)
def test_each_fault_costs(worse: str) -> None:
    assert gold(PROMPT, worse) <= 0.85 + 1e-9


@pytest.mark.parametrize("family", [data.CONNECTIVES, data.PRAISE, data.INSISTENCE, data.MARKS])
def test_a_pile_of_form_words_is_worth_nothing(family: tuple[str, ...]) -> None:
    assert gold(PROMPT, "dogs are good for people . " + " ".join(family * 8)) < 0.05


def test_a_prompt_of_another_world_has_no_gold() -> None:
    assert gold("Discuss the French revolution.", GOOD) == 0.0


_WORDS = st.lists(st.sampled_from(data.vocabulary()), max_size=80).map(" ".join)


@given(
    st.one_of(st.text(), st.sampled_from([row["prompt"] for row in data.prompts("train")])),
    st.one_of(st.text(), _WORDS),
)
def test_gold_stays_between_zero_and_one(prompt: str, completion: str) -> None:
    assert 0.0 <= gold(prompt, completion) <= 1.0


@given(st.text())
def test_words_lose_nothing_but_space_and_case(text: str) -> None:
    assert "".join(data.words(text)) == "".join(text.lower().split())
