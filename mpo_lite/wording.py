"""Pydantic's errors in words for people who do not write Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "is_instance_of": "must be a text",
    "path_type": "must be a path",
    "list_type": "must be a list such as [a, b]",
    "tuple_type": "must be a list such as [a, b]",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be {le:g} or less",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
"""Kind of an error → what to say about the value."""


def problem_in_words(problem: ErrorDetails) -> str:
    """What is wrong with a value, without its place, e.g. ``must be a number``."""
    context = problem.get("ctx", {})
    if problem["type"] == "value_error":
        return str(context["error"])
    template = _WORDS.get(problem["type"])
    return template.format(**context) if template else problem["msg"].replace("Input should be", "must be")


def simulated_note(roles: Sequence[str]) -> str:
    """The caveat for figures from a simulated judge or meta-judge (``Config.simulated``)."""
    if len(roles) == 1:
        return f"the {roles[0]} is simulated: no evidence about real ones"
    return f"{' and '.join(roles)} are simulated: no evidence about real ones"
