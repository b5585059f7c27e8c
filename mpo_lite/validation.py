"""Validates what users write, and describes problems in their terms."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from mpo_lite.errors import MPOError
from mpo_lite.sanitize import pluralize
from mpo_lite.strict_yaml import parse_yaml
from mpo_lite.wording import problem_in_words

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MANY = 12
"""Maximum number of valid keys that an error lists."""
SYNONYMS = {
    "lr": "learning_rate",
    "model": "policy",
    "dataset": "data",
    "output_dir": "run_dir",
    "max_steps": "steps",
    "epochs": "steps",
    "num_epochs": "steps",
    "num_train_epochs": "steps",
    "max_length": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "num_generations": "group_size",
    "max_completion_length": "max_new_tokens",
    "per_device_train_batch_size": "micro_batch",
    "subset": "data_subset",
    "split": "data_split",
}
"""Name of a setting in other programs → its name here."""
BATCH_SIZES = (
    "set batch_prompts (prompts per batch), group_size (answers per prompt) or micro_batch (answers per pass)"
)
"""Advice for ``batch_size``, which is ambiguous."""

_MAPPINGS = {"model_type", "model_attributes_type", "dict_type", "mapping_type"}
M = TypeVar("M", bound=BaseModel)


class Settings(BaseModel):
    """Base of what users write: immutable, unknown keys refused, and true is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        expected = bare_type(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and expected in (int, float):
            raise ValueError("must be a number, not true or false")
        return value


def bare_type(annotation: Any) -> Any:
    """A field's type without None and without annotations."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def load_model(
    text: str, where: str, model: type[M], refuse: Callable[[str], MPOError], context: Any = None
) -> M:
    """Parses a YAML text into a model.

    Args:
        text: The YAML text.
        where: Its file, for errors.
        model: The model to validate against.
        refuse: Makes the error to raise.
        context: Passed to the model's validators.

    Raises:
        MPOError: Made by ``refuse``, in one line: where, which key, what is wrong, how to fix it.
    """
    document = parse_yaml(text, where, refuse)
    try:
        return model.model_validate(document.data, context=context)
    except ValidationError as error:
        problem = first_problem(error)
        place = dotted_path(problem)
        at = f"{where}:{document.line(place)} {place}" if place else where
        raise refuse(f"{at}: {describe_yaml_problem(problem, model)}") from error


def first_problem(error: ValidationError) -> ErrorDetails:
    """The problem to report: a misspelt key before the key that is missing because of it."""
    problems = error.errors(include_url=False)
    return next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])


def dotted_path(problem: ErrorDetails) -> str:
    """The path of a problem, such as ``criteria.0.levels``; empty for the whole document."""
    return ".".join(map(str, problem["loc"]))


def describe_problem(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong and how to fix it, without the place.

    A meta-judge whose draft is malformed is shown this text, too: its wording is part of a prompt.
    """
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return describe_unknown_key(str(problem["loc"][-1]), _fields_at(model, problem["loc"][:-1]))
    if kind in _MAPPINGS:
        return f"give keys and values such as '{_example_entry(model, problem['loc'])}'"
    if kind == "string_type" and isinstance(problem["input"], bool):
        spellings = "yes, on or true as true" if problem["input"] else "no, off or false as false"
        return f"YAML reads {spellings}; put it in quotes"
    if kind == "too_short":
        return f"must have at least {pluralize(context['min_length'], 'entry', 'entries')}"
    if kind == "too_long":
        return f"must have at most {pluralize(context['max_length'], 'entry', 'entries')}"
    if kind == "string_type":
        return f"{problem_in_words(problem)}; put it in quotes"
    return problem_in_words(problem)


def describe_yaml_problem(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong with a value in a YAML file, and how to fix it, without the place."""
    if problem["type"] == "string_type" and isinstance(problem["input"], bool):
        *_, key = (part for part in problem["loc"] if isinstance(part, str))
        if isinstance(problem["loc"][-1], int):
            return f"YAML reads no and yes as booleans; quote them: {key}: ['no', 'yes']"
        spelling = "yes" if problem["input"] else "no"
        return f"YAML reads {spelling} as a boolean; quote it: {key}: '{spelling}'"
    return describe_problem(problem, model)


def describe_unknown_key(name: str, valid_names: Iterable[str]) -> str:
    """Describes an unknown key, with the one that was probably meant."""
    names = list(valid_names)
    if name == "batch_size" and "batch_prompts" in names:
        return f"unknown key; {BATCH_SIZES}"
    if suggestion := nearest_name(name, names):
        return f'unknown key, did you mean "{suggestion}"?'
    if len(names) <= MANY:
        return f"unknown key; valid keys: {', '.join(names)}"
    similar = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
    return "unknown key" + (f"; similar keys: {', '.join(similar)}" if similar else "")


def nearest_name(name: str, valid_names: Sequence[str]) -> str | None:
    """The name that was probably meant; None if none is close."""
    if SYNONYMS.get(name) in valid_names:
        return SYNONYMS[name]
    close = difflib.get_close_matches(name, valid_names, n=1)
    return close[0] if close else None


def _fields_at(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Valid keys of the mapping at a place of the model."""
    return list(_model_at(model, place).model_fields)


def _example_entry(model: type[BaseModel], place: Sequence[int | str]) -> str:
    """A valid key of the mapping at a place of the model, with its default."""
    name, field = next(iter(_model_at(model, place).model_fields.items()))
    return f"{name}: {'…' if field.is_required() else field.default}"


def _model_at(model: type[BaseModel], place: Sequence[int | str]) -> type[BaseModel]:
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for part in get_args(annotation) if (inner := _model_in(part))), None)
