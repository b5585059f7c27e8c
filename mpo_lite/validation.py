"""What users write, held against its model, and what is wrong with it in their words."""

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
"""Keys that are more than this are not listed in an error."""
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
"""What other programs call a setting → what it is called here."""
BATCH_SIZES = (
    "set batch_prompts (prompts per batch), group_size (answers per prompt) or micro_batch (answers per pass)"
)
"""Said to who asks for a ``batch_size``."""

_MAPPINGS = {"model_type", "model_attributes_type", "dict_type", "mapping_type"}
M = TypeVar("M", bound=BaseModel)


class Settings(BaseModel):
    """Base of what users write: immutable, without unknown keys, and true is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        wanted = bare_type(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and wanted in (int, float):
            raise ValueError("must be a number, not true or false")
        return value


def bare_type(annotation: Any) -> Any:
    """The one type that a field holds apart from None, without what refines it."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def load_model(
    text: str, where: str, model: type[M], refuse: Callable[[str], MPOError], context: Any = None
) -> M:
    """Reads a YAML text into a model.

    Args:
        text: What to read.
        where: Its file, for errors.
        model: What it must be.
        refuse: The error to raise.
        context: Passed on to the model's validators.

    Raises:
        MPOError: That of ``refuse``, in one line: where, which key, what is wrong.
    """
    document = parse_yaml(text, where, refuse)
    try:
        return model.model_validate(document.data, context=context)
    except ValidationError as error:
        problem = first_problem(error)
        place = dotted(problem)
        at = f"{where}:{document.line(place)} {place}" if place else where
        raise refuse(f"{at}: {complaint(problem, model)}") from error


def first_problem(error: ValidationError) -> ErrorDetails:
    """The problem to tell: a misspelt key comes before what is missing for it."""
    problems = error.errors(include_url=False)
    return next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])


def dotted(problem: ErrorDetails) -> str:
    """The place of a problem, such as ``criteria.0.levels``; empty for the whole."""
    return ".".join(map(str, problem["loc"]))


def complaint(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong and how to mend it, without the place."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(str(problem["loc"][-1]), _fields_at(model, problem["loc"][:-1]))
    if kind in _MAPPINGS:
        return f"give keys and values such as '{_example(model, problem['loc'])}'"
    if kind == "string_type" and isinstance(problem["input"], bool):
        words = "yes, on or true as true" if problem["input"] else "no, off or false as false"
        return f"YAML reads {words}; put it in quotes"
    if kind == "too_short":
        return f"must have at least {pluralize(context['min_length'], 'entry', 'entries')}"
    if kind == "too_long":
        return f"must have at most {pluralize(context['max_length'], 'entry', 'entries')}"
    if kind == "string_type":
        return f"{problem_in_words(problem)}; put it in quotes"
    return problem_in_words(problem)


def unknown_key(name: str, known: Iterable[str]) -> str:
    """What is wrong with a key, and which was meant."""
    names = list(known)
    if name == "batch_size" and "batch_prompts" in names:
        return f"unknown key; {BATCH_SIZES}"
    if meant := nearest(name, names):
        return f'unknown key, did you mean "{meant}"?'
    if len(names) <= MANY:
        return f"unknown key; valid keys: {', '.join(names)}"
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
    return "unknown key" + (f"; similar keys: {', '.join(near)}" if near else "")


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The one of the names that was meant by another; None where none is near."""
    if SYNONYMS.get(name) in known:
        return SYNONYMS[name]
    close = difflib.get_close_matches(name, known, n=1)
    return close[0] if close else None


def _fields_at(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Names of the keys that the mapping at a place of the model may have."""
    return list(_model_at(model, place).model_fields)


def _example(model: type[BaseModel], place: Sequence[int | str]) -> str:
    """A key that the mapping at a place of the model may have, with its default."""
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
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
