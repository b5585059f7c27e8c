from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_lite.meta import schemas
from mpo_lite.meta.sentinels import ADDITIONS, COMPLAINTS
from mpo_lite.prompts import fence, prompts_dir
from mpo_lite.rubric import Rubric, load_rubric
from mpo_lite.sandbox import data, library, measures, simulate, simulate_meta
from mpo_lite.sandbox.simulate import reply, weaknesses
from mpo_lite.sanitize import neutralize
from mpo_lite.types import Assessment, Message

KEY = b"0123456789abcdef"
TASK = "write a short essay about dogs ."
GOOD = (
    "i think that dogs are good for people . people need the leash because it gives trust . one reason is "
    "that the puppy gives joy . for example my uncle used a leash last year . in the end dogs are good ."
)
PURPOSE: str = yaml.safe_load((prompts_dir() / "tasks/sandbox/task.yaml").read_text())["purpose"]
VAGUE = load_rubric(prompts_dir() / "tasks/sandbox/rubric.yaml")
FORM: dict[str, tuple[str, ...]] = {
    "lexical": data.CONNECTIVES,
    "praise": data.PRAISE,
    "tone": data.INSISTENCE,
    "format": data.MARKS,
}


def ask(
    template: str, rubric: Rubric = VAGUE, seed: int = 0, bad_rate: float = 0.0, texts: str = "", **facts: Any
) -> dict[str, Any]:
    """What the simulated model answers to a prompt of other words, which holds the same facts and texts."""
    messages = [Message(role="system", content="Do it."), Message(role="user", content=texts)]
    given = {"template": template, "purpose": PURPOSE, **rubric.facts, **facts}
    return reply(messages, given, seed, bad_rate)


def judge(rubric: Rubric, completion: str, seed: int = 0, task: str = TASK) -> dict[str, Any]:
    return ask("judge/pointwise", rubric, seed, texts=material(task=task, completion=completion))


def reward(rubric: Rubric, completion: str, seed: int = 0, task: str = TASK) -> float:
    verdict = judge(rubric, completion, seed, task)
    return rubric.reward({name: Assessment(**value) for name, value in verdict.items()})


def specific(*aspects: str) -> Rubric:
    refined = simulate_meta.refine("The rubric has nothing on " + ", ".join(aspects))
    return Rubric.model_validate({"criteria": refined["criteria"]})


def material(**texts: str) -> str:
    return "\n\n".join(fence(tag, text, KEY) for tag, text in texts.items())


def meta_step(
    rubric: Rubric, completions: list[str], bad_rate: float = 0.0, limit: int = 8, seed: int = 0
) -> Rubric:
    proposals: list[str] = []
    for index, completion in enumerate(completions):
        verdict = json.dumps(judge(rubric, completion))
        texts = material(task=TASK, completion=completion, verdict=verdict)
        analysis = ask("meta/analyse", rubric, texts=texts)
        critique = schemas.parse_critique(analysis).critique
        assert len(critique.split()) <= 120
        proposal = ask("meta/refine", rubric, texts=material(critique=critique))
        assert len(proposal["criteria"]) == len(schemas.parse_refinement(proposal, rubric).criteria) <= 4
        proposals.append(fence("proposal", json.dumps({"label": f"s{index + 1}", **proposal}), KEY))
    merged = ask("meta/merge", rubric, seed, bad_rate, "\n\n".join(proposals), limit=limit)
    labels = {label for criterion in merged["criteria"] for label in criterion.pop("from")}
    assert labels <= {f"s{index + 1}" for index in range(len(completions))}
    return Rubric.model_validate(merged)


def test_a_rubric_is_read_from_its_facts() -> None:
    rubric = specific("topic", "praise")
    items = measures.parse_items(rubric.model_copy(update={"guidelines": "Be fair."}).facts["rubric"])
    assert [item.id for item in items] == [criterion.id for criterion in rubric.criteria]
    assert [item.levels for item in items] == [criterion.levels for criterion in rubric.criteria]
    with pytest.raises(ValueError, match="a rubric is a list of objects"):
        measures.parse_items([{"id": "a"}])


def test_every_library_criterion_means_its_own_aspect() -> None:
    for aspect, (name, description, levels, _) in library.LIBRARY.items():
        item = measures.Item(name, description, levels)
        assert measures.meant(item) == [aspect]
        assert measures.find_aspects(library.FAULTS[aspect]) == [aspect]


def test_the_starting_rubric_is_vague() -> None:
    assert [measures.meant(item) for item in measures.parse_items(VAGUE.facts["rubric"])] == [[]]


def test_every_seed_has_one_or_two_weaknesses_and_all_families_occur() -> None:
    drawn = [weaknesses(seed) for seed in range(300)]
    assert {len(set(weak)) for weak in drawn} == {1, 2}
    counts = Counter(weak[0] for weak in drawn)
    assert set(counts) == set(measures.IMPRESSIONS)
    assert min(counts.values()) > 30


@pytest.mark.parametrize("seed", range(12))
def test_a_vague_rubric_pays_more_for_its_weakness_than_for_a_good_essay(seed: int) -> None:
    weak = weaknesses(seed)
    piles = [FORM[name] for name in weak if name in FORM] or [data.BENEFITS]
    hacked = " ".join(words for family in piles for words in family * (60 // len(family) // len(piles)))
    if "length" in weak:
        hacked += " dogs" * 10
    honest = GOOD.split("for example")[0]  # 25 words: a good beginning
    assert reward(VAGUE, hacked, seed) > reward(VAGUE, honest, seed)


@pytest.mark.parametrize("seed", range(12))
def test_specific_criteria_pay_more_for_a_good_essay(seed: int) -> None:
    rubric = specific("topic", "reasons", "example", "closing")
    for family in FORM.values():
        assert reward(rubric, GOOD, seed) > reward(rubric, "dogs . " + " ".join(family * 9), seed) + 0.3


@pytest.mark.parametrize("aspect", ["connectives", "praise", "insistence", "marks", "length", "repetition"])
def test_a_fault_criterion_is_measured(aspect: str) -> None:
    bad = {
        "connectives": "thus hence moreover indeed thus hence . " + GOOD[:60],
        "praise": "superb perfect brilliant excellent superb perfect . " + GOOD[:60],
        "insistence": "clearly certainly obviously absolutely clearly . " + GOOD[:60],
        "marks": "# # * * - - = = # # " + GOOD[:60],
        "length": GOOD + " " + GOOD,
        "repetition": "dogs are good . " * 8,
    }[aspect]
    assert reward(specific(aspect), bad) < 0.5 < reward(specific(aspect), GOOD)


def test_a_criterion_that_wants_length_or_form_gets_it() -> None:
    levels = ["Little.", "Some.", "Much.", "As long as can be."]
    long = Rubric.model_validate(
        {"criteria": [{"id": "length", "description": "How far it goes.", "levels": levels}]}
    )
    assert reward(long, GOOD + " " + GOOD) > reward(long, "dogs are good .") + 0.5


def test_the_judge_is_a_function_of_what_it_is_shown_and_errs_now_and_then() -> None:
    rubric = specific("topic", "example")
    essays = [f"{GOOD} {word} ." for word in data.vocabulary()]
    first = [judge(rubric, essay, 3) for essay in essays]
    assert first == [judge(rubric, essay, 3) for essay in essays]
    off = sum(verdict["example"]["level"] < 2 for verdict in first) / len(first)
    assert 0.0 < off < 0.2


def test_real_prompts_and_answers_are_judged_too() -> None:
    rubric = specific("topic", "reasons", "example", "closing")
    task = "Argue whether libraries should lend tools, in no more than 300 words."
    answer = (
        "Libraries should lend tools. People save money because libraries lend tools that few need daily. "
        "Lending matters too because tools in libraries serve a whole street. For example, a drill from the "
        "libraries hung forty shelves last year. In conclusion, libraries should lend tools."
    )
    assert reward(rubric, answer, task=task) > 0.8
    assert reward(rubric, "i think that dogs are good .", task=task) < 0.3


def test_meta_steps_mend_the_vague_rubric_from_what_they_see() -> None:
    hacked = "moreover thus hence indeed moreover thus hence indeed moreover dogs moreover thus"
    rubric = VAGUE
    for _ in range(3):
        rubric = meta_step(rubric, [hacked] * 4 + [GOOD] * 4)
    names = [criterion.id for criterion in rubric.criteria]
    assert "flow" not in names
    assert "no_idle_connectives" in names
    assert len(names) <= 8
    assert reward(rubric, GOOD) > reward(rubric, hacked) + 0.4


def test_merge_keeps_the_limit_and_the_order_in_force() -> None:
    rubric = specific("closing", "claim", "topic")
    new = meta_step(rubric, ["# # # superb superb"] * 4, limit=5)
    assert len(new.criteria) == 5
    assert [criterion.id for criterion in new.criteria][:3] == [criterion.id for criterion in rubric.criteria]


def test_a_bad_merge_is_vague_or_pays_for_length_or_for_a_form() -> None:
    kinds: set[str] = set()
    for seed in range(30):
        bad = meta_step(specific("topic", "reasons"), [GOOD] * 3, bad_rate=1.0, seed=seed)
        item = measures.parse_items(bad.facts["rubric"])[-1]
        assert measures.rewards_presence(item)
        kinds.add("".join(measures.meant(item)))
    assert {"", "length"} < kinds and kinds & set(library.FORMS)


def test_a_refused_rubric_is_mended_by_the_reasons() -> None:
    refused = meta_step(specific("topic", "reasons"), [GOOD] * 3, bad_rate=1.0)
    data = json.dumps({"criteria": [each.model_dump(mode="json") for each in refused.criteria]})
    texts = material(refused=data)
    revised = ask("meta/revise", specific("topic"), texts=texts, objections=["repeated"])
    names = [criterion["id"] for criterion in revised["criteria"]]
    assert "no_repetition" in names and "on_topic" in names
    assert not {"impression", "length"} & set(names)


def test_what_became_worse_since_the_reference_is_named_first() -> None:
    bare = GOOD.split("one reason")[0]
    padded = "superb perfect excellent " + bare
    alone = ask("meta/analyse", texts=material(task=TASK, completion=padded))
    pair = ask("meta/compare", texts=material(task=TASK, initial=bare, completion=padded))
    praise = library.FAULTS["praise"]
    assert pair["critique"].index(praise) < alone["critique"].index(praise)


@pytest.mark.parametrize(("reward", "judged"), [(0.95, "too_high"), (0.05, "too_low")])
def test_prescreening_tells_a_reward_that_is_off(reward: float, judged: str) -> None:
    text = "superb superb superb superb" if judged == "too_high" else GOOD
    answer = ask("meta/prescreen", texts=material(task=TASK, completion=text), reward=reward)
    assert answer["judged"] == judged


def test_planned_judging_plans_and_judges_as_pointwise_does() -> None:
    rubric = specific("topic", "example")
    plan = ask("judge/plan", rubric, texts=material(task=TASK))["plan"]
    assert "on_topic" in plan
    planned = ask("judge/planned", rubric, texts=material(task=TASK, plan=plan, completion=GOOD))
    assert planned == judge(rubric, GOOD)


def test_guidelines_of_a_kind_of_task_grow_by_what_its_critiques_name() -> None:
    texts = material(guidelines="Look closely at: topic.", critique="No reason is given.")
    guidelines = ask("meta/guide", texts=texts)["guidelines"]
    assert guidelines == "Look closely at: topic. Look closely at: reasons."


def test_bad_merges_come_at_the_asked_rate() -> None:
    asked, seen = simulate_meta.refine("topic"), 0
    for index in range(400):
        texts = fence("proposal", json.dumps({"label": f"s{index}", **asked}), KEY)
        merged = ask("meta/merge", seed=1, bad_rate=0.1, texts=texts)
        seen += [criterion["id"] for criterion in merged["criteria"]] != ["on_topic"]
    assert 20 <= seen <= 65


def test_repair_gives_back_the_object_or_says_that_there_is_none() -> None:
    broken = 'Sure! {"flow": {"reason": "so", "level": 2}} I hope this helps.'
    for shown, expected in (
        (broken, {"flow": {"reason": "so", "level": 2}}),
        ("no idea", {"unusable": True}),
    ):
        assert ask("judge/repair", texts=material(reply=shown)) == expected


def test_other_prompts_are_refused() -> None:
    said = [Message(role="system", content="You are a comedian."), Message(role="user", content="Go on.")]
    with pytest.raises(ValueError, match="mpo-lite"):
        reply(said, {})


def test_a_greeting_without_instructions_is_answered() -> None:
    assert reply([Message(role="user", content="Reply with the word: ready")], {})


def test_the_simulated_readers_do_not_know_the_gold_metric() -> None:
    for module in (simulate, simulate_meta, measures, library):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        imported = [
            ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not any("gold" in line for line in imported)


@settings(max_examples=150)
@given(st.text(max_size=300), st.text(max_size=300), st.integers(0, 2**63), st.text(max_size=200))
def test_arbitrary_text_never_breaks_a_role(task: str, completion: str, seed: int, rubric_words: str) -> None:
    words = neutralize(rubric_words).strip() or "x"
    criterion = {"id": "a", "description": words, "levels": [words, words]}
    rubric = Rubric.model_validate({"criteria": [criterion, {**criterion, "id": "b"}], "guidelines": words})
    verdict = judge(rubric, completion, seed, task)
    assert 0.0 <= rubric.reward({name: Assessment(**value) for name, value in verdict.items()}) <= 1.0
    texts = material(task=task, initial=task, completion=completion) + completion
    for role in ("analyse", "compare", "contrast"):
        assert ask(f"meta/{role}", rubric, seed, texts=texts, purpose=task)["critique"]
    assert ask("meta/prescreen", rubric, seed, texts=texts, purpose=task, reward=0.5)["judged"]
    schemas.parse_refinement(ask("meta/refine", rubric, seed, texts=material(critique=task)), rubric)
    merged = ask("meta/merge", VAGUE, seed, 0.5, material(proposal=completion))
    revised = ask("meta/revise", VAGUE, seed, 0.5, material(refused=completion), objections=["title"])
    for answer in (merged, revised):
        for entry in answer["criteria"]:
            entry.pop("from")
        Rubric.model_validate(answer)


def test_the_objections_it_answers_are_those_of_the_gate() -> None:
    assert set(library.ANSWERS) <= set(COMPLAINTS) | set(ADDITIONS) | {"varied"}
    assert set(COMPLAINTS) - set(library.ANSWERS) == {"empty"}  # it earns nothing by any criterion
