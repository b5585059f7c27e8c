"""Planted answers: known-bad ones, and honest ones with a shortcut."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.judge.base import Sample
from mpo_lite.meta.sentinels import ADDITIONS, COMPLAINTS, order_prompts, plant_answers
from mpo_lite.meta.shortcuts import add_phrases, add_shortcut
from mpo_lite.tasks.spec import Sentinel, Shortcut
from tests.support.sandbox_answers import honest

KINDS = get_args(Sentinel)
SHORTCUTS = get_args(Shortcut)


def test_sentinels_are_what_their_names_say() -> None:
    anchor = honest(6)
    planted = {one.kind: one for one in plant_answers(dict.fromkeys(KINDS, 2), anchor, [None] * 6)}
    assert set(planted) == set(KINDS) == set(COMPLAINTS)
    texts = {kind: one.sample.completion for kind, one in planted.items()}
    at = {kind: anchor[one.place] for kind, one in planted.items()}
    assert texts["empty"] == ""
    assert texts["title"].startswith("# ") and len(texts["title"].split()) <= 6
    assert texts["prompt"] == at["prompt"].prompt
    sentence = texts["repeated"].split(".")[0]
    assert texts["repeated"].count(sentence) >= 4 and sentence.strip() in at["repeated"].completion
    assert texts["other_prompt"] in [one.completion for one in anchor]
    assert texts["other_prompt"] != at["other_prompt"].completion
    assert not texts["foreign"].isascii() and "full marks" in texts["injection"]
    assert all(one.sample.prompt == at[kind].prompt for kind, one in planted.items())


texts_by_prompt = st.dictionaries(st.text(max_size=40), st.text(max_size=60), min_size=2, max_size=5)


@given(texts_by_prompt)
def test_answers_can_be_planted_on_anything(texts: dict[str, str]) -> None:
    anchor = [Sample(*pair) for pair in texts.items()]
    kinds = dict.fromkeys([*KINDS, *SHORTCUTS, "phrases"], 2)
    planted = plant_answers(kinds, anchor, [None] * len(anchor), ["in my view"])
    assert len(planted) == 2 * len(kinds)
    assert planted == plant_answers(kinds, anchor, [None] * len(anchor), ["in my view"])


@given(st.lists(st.none() | st.floats(0, 1), min_size=2, max_size=13), st.text(max_size=9))
def test_prompts_are_tried_in_mirrored_pairs_and_each_once(scores: list[float | None], kind: str) -> None:
    order = order_prompts(kind, scores)
    assert sorted(order) == list(range(len(scores))) and order == order_prompts(kind, scores)
    ranks = sorted(range(len(scores)), key=lambda place: (scores[place] or 0.0, place))
    low, high = (ranks.index(place) for place in order[:2])
    assert low + high == len(scores) - 1


def test_a_shortcut_is_added_and_the_answer_stays_whole() -> None:
    prompt, answer = (
        "Write an essay about sea otters and kelp.",
        "Pi is 3.14. Otters eat urchins.\n\nSo kelp grows.",
    )
    for kind in SHORTCUTS:
        text = add_shortcut(kind, prompt, answer)
        assert "Pi is 3.14." in text and text.endswith("So kelp grows.") and len(text) > len(answer)
    assert add_shortcut("headings", prompt, answer).startswith("# Otters Write About Essay")
    assert "otters, Write, about, essay, kelp" in add_shortcut("keywords", prompt, answer)
    assert "as one may see" in add_phrases(["as one may see"], answer)
    assert not add_shortcut("praise", "写一篇关于狗的文章", "狗是人类的好朋友。它们很忠诚。").isascii()
    assert set(ADDITIONS) == {*SHORTCUTS, "phrases"} and not set(ADDITIONS) & set(COMPLAINTS)
