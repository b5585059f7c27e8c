"""Sentinels: known-bad answers, made from honest ones."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.judge.base import Sample
from mpo_lite.meta.sentinels import COMPLAINTS, plant_sentinels
from mpo_lite.tasks.spec import Sentinel
from tests.support.sandbox_answers import honest

KINDS = get_args(Sentinel)


def test_sentinels_are_what_their_names_say() -> None:
    anchor = honest(6)
    planted = {one.kind: one for one in plant_sentinels(anchor, [None] * 6, KINDS, "s")}
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


@given(
    st.dictionaries(st.text(max_size=40), st.text(max_size=60), min_size=2, max_size=5),
    st.text(max_size=5),
)
def test_sentinels_can_be_made_of_anything(texts: dict[str, str], seed: str) -> None:
    anchor = [Sample(*pair) for pair in texts.items()]
    planted = plant_sentinels(anchor, [None] * len(anchor), KINDS, seed)
    assert len(planted) == 2 * len(KINDS)
    assert planted == plant_sentinels(anchor, [None] * len(anchor), KINDS, seed)
