"""The documentation holds: links lead somewhere, generated pages are fresh, errors are quoted rightly."""

import ast
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from mpo_lite.cli.main import cli
from mpo_lite.config_sources import load_config
from tests.support.documents import ROOT, WRITTEN, blocks, commands


def test_all_kinds_of_commands_were_found() -> None:
    """The search above finds what there is: each command of ours stands somewhere in the documentation."""
    found = [param.values[0] for param in commands()]
    text = "\n".join(" ".join(words) for words in found)
    assert len(found) > 60
    missing = [name for name in cli.list_commands(click.Context(cli)) if f"mpo-lite {name}" not in text]
    assert missing == []


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_somewhere(path: Path) -> None:
    """Within the repository; the site's own build checks the site's."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_generated_pages_are_fresh() -> None:
    """Else: python docs/reference.py."""
    pages = runpy.run_path(str(ROOT / "docs" / "reference.py"))["PAGES"]
    for page, write in pages.items():
        assert (ROOT / page).read_text(encoding="utf-8") == write(), (
            f"{page} is stale: python docs/reference.py"
        )
        assert str(Path.home()) not in write()


def every_command(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from every_command(below, f"{path} {name}")


def test_every_help_has_an_example() -> None:
    for path, command in every_command(cli, "mpo-lite"):
        text = command.get_help(click.Context(command, info_name=path, max_content_width=200))
        examples = [line for line in text.splitlines() if path in line and not line.startswith("Usage")]
        assert examples, f"{path}: no example in its help"


def test_errors_are_quoted_in_the_words_of_the_code() -> None:
    """Each error of the page is said by the code: its words, between what differs from case to case."""
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "mpo_lite").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts go over several lines
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^> (.*)$", page, re.MULTILINE)
    assert len(quoted) > 15
    for said in quoted:
        if said.startswith("torch."):
            continue
        # A few words that the code puts together from names and figures of its own.
        parts = re.split(r"…|;|,|\bOPENAI_API_KEY\b|\(\d+\)|gpt-4o|MODEL|[“”]", said)
        words = [part.strip(" ():;,.") for part in parts]
        missing = [part for part in words if len(part) > 11 and part not in code]
        assert missing == [], said


def test_the_words_of_python_blocks_parse() -> None:
    found = [block for path in WRITTEN for block in blocks(path, "python")]
    assert len(found) >= 2
    for block in found:
        ast.parse(block)


def test_the_examples_settings_are_settings() -> None:
    files = sorted(ROOT.glob("examples/*/experiment.yaml"))
    assert len(files) >= 3
    for path in files:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        schema = path.parent / first.removeprefix("# yaml-language-server: $schema=")
        known = json.loads(schema.read_text(encoding="utf-8"))["properties"]
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= set(known)
        load_config(path, {}, environ={})


def test_the_sandboxs_example_is_a_quickstart(tmp_path: Path) -> None:
    """Its file says what a quickstart runs: the figures of the one are those of the other."""
    from mpo_lite.cli.quickstart import SETTINGS

    places = {"run_dir": tmp_path, "cache_dir": tmp_path}
    told = load_config(ROOT / "examples/sandbox/experiment.yaml", places, environ={})
    assert told == load_config(given=SETTINGS | places, environ={})
