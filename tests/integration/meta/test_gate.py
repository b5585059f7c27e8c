"""The gate: its rules, its sentinels, and what it makes of sound and unsound rubrics."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from mpo_lite.config import Config, Thresholds
from mpo_lite.jsonl import read_rows
from mpo_lite.judge.base import Sample
from mpo_lite.judge.panel import build_judge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import event_loop
from mpo_lite.llm.client import Client
from mpo_lite.llm.models import Backend
from mpo_lite.meta.gate import Gate
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.meta.sentinels import ADDITIONS
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.sandbox import simulate_meta
from mpo_lite.sandbox.judge_server import running
from mpo_lite.tasks.spec import Rules, Sentinel, Shortcut, load_task
from mpo_lite.types import Assessment, Brief, Verdict
from tests.support.llm_server import LLMServer, completion_of, prompt_text
from tests.support.sandbox_answers import honest

pytestmark = pytest.mark.usefixtures("quick_retries")

KINDS = get_args(Sentinel)
TASK = load_task("sandbox")
PLAIN = TASK.model_copy(update={"shortcuts": ()})
"""Where no shortcut is tried, and so none ends a check before the sentinels."""
TITLES = Rubric(
    criteria=(
        Criterion(
            id="heading",
            description="Whether it opens with a heading that names the subject.",
            levels=("No heading.", "A plain one.", "A heading that catches the eye."),
        ),
    )
)


def sound(*aspects: str) -> Rubric:
    wanted = aspects or ("topic", "claim", "reasons", "example", "closing", "repetition")
    return Rubric.model_validate({"criteria": [simulate_meta._criterion(aspect) for aspect in wanted]})


@pytest.fixture
def url() -> Iterator[str]:
    with running(seed=0) as address:
        yield address


MakeGate = Callable[..., Gate]


@pytest.fixture
def make_gate(make_client: Callable[..., Client], tmp_path: Path) -> MakeGate:
    def make(url: str, anchor: list[Sample], task: Any = TASK, **thresholds: float) -> Gate:
        backend = Backend("j", "openai/sandbox-judge", url, "none", 0.0, 1024)
        client = make_client()
        gate_judge = BudgetedJudge(
            lambda draw: PointwiseJudge(client, backend, Brief("a teacher"), None, draw, "gate"),
            lambda: "j",
            task.rules,
            tmp_path / "trials.jsonl",
        )
        return Gate(gate_judge, anchor, task, Thresholds(**thresholds))  # pyright: ignore

    return make


def examined(gate: Gate, new: Rubric, old: Rubric | None = None, recent: Any = (), batch: int = 10) -> Any:
    return event_loop.wait(gate.examine(new, old or new, recent, batch))


def test_a_sound_rubric_passes(url: str, make_gate: MakeGate) -> None:
    gate_result = examined(make_gate(url, honest()), sound())
    assert gate_result.passed, gate_result.objections
    assert all(gate_result.figures[f"margin_{kind}"] >= 0.2 for kind in KINDS if kind != "empty")
    assert "margin_empty" not in gate_result.figures  # a rule decides on those, whatever the rubric


@pytest.mark.parametrize(
    ("rubric", "reason"),
    [
        (TITLES, "a title without any text"),
        (sound("repetition", "length"), "a title without any text"),
        (sound("claim"), "one sentence said again"),
    ],
)
def test_a_rubric_that_pays_for_a_sentinel_is_refused_with_the_reason(
    url: str, make_gate: MakeGate, rubric: Rubric, reason: str
) -> None:
    gate_result = examined(make_gate(url, honest(), task=PLAIN), rubric)
    assert not gate_result.passed
    assert any(objection.text.startswith(reason) for objection in gate_result.objections), (
        gate_result.objections
    )


def test_a_shortcut_that_pays_ends_the_check(url: str, make_gate: MakeGate) -> None:
    """What a refusal does not take is left for the next proposal."""
    gate = make_gate(url, honest())
    refused = examined(gate, TITLES)
    spent = gate.gate_judge.spent_before(11)
    assert {objection.id for objection in refused.objections} <= set(ADDITIONS)
    assert not any(name.startswith("margin_") for name in refused.figures)
    # The anchor's answers, each shortcut on four prompts, and the one that gains most on all.
    assert spent <= 12 + 4 * 7 + 12
    whole = examined(gate, sound())
    assert whole.passed and any(name.startswith("margin_") for name in whole.figures)
    assert gate.gate_judge.spent_before(11) - spent >= 12 + 4 * 7 + 2 * 6


def test_what_falls_short_passes_where_the_rubric_in_force_falls_short_twice_as_far(
    url: str, make_gate: MakeGate
) -> None:
    gate = make_gate(url, honest())
    better = sound("claim", "reasons", "closing", "length")
    loose = gate.thresholds.model_copy(update={"margin": 0.6})
    gate = Gate(gate.gate_judge, gate.anchor, gate.task, loose)
    short = examined(gate, better, TASK.rubric)
    assert short.passed and 0 < 2 * short.figures["short"] <= short.figures["short_in_force"]
    # Where the rubric in force falls short, but less than twice as far, it does not.
    close = examined(gate, better, sound("reasons", "length"))
    assert not close.passed
    assert 1 < close.figures["short_in_force"] / close.figures["short"] < 2
    assert not examined(gate, TITLES, TASK.rubric).passed


def test_the_order_of_an_unsound_rubric_is_no_authority(url: str, make_gate: MakeGate) -> None:
    anchor = [
        Sample(one.prompt, one.completion + " moreover thus" * (place % 3))
        for place, one in enumerate(honest())
    ]
    paying = Criterion(
        id="transition_words",
        description="How many transition words are used.",
        levels=("None.", "Some.", "Many.", "Throughout."),
    )
    new = sound("topic", "reasons", "connectives")
    gate_result = examined(make_gate(url, anchor), new, Rubric(criteria=(paying,)))
    assert gate_result.figures["agreement"] < 0
    assert gate_result.passed


def real_answers() -> list[Sample]:
    """Real prompts with real answers of a language model to them; both vary in length and kind."""
    folder = os.environ.get("MPO_TEST_DATA")
    if not folder:
        pytest.skip("needs the real essays: set MPO_TEST_DATA")
    lines = (Path(folder) / "essay_matches.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    answers = {row["prompt"]: row["response_a"] for row in rows}
    return [Sample(*pair) for pair in list(answers.items())[:12]]


def test_on_real_prompts_a_sound_rubric_rejects_all_sentinels_and_one_that_pays_for_titles_is_refused(
    url: str, make_gate: MakeGate
) -> None:
    gate = make_gate(url, real_answers())
    rubric = sound("topic", "reasons", "example", "closing")
    gate_result = examined(gate, rubric)
    assert gate_result.passed, gate_result.objections
    assert len(gate_result.figures) == 6 + 7 + 2  # margins, gains, agreement and the required margin
    refused = examined(make_gate(url, real_answers(), task=PLAIN), TITLES)
    assert any("a title without any text" in objection.text for objection in refused.objections)
    assert refused.figures["margin_title"] < 0 < gate_result.figures["margin_title"]
    (title,) = [each.text for each in refused.objections if each.id == "title"]
    assert re.search(
        r"scored \d\.\d\d above honest answers .*; it must score 0\.05 or more below them", title
    )


def test_an_order_that_turns_round_is_refused(url: str, make_gate: MakeGate) -> None:
    anchor = [
        Sample(one.prompt, one.completion + " indeed thus hence moreover" * place)
        for place, one in enumerate(honest())
    ]
    wanted = Criterion(
        id="transition_words",
        description="How many transition words are used.",
        levels=("None.", "Some.", "Many.", "Throughout."),
    )
    gate = make_gate(url, anchor, margin=0.0)
    gate_result = examined(gate, sound("connectives"), Rubric(criteria=(wanted,)))
    assert any("the other way round" in objection.text for objection in gate_result.objections)
    assert gate_result.figures["agreement"] < 0


def test_recent_answers_must_be_told_apart(url: str, make_gate: MakeGate) -> None:
    gate = make_gate(url, honest())
    one = honest()[0]
    same = [[one, one, one], [one, one]]
    other = Sample(one.prompt, "dogs . dogs . dogs .")
    assert [each.id for each in examined(gate, sound(), recent=same).objections] == ["varied"]
    assert examined(gate, sound(), recent=[[one, other], [one, one]]).passed  # half of the groups will do


def veto_all(body: Any) -> str:
    level = 0 if "bad" in completion_of(body) else 1
    return json.dumps({name: {"reason": "r", "level": level} for name in ("structure", "on_task")})


def test_a_rubric_that_vetoes_nearly_all_is_refused(make_gate: MakeGate, rubric: Rubric) -> None:
    two = Rubric(criteria=(rubric.criteria[0], rubric.criteria[2]))
    second = ["a fine answer", *(f"bad {n}" for n in range(4))]
    bad = [[Sample("p", f"bad answer {n}"), Sample("p", text)] for n, text in enumerate(second)]
    with LLMServer(lambda kind, body: veto_all(body) if kind == "judge" else None) as server:
        gate = make_gate(server.url, [Sample(f"p{n}", f"answer {n}") for n in range(4)], margin=0.0)
        gate_result = examined(gate, two, recent=bad)
    assert any("fail a veto" in objection.text for objection in gate_result.objections)
    assert gate_result.figures["vetoed"] == pytest.approx(0.9)


def test_a_judge_that_fails_leaves_the_rubric_unchecked_not_refused(
    make_gate: MakeGate, rubric: Rubric
) -> None:
    with LLMServer(lambda kind, body: "no JSON") as server:
        gate_result = examined(make_gate(server.url, honest()), rubric)
    assert (
        gate_result.objections == ()
        and gate_result.unchecked == "12 of 12 judgements of the anchor's answers failed"
    )
    assert not gate_result.passed


def test_a_kind_of_sentinel_that_was_not_judged_does_not_pass_unseen(make_gate: MakeGate) -> None:
    def fault(kind: str, body: Any) -> Any:
        if kind == "judge" and completion_of(body).startswith("# "):
            return "no JSON"
        level = 1 if "dogs" in completion_of(body) else 0
        return json.dumps({"a": {"reason": "r", "level": level}}) if kind == "judge" else "{}"

    names = ("cats", "cows", "hens", "pigs")
    anchor = [Sample(f"write about {name}", f"dogs and {name} are kept") for name in names]
    simple = Rubric(criteria=(Criterion(id="a", description="d", levels=("no", "yes")),))
    task = TASK.model_copy(update={"sentinels": ("title", "foreign", "injection")})
    with LLMServer(fault) as server:
        gate_result = examined(make_gate(server.url, anchor, task=task), simple)
    assert gate_result.unchecked == "no judgement of planted answers succeeded for: headings"


def test_each_answer_is_judged_once_per_rubric_and_checks_survive_a_restart(
    url: str, make_gate: MakeGate, tmp_path: Path
) -> None:
    gate = make_gate(url, honest())
    assert gate.cost_of_planted == 2 * 6 + 4 * 7 + 40
    assert gate.cost(sound(), TITLES, []) == 12 + 12 + gate.cost_of_planted
    first = examined(gate, sound(), TITLES)
    again = make_gate(url, honest())
    keys = [row["key"] for row in read_rows(tmp_path / "trials.jsonl")]
    assert again.gate_judge.spent_before(11) == gate.gate_judge.spent_before(11) == len(keys)
    assert len(set(keys)) == len(keys) >= 12 + 12 + 2 * 6 + 4 * 7
    assert again.gate_judge.spent_before(10) == 0
    again.gate_judge.left = again.cost_of_planted
    # Of the planted answers it cannot know the prompts yet.
    assert again.cost(sound(), TITLES, []) == again.cost_of_planted
    assert examined(again, sound(), TITLES, batch=30) == first
    assert again.gate_judge.left == again.cost_of_planted


def test_what_the_share_does_not_cover_is_not_asked_for(url: str, make_gate: MakeGate) -> None:
    gate = make_gate(url, honest())
    gate.gate_judge.left = 20
    gate_result = examined(gate, sound(), TITLES)
    assert (
        gate_result.unchecked
        == "the gate needs 104 judge calls but only 20 are left in its budget; raise gate.share"
    )
    assert gate.gate_judge.spent_before(99) == 0


def judge_by_words(kind: str, body: Any) -> Any:
    """A judge, alone or of groups, that pays for answers of one's own and for nothing else."""
    if kind not in ("judge", "group"):
        return None
    texts = re.findall(r"<completion-\w{12}>\n(.*?)\n</", prompt_text(body), re.DOTALL)
    levels = [int(text.startswith("My answer")) for text in texts]
    verdicts = [{"a": {"reason": "r", "level": level}} for level in levels]
    named = {f"answer_{number}": verdict for number, verdict in enumerate(verdicts, 1)}
    return json.dumps(named if kind == "group" else verdicts[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"judge_mode": "planned"},
        {"judge_mode": "groupwise", "group_size": 3},
        {"replicates": 2},
        {"judge_mode": "planned", "replicates": 2},
    ],
)
def test_a_check_is_charged_the_calls_that_it_sends(
    make_client: Callable[..., Client], tmp_path: Path, options: dict[str, Any]
) -> None:
    anchor = [Sample(f"Write about topic {n}.", f"My answer on {n}. It ends here.") for n in range(6)]
    recent = [[Sample(f"Write about topic {n}.", f"Text {m}, or not.") for m in range(4)] for n in (0, 7, 8)]
    new, old = (
        Rubric(criteria=(Criterion(id="a", description=text, levels=("no", "yes")),))
        for text in ("Whether it is a full answer.", "Whether it is one.")
    )
    task = TASK.model_copy(update={"sentinels": ("title", "injection"), "shortcuts": ("praise", "padding")})
    task = task.model_copy(update={"rules": Rules(min_words=4)})
    client, config = make_client(), Config(**options)

    def gate(url: str) -> Gate:
        backend = Backend("j", "openai/j", url, "none", 0.0, 1024)
        gate_judge = BudgetedJudge(
            lambda draw: build_judge(config, client, [backend], Brief("a teacher"), "gate", draw),
            lambda: "j",
            task.rules,
            tmp_path / "trials.jsonl",
        )
        return Gate(gate_judge, anchor, task, Thresholds(varied=0.0))

    with LLMServer(judge_by_words) as server:
        first = gate(server.url)
        set_aside = first.cost(new, old, recent)
        assert set_aside <= first.max_cost(old)
        first.gate_judge.left = set_aside
        result = examined(first, new, old, recent)
        sent, left = len(server.requests), first.gate_judge.left
        assert result.passed, (result.objections, result.unchecked)
        assert sent == set_aside - left == first.gate_judge.spent_before(11) and left >= 0
        answers = len(read_rows(tmp_path / "trials.jsonl"))
        if config.judge_mode == "groupwise":
            assert sent < 0.8 * answers
        else:  # plans for six tasks by the old rubric, and by the new one for two more
            plans = 6 + 8 if config.judge_mode == "planned" else 0
            assert sent == config.replicates * (answers + plans)
        # The same step after a kill sends nothing, and is charged as it was; later nothing of it is charged.
        again = gate(server.url)
        again.gate_judge.rewind(10)
        again.gate_judge.left = set_aside
        assert examined(again, new, old, recent) == result
        assert (again.gate_judge.left, again.gate_judge.spent_before(11)) == (left, sent)
        assert again.gate_judge.count_calls([anchor, *recent], new) == 0
        # To the same tasks, other answers need no further plan.
        others = [replace(sample, completion=f"{sample.completion} Or so.") for sample in anchor]
        needed = again.gate_judge.count_calls([others], new)
        assert needed == len(others) * config.replicates
        event_loop.wait(again.gate_judge.verdicts(others, new, 20))
        assert len(server.requests) == sent + needed == again.gate_judge.spent_before(21)


def test_a_task_declares_its_sentinels(url: str, make_gate: MakeGate) -> None:
    task = TASK.model_copy(update={"sentinels": ("foreign", "injection")})
    gate_result = examined(make_gate(url, honest(), task=task), sound("topic"))
    assert {name for name in gate_result.figures if name.startswith("margin")} == {
        "margin_foreign",
        "margin_injection",
    }


def group(*levels: int) -> list[Verdict]:
    return [Verdict(level / 2, "h", {"heading": Assessment("r", level)}) for level in levels]


def test_the_rubric_in_force_is_looked_at_again(url: str, make_gate: MakeGate) -> None:
    gate = make_gate(url, honest())
    fine = event_loop.wait(gate.recheck(sound(), 1, [group(0, 1)], 20))
    assert fine.objections == ()
    kinds = [f"margin_{kind}" for kind in KINDS if kind != "empty"]
    kinds += [f"gain_{kind}" for kind in get_args(Shortcut)]
    assert {name for name in fine.figures if "_" in name} == set(kinds[1::2])
    more = event_loop.wait(gate.recheck(sound(), 2, [group(0, 1)], 30))
    assert {name for name in more.figures if "_" in name} == set(kinds[::2])
    flat = event_loop.wait(gate.recheck(sound(), 1, [group(1, 1), group(2, 2)], 20))
    # Answers that are all good are no reason to go back, but one to ask for more.
    assert flat.objections == () and [hint.id for hint in flat.hints] == ["varied"]
    paid = [event_loop.wait(gate.recheck(TITLES, turn, [group(0, 1)], 20)) for turn in (1, 2)]
    assert any("a title" in objection.text for result in paid for objection in result.objections)
    gate.gate_judge.left = 0
    unseen = event_loop.wait(gate.recheck(sound("topic"), 1, [group(0, 1)], 20))
    assert set(unseen.figures) == {"varied", "vetoed"}  # what training gave costs nothing to look at


@pytest.mark.parametrize(
    ("name", "kind"),
    [("praise", "praise"), ("linking_words", "connectives"), ("insistence", "insistence")],
)
def test_a_sound_rubric_that_also_pays_for_a_shortcut_is_refused_whatever_is_in_force(
    url: str, make_gate: MakeGate, name: str, kind: str
) -> None:
    levels = ("Hardly any.", "A little.", "Some.", "Much.", "Throughout.")
    paying = Criterion(id=name, description=f"How much {name} there is.", levels=levels, weight=5)
    new = Rubric(criteria=(*sound().criteria, paying))
    for old in (sound(), TASK.rubric):
        assert kind in [each.id for each in examined(make_gate(url, honest()), new, old).objections]


def test_what_an_alarm_named_must_earn_nothing(make_gate: MakeGate) -> None:
    def fault(kind: str, body: Any) -> Any:
        text = completion_of(body) if kind == "judge" else ""
        level = 2 if "as one may see" in text else 1 if "answer" in text else 0
        return json.dumps({"a": {"reason": "r", "level": level}}) if kind == "judge" else "{}"

    anchor = [
        Sample(f"Write about topic {n} at length.", f"An answer about {n}. It ends here.") for n in range(6)
    ]
    task = TASK.model_copy(update={"sentinels": ("title",), "shortcuts": ("padding",)})
    simple = Rubric(criteria=(Criterion(id="a", description="d", levels=("no", "so", "yes")),))
    with LLMServer(fault) as server:
        gate = make_gate(server.url, anchor, task=task)
        assert examined(gate, simple).passed
        told = event_loop.wait(gate.examine(simple, simple, [], 10, ["as one may see"]))
        again = event_loop.wait(gate.recheck(simple, 1, [], 20, ["as one may see"]))
    assert [each.id for each in told.objections] == [each.id for each in again.objections] == ["phrases"]
    assert "once the phrases that an alarm named had been added" in told.objections[0].text


def test_a_strict_rubric_passes_under_which_the_initial_policy_earns_little(make_gate: MakeGate) -> None:
    def fault(kind: str, body: Any) -> Any:
        level = 1 if kind == "judge" and "An answer" in completion_of(body) else 0
        return json.dumps({"a": {"reason": "r", "level": level}}) if kind == "judge" else "{}"

    anchor = [Sample(f"Write about topic {n}.", f"An answer about {n}. It ends.") for n in range(6)]
    strict = Rubric(
        criteria=(Criterion(id="a", description="d", levels=("0", "1", "2", "3", "4", "5", "6")),)
    )
    task = TASK.model_copy(update={"sentinels": ("title", "injection", "foreign")})
    with LLMServer(fault) as server:
        result = examined(make_gate(server.url, anchor, task=task), strict)
    assert result.passed and result.figures["margin_title"] == pytest.approx(1 / 6)


def test_a_check_of_which_half_the_judgements_failed_decides_nothing(make_gate: MakeGate) -> None:
    def fault(kind: str, body: Any) -> Any:
        text = completion_of(body) if kind == "judge" else ""
        # Of every kind one answer is judged, to the tasks of an even number.
        if kind != "judge" or (
            not text.startswith("An answer") and re.search(r"topic [135]", prompt_text(body))
        ):
            return "no JSON"
        level = 1 if text.startswith("An answer") else 0
        return json.dumps({"a": {"reason": "r", "level": level}})

    anchor = [Sample(f"Write about topic {n}.", f"An answer on {n}. It ends.") for n in range(6)]
    task = TASK.model_copy(update={"sentinels": ("title", "injection", "prompt"), "shortcuts": ()})
    simple = Rubric(criteria=(Criterion(id="a", description="d", levels=("no", "yes")),))
    with LLMServer(fault) as server:
        result = examined(make_gate(server.url, anchor, task=task), simple)
    assert result.unchecked == "3 of 6 judgements of planted answers failed"


def test_an_objection_to_what_is_paid_for_shows_the_answer_that_earned_most(
    url: str, make_gate: MakeGate
) -> None:
    gate = make_gate(url, honest(), task=PLAIN)
    result = examined(gate, TITLES)
    calls = gate.gate_judge.spent_before(11)
    titles = next(each for each in result.objections if each.id == "title")
    assert titles.example is not None and "0." not in titles.complaint
    sample, verdict = titles.example
    assert sample.completion.startswith("# ") and verdict.assessments["heading"].level > 0
    assert examined(gate, TITLES).objections == result.objections
    assert gate.gate_judge.spent_before(11) == calls  # nothing is judged anew for it
    assert all(each.to_row().keys() == {"id", "text", "complaint"} for each in result.objections)


@pytest.mark.parametrize(("consensus", "passes"), [(None, True), (0.5, False), (-1.0, True)])
def test_a_proposal_that_depends_on_single_samples_is_refused_where_consensus_is_asked_for(
    url: str, make_gate: MakeGate, consensus: float | None, passes: bool
) -> None:
    gate = make_gate(url, honest())
    gate = replace(gate, thresholds=gate.thresholds.model_copy(update={"consensus": consensus}))
    new, others = sound(), [sound("length"), sound("connectives")]
    assert gate.variants == (0 if consensus is None else 3)
    planned = gate.cost(new, new, [], others)
    assert planned == gate.cost(new, new, []) + 2 * len(gate.anchor)
    variants = others if consensus is not None else []
    result = event_loop.wait(gate.examine(new, new, [], 10, (), variants))
    assert result.passed == passes and gate.gate_judge.spent_before(11) <= planned
    assert ("consensus" in result.figures) == bool(variants)
    if not passes:
        (objection,) = result.objections
        assert objection.id == "consensus" and "it depends on single samples" in objection.text
