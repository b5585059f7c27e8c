"""Keyword arguments for editors are those that the configuration has."""

from typing import Any, get_args, get_type_hints

import pytest

from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.options import Options


def test_every_setting_is_an_option_and_no_other() -> None:
    assert list(Options.__annotations__) == list(Config.model_fields)


@pytest.mark.parametrize("name", Options.__annotations__)
def test_literals_are_those_of_the_setting(name: str) -> None:
    def choices(hint: Any) -> set[Any]:
        return {
            value for part in (hint, *get_args(hint)) for value in get_args(part) if isinstance(value, str)
        }

    hint = get_type_hints(Options)[name]
    field = Config.model_fields[name].annotation
    if "Literal" in str(field):
        assert choices(hint) == choices(field)


def test_options_of_each_kind_load() -> None:
    options: Options = {"judge": ["a", {"model": "b", "price": [1, 2]}], "steps": 3, "use_gate": False,
                        "gate": {"margin": 0.1}, "report_to": "tensorboard"}  # fmt: skip
    config = load_config(given={**options}, environ={})
    assert [judge.model for judge in config.judge] == ["a", "b"]
    assert (config.gate.margin, config.report_to) == (0.1, ("tensorboard",))
