"""The parts of the judge benchmark that need no clock: what is sent, and what is taken for a verdict."""

import json
import random
from collections.abc import Iterator
from typing import Any

from harness import PERSONA, Stub, client, judge, rubric, samples, tokens_of
from stub_server import PROSE

from mpo_lite.judge.base import Sample, parse_verdict
from mpo_lite.judge.groupwise import GroupwiseJudge
from mpo_lite.llm.structured_output import parse_object
from mpo_lite.rubric import Rubric

PIECES = [*'"{}[],:19 \\', "-1", "1.0", "true", "null", "NaN", '"c1"', '"level"', "\n", "\x00", "\ud83d"]
PIECES += ["<think>", "</think>", "```", "Level: "]


def calls_and_tokens(server: Stub, repeats: int) -> dict[str, Any]:
    """1. Calls and input tokens per completion."""
    rows = []
    with client() as of:
        single = judge(of, server)
        for criteria in (1, 6, 12):
            by, group = rubric(criteria), samples(8)
            pointwise = tokens_of(single.build_call(group[0], by).messages)
            groupwise = tokens_of(GroupwiseJudge(single, 8).build_call(group, by).messages) / 8
            sequential = sum(tokens_of(turn) for turn in turns(by, group[0]))
            rows.append(
                {
                    "K": criteria,
                    "calls pointwise": 1,
                    "calls groupwise": 1 / 8,
                    "calls sequential": 2 * criteria,
                    "tokens pointwise": pointwise,
                    "tokens groupwise": round(groupwise),
                    "tokens sequential": sequential,
                    "pointwise / sequential": round(pointwise / sequential, 3),
                    "holds": pointwise / sequential <= 1 / criteria,
                }
            )
    return {"rows": rows, "holds": all(row["holds"] for row in rows)}


def turns(by: Rubric, sample: Sample) -> Iterator[list[dict[str, Any]]]:
    """A conversation per completion, two turns per criterion, all of it sent each time: the paper's code."""
    talk = [
        {"role": "system", "content": f"{PERSONA}\n\n{by.render()}"},
        {"role": "user", "content": f"{sample.prompt}\n\n{sample.completion}"},
    ]
    for criterion in by.criteria:
        for question, told in (("Give your reasons on", PROSE), ("Now give the level of", "2")):
            talk.append({"role": "user", "content": f"{question} {criterion.id}."})
            yield list(talk)
            talk.append({"role": "assistant", "content": told})


def parser(server: Stub, repeats: int) -> dict[str, Any]:
    """6. A fuzz corpus against the parser, held against an oracle that shares no code with it."""
    by, draw, count = rubric(3), random.Random(0), 50_000
    ids = [criterion.id for criterion in by.criteria]
    crashes = wrong = taken = 0
    for _ in range(count):
        text = mutated(
            json.dumps({name: {"reason": "seen", "level": draw.randrange(3)} for name in ids}), draw
        )
        try:
            verdict = {name: each.level for name, each in parse_verdict(parse_object(text), by).items()}
            taken += 1
            wrong += verdict not in honest(text, ids)
        except ValueError:
            continue
        except Exception:
            crashes += 1
    row = {"texts": count, "taken": taken, "crashes": crashes, "scores from garbage": wrong}
    return {"rows": [row], "holds": crashes == 0 and wrong == 0}


def mutated(text: str, draw: random.Random) -> str:
    """A verdict with some damage, or with something around it."""
    for _ in range(draw.randrange(4)):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.choice((0, 0, 1, 3, 20)))
        text = text[:start] + draw.choice([*PIECES, text[start:end] * 2]) + text[end:]
    return (
        draw.choice(("", "", "My verdict: ", "```json\n"))
        + text
        + draw.choice(("", "", " Done.", "\n```", text))
    )


def honest(text: str, ids: list[str]) -> list[dict[str, int]]:
    """All verdicts that stand in a text, read by a plain decoder from every brace."""
    found = []
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=lambda pairs: pairs)
    for place, char in enumerate(text):
        if char != "{":
            continue
        try:
            pairs, _ = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            continue
        if sorted(name for name, _ in pairs) != sorted(ids) or not all(
            isinstance(entry, list) for _, entry in pairs
        ):
            continue
        levels = {name: [value for key, value in entry if key == "level"] for name, entry in pairs}
        if all(len(each) == 1 and type(each[0]) is int and 0 <= each[0] <= 2 for each in levels.values()):
            found.append({name: each[0] for name, each in levels.items()})
    return found
