import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_lite.llm.structured_output import BOUNDS, parse_object, whole_number, without_bounds

GOOD = {
    "structure": {"reason": "clear", "level": 2},
    "evidence": {"reason": "none", "level": 0},
    "on_task": {"reason": "yes", "level": 1},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


UNCLOSED = (
    "<THINK>", "<Think>", '<think type="deep">', "< think >", "<thought>", "<thoughts>", "<reasoning>",
    "<reason>", "<reflection>", "<scratchpad>", "<analysis>", "<inner_monologue>", "<longcat_think>",
    "<|think|>", "<｜think｜>", "<|begin_of_thought|>", "<|begin_internal_thoughts|>", "<|START_THINKING|>",
    "<|channel|>analysis<|message|>", "<|channel>thought", "<unused94>thought", "[BEGIN OF THINKING]",
    "Well. <plan>",
)  # fmt: skip
"""How models open their thinking."""


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"<reasoning>hm {{}}</reasoning>\n{json.dumps(GOOD)}",
        f"<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>{json.dumps(GOOD)}<|END_RESPONSE|>",
        f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{json.dumps(GOOD)}",
        f"<|channel>thought hm<channel|>{json.dumps(GOOD)}",
        f"<answer>{json.dumps(GOOD)}</answer>",
        f"{json.dumps(GOOD)} Said again: {json.dumps(GOOD)}",
        f"<think>hm {{}}</think>\n{json.dumps(GOOD)}",
        f'<think>draft {{"evidence": 1}}</think>\n{json.dumps(GOOD)}',
        f'draft {{"evidence": 1}}</think>{json.dumps(GOOD)}',  # opened by the prompt
        json.dumps(GOOD | {"note": "it ends in <think> and </think>"}),
        f"Here you are:\n```json\n{json.dumps(GOOD, indent=2)}\n```\nDone.",
        f'First {{"a": 1}} then {json.dumps(GOOD)}',
        json.dumps(GOOD).replace("clear", "cl\nea\tr"),
        "\n" + json.dumps(GOOD) + "\r\r\r",
    ],
)
def test_objects_are_found_where_models_put_them(text: str) -> None:
    assert parse_object(text)["evidence"] == GOOD["evidence"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        (f"<think>perhaps {json.dumps(GOOD)}", "not JSON"),
        (f"<thinking>perhaps {json.dumps(GOOD)}, or not", "not JSON"),
        (f"perhaps {json.dumps(GOOD)}</think>I cannot say.", "not JSON"),
        (f"Well. <think>perhaps {json.dumps(GOOD)}", "not JSON"),
        (f"[THINK]perhaps {json.dumps(GOOD)}", "not JSON"),
        (f"◁think▷perhaps {json.dumps(GOOD)}", "not JSON"),
        (f"<seed:think>perhaps {json.dumps(GOOD)}", "not JSON"),
        (f"[THINK]perhaps {json.dumps(GOOD)}[/THINK]I cannot say.", "not JSON"),
        *(
            (f"{mark}perhaps {json.dumps(GOOD)}{after}", "not JSON")
            for mark in UNCLOSED
            for after in ("", " hmm, or not")
        ),
        (f"<reasoning>{json.dumps(GOOD)}</reasoning>I cannot say.", "not JSON"),
        (f"{json.dumps(GOOD)} The one before was {json.dumps({**GOOD, 'evidence': 1})}", "two objects"),
        ("no", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"criteria" : ' + "\r " * 500, "not JSON"),
        ('{"a":' * 40 + "1" + "}" * 40, "deep"),
        ('{"a":' * 9000 + "1" + "}" * 9000, "deep"),
        ("[" * 60000, "deep|JSON"),
        ('{"a": "' + "x" * 270000 + '"}', "longer"),
    ],
)
def test_what_is_no_sound_object_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_object(text)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.text() | JSON.map(json.dumps))
def test_the_parser_gives_an_object_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_object(text), dict)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_any_object_survives_prose_around_it(data: dict) -> None:
    assert parse_object(f"Sure.\n{json.dumps(data)}\nThat is all.") == data


@given(st.text() | st.floats() | st.booleans() | st.none() | st.integers() | st.lists(st.integers()))
def test_a_whole_number_is_never_guessed(value: object) -> None:
    number = whole_number(value)
    if number is not None:
        assert type(number) is int and (str(number) == value or number == value)


SCHEMAS = st.recursive(
    st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.integers(1, 99)}),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "minItems": st.just(1), "items": inner}),
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                # A property may be called as a keyword is.
                "properties": st.dictionaries(st.sampled_from(["a", "pattern", "minItems"]), inner),
            }
        ),
    ),
    max_leaves=8,
)


@given(SCHEMAS)
def test_a_schema_without_bounds_keeps_all_else(schema: dict[str, Any]) -> None:
    def names(node: Any) -> list[str]:
        inner = [*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])]
        return [*node.get("properties", {}), *(name for each in inner for name in names(each))]

    def keywords(node: Any) -> set[str]:
        inner = [*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])]
        return set(node).union(*map(keywords, inner))

    plain = without_bounds(schema)
    assert not keywords(plain) & BOUNDS
    assert keywords(plain) == keywords(schema) - BOUNDS and names(plain) == names(schema)
