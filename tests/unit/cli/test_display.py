"""The lines that training prints: a batch, a meta step, an alarm."""

from io import StringIO
from typing import Any

from mpo_lite.cli._display import Display
from mpo_lite.cli.status import Status

ROW: dict[str, Any] = {
    "batch": 3, "version": 1, "reward": 0.5, "spread": 0.1, "words": 40.0, "judge_failures": 2, "kl": 0.01,
    "cache_hits": 5, "judge_calls": 100, "gate_calls": 5, "meta_calls": 7, "usd": 0.1234, "judge": "m",
}  # fmt: skip


def shown(*events: tuple[str, dict[str, Any]]) -> str:
    stream = StringIO()
    display = Display(10, Status(stream))
    for kind, row in events:
        display(kind, row)
    display.close()
    return stream.getvalue()


def test_progress_away_from_a_terminal_is_one_plain_line_per_batch() -> None:
    text = shown(
        ("gold", {"batch": 0, "gold": 0.45, "n": 64}),
        ("step", ROW),
        ("step", ROW | {"reward": None, "usd": None}),
        ("step", ROW | {"judge": "", "spread": None}),
    )
    lines = text.splitlines()
    assert lines[0] == "gold before training: 0.450 on 64 held-out prompts"
    for part in ("batch 3/10", "reward 0.500 (v1)", "gold 0.450", "kl 0.010", "spread 0.100", "words 40",
                 "failed 2", "cache hits so far 5", "calls so far 112", "spend so far $0.1234"):  # fmt: skip
        assert part in lines[1]
    assert "reward – (v1)" in lines[2] and "spend so far unpriced" in lines[2]
    assert "reward 0.500 (verifier)" in lines[3] and "spread –" in lines[3]
    assert "alarms" not in text
    assert "failed 2  alarms phrase drift, repetition  calls" in shown(
        ("step", ROW | {"alarms": ["phrase_drift", "repetition"]})
    )
    assert "\x1b" not in text


def test_a_meta_step_is_one_line_that_says_what_changed() -> None:
    changed = {"kind": "meta", "batch": 10, "status": "accepted", "version": 2, "reason": ""}
    changed |= {"added": ["a", "b"], "changed": ["c"], "dropped": ["d"]}
    kept = changed | {"status": "failed", "version": 1, "reason": "merging failed"}
    back = changed | {"kind": "rollback", "reason": "a title pays"}
    alarm = {"batch": 9, "name": "length_collapse", "detail": "few words"}
    text = shown(("meta", changed), ("meta", kept), ("meta", back), ("alarm", alarm))
    assert text.splitlines() == [
        "meta step after batch 10: rubric v2: added a, b; changed c; dropped d",
        "meta step after batch 10: rubric v1 unchanged (merging failed)",
        "rollback after batch 10: rubric v2: added a, b; changed c; dropped d (a title pays)",
        "alarm after batch 9: length collapse: few words",
    ]


def test_a_meta_step_quotes_the_first_two_of_many_objections() -> None:
    said = [f"{kind}: scored only 0.05 below honest answers; it must be 0.2 or more" for kind in "abcdef"]
    objections = [{"id": text[0], "text": text} for text in said]
    kept = {"kind": "meta", "batch": 10, "status": "refused", "version": 1, "reason": "; ".join(said)}
    kept |= {"added": [], "changed": [], "dropped": []}
    refused = kept | {"refused": [{"reason": "; ".join(said), "objections": objections}]}
    back = refused | {
        "kind": "rollback",
        "status": "accepted",
        "reason": "rolled back: " + "; ".join(said[:3]),
    }
    back |= {"refused": [], "recheck": {"objections": objections[:3]}}
    first, second, third = shown(("meta", refused), ("meta", back), ("meta", kept)).splitlines()
    assert first.endswith(f"rubric v1 unchanged ({said[0]}; {said[1]}; and 4 more, see lineage.jsonl)")
    assert second.endswith(f"(rolled back: {said[0]}; {said[1]}; and 1 more, see lineage.jsonl)")
    assert third.endswith(f"({'; '.join(said)})")  # a run of before, whose objections are in one text


def test_an_alarm_names_the_first_of_what_it_saw() -> None:
    detail = "; ".join(f"word 'w{n}' in 90%, before 10%" for n in range(5))
    line = shown(("alarm", {"batch": 9, "name": "phrase_drift", "detail": detail}))
    assert line.endswith("word 'w1' in 90%, before 10%; word 'w2' in 90%, before 10%; …\n")


def test_a_batch_line_says_why_judgements_failed() -> None:
    row = {
        "batch": 1, "version": 0, "reward": 0.5, "judge": "m", "spread": 0.1, "words": 4.0,
        "judge_failures": 3, "failures": {"timeout": 2, "cut": 1}, "cache_hits": 0, "judge_calls": 8,
        "gate_calls": 0, "meta_calls": 0, "usd": 0.0,
    }  # fmt: skip
    stream = StringIO()
    Display(2, Status(stream))("step", row)
    assert "failed 3 (2 timed out, 1 cut off)" in stream.getvalue()
