"""The documentation holds: its commands run, its links lead somewhere, its generated pages are fresh."""

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from mpo_lite.cli.main import cli, main
from mpo_lite.config_sources import load_config
from mpo_lite.sandbox.data import policy_dir
from tests.support.llm_server import LLMServer

ROOT = Path(__file__).parents[2]
WRITTEN = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
RUN = "runs/essay-20250428-101500"
LOCAL = "http://localhost:8000/v1"

ELSEWHERE = {
    "quickstart": "test_quickstart",
    "sandbox serve": "test_sandbox_server",
    "export --push": "test_export, against a hub of its own",
}
"""Commands that other tests run: they take long, serve on, or need an account."""
REFUSED = {
    "--use-vllm": "vllm is not installed",
    "--load-in-4bit": "bitsandbytes",
    "--report-to tensorboard": "tensorboard",
}
"""What an installation without these says, in one line."""


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands() -> list[Any]:
    """Every command line of ours, as words: variables, then the command."""
    found: list[Any] = []
    for path in WRITTEN:
        lines = "\n".join(blocks(path, "sh")).replace("\\\n", " ").splitlines()
        for line in lines:
            if "_MPO_LITE_COMPLETE" in line:  # what a shell is told to complete by is tried below
                continue
            words = shlex.split(line, comments=True)
            for own, command in groupby(words, key=lambda word: word != "&&"):
                part = list(command)
                if own and any(word.endswith("mpo-lite") or word == "mpo_lite" for word in part):
                    found.append(pytest.param(part, id=f"{path.parent.name}/{path.name}: {' '.join(part)}"))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, LLMServer]]:
    """A folder with every file the documentation speaks of, and a server in the place of every model."""
    folder = tmp_path_factory.mktemp("reader")
    (experiment,) = (text for text in blocks(ROOT / "docs/judges.md", "yaml") if "# experiment.yaml" in text)
    (folder / "experiment.yaml").write_text(experiment, encoding="utf-8")
    essays = [
        {
            "prompt": f"Write about day {n}.",
            "response": f"Day {n} was good because it rained. " * (n % 5 + 1),
            "stars": n % 5,
            "problem": f"What is {n} + 1?",
            "solution": f"\\boxed{{{n + 1}}}",
            "type": "Algebra",
        }
        for n in range(40)
    ]
    for name in ("my_prompts", "prompts", "answers", "first_responses", "math"):
        rows = "".join(json.dumps(row) + "\n" for row in essays)
        (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    match = {"prompt": "p", "model_a": "one", "model_b": "other", "winner": "one"}
    matches = [match, match | {"winner": "other"}, match | {"prompt": "q", "winner": "tie"}]
    (folder / "matches.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in matches), encoding="utf-8"
    )
    for model in ("path/to/model", "Qwen/Qwen2.5-1.5B-Instruct"):
        shutil.copytree(policy_dir(), folder / model)
    shutil.copytree(ROOT / "examples", folder / "examples")
    for path in folder.glob("examples/*/my_prompts.jsonl"):
        path.unlink()
    with LLMServer() as server:
        yield folder, server


@pytest.fixture
def reader(place: tuple[Path, LLMServer], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody who follows the documentation in that folder, with keys, for runs of one small batch."""
    folder, server = place
    small = {"steps": 1, "batch_prompts": 2, "group_size": 2, "micro_batch": 2, "max_new_tokens": 8}
    own = {"data": "my_prompts.jsonl", "policy": "path/to/model", "cache_dir": "cache", "interval": 1}
    environ = {f"MPO_{name.upper()}": str(value) for name, value in (small | own).items()} | {
        "OPENAI_API_KEY": "none",
        "ANTHROPIC_API_KEY": "none",
        "OPENAI_API_BASE": server.url,
        "OPENAI_BASE_URL": server.url,
        "ANTHROPIC_API_BASE": server.root,
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    for path in (*folder.glob("*.yaml"), *folder.glob("examples/**/*.yaml")):
        path.write_text(path.read_text(encoding="utf-8").replace(LOCAL, server.url), encoding="utf-8")
    return folder


def told(words: list[str], url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Path | None]:
    """The arguments of a command, its variables set; and the file that it is to write to."""
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        monkeypatch.setenv(name, value)
    start = next(n for n, word in enumerate(words) if word.endswith("mpo-lite") or word == "mpo_lite")
    arguments = [url if word == LOCAL else word for word in words[start + 1 :]]
    if "--steps" in arguments:
        arguments[arguments.index("--steps") + 1] = "6" if arguments[0] == "resume" else "1"
    if ">" in arguments:
        into = arguments.index(">")
        return arguments[:into], Path(arguments[into + 1])
    return arguments, None


def prepare(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes what the command expects to be there already."""
    text = " ".join(arguments)
    if "my-task" in text:
        monkeypatch.delenv("MPO_DATA")  # it has its own
    if "math" in text:
        monkeypatch.setenv("MPO_DATA", "math.jsonl")
    for name in re.findall(r"runs/[\w-]+", text):
        own = [part for part in arguments if part == name and "--run-dir" in arguments]
        if own:  # it makes this run itself
            shutil.rmtree(folder / name, ignore_errors=True)
        elif not (folder / name).exists():
            settings = ["--judge", "gpt-4o", "--meta", "claude", "--mode", "paper", "--schedule", "interval"]
            small = ["--strategy", "samples", "--steps", "5", "--run-dir", name]
            main(["train", *settings, *small, *(["--task", "math"] if "math" in name else [])])
            versions = list((folder / name / "rubrics").glob("*"))
            assert len(versions) >= 4 or "math" in name  # as many as the documentation names
    shutil.rmtree(folder / "essay-policy", ignore_errors=True)
    if "--out" in arguments:
        (folder / arguments[arguments.index("--out") + 1]).unlink(missing_ok=True)
    if arguments[:1] == ["init"]:
        shutil.rmtree(folder / arguments[1], ignore_errors=True)
    elif "my-task" in text and not (folder / "my-task").exists():
        main(["init", "my-task"])
    if "path/to/folder" in text and not (folder / "path/to/folder").exists():
        main(["init", "path/to/folder"])


@pytest.mark.parametrize("words", commands())
def test_every_command_runs(
    words: list[str],
    reader: Path,
    place: tuple[Path, LLMServer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, into = told(list(words), place[1].url, monkeypatch)
    text = " ".join(arguments)
    if any(all(word in arguments for word in name.split()) for name in ELSEWHERE):
        return
    prepare(arguments, reader, monkeypatch)
    refusal = next((said for flag, said in REFUSED.items() if flag in text), None)
    code = 0
    try:
        main(arguments)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    out = capsys.readouterr()
    if refusal:
        assert code == 2 and refusal in out.err and "Traceback" not in out.err
    else:
        assert code == 0, out.err
        assert out.out or into
    if into:
        into.write_text(out.out, encoding="utf-8")


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
    files = sorted(ROOT.glob("examples/*/*.yaml"))
    assert len(files) >= 3
    for path in files:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        schema = path.parent / first.removeprefix("# yaml-language-server: $schema=")
        known = json.loads(schema.read_text(encoding="utf-8"))["properties"]
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= set(known)
        load_config(path, {}, environ={})


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["mpo-lite", "qui"], "quickstart"),
        (["mpo-lite", "rubric", "d"], "diff"),
        (["mpo-lite", "train", "--judge-m"], "--judge-mode"),
        (["mpo-lite", "train", "--algorithm", "r"], "rloo"),
    ],
)
def test_shells_complete_commands(typed: list[str], wanted: str) -> None:
    asked = {
        "_MPO_LITE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "mpo-lite"], env=os.environ | asked, capture_output=True, text=True
    )
    assert f"plain,{wanted}" in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str) -> None:
    assert "_MPO_LITE_COMPLETE" in completion(f"{shell}_source")


def completion(asked: str, **place: str) -> str:
    environ = os.environ | {"_MPO_LITE_COMPLETE": asked} | place
    command = Path(sys.executable).parent / "mpo-lite"
    return subprocess.run([command], env=environ, capture_output=True, text=True, check=False).stdout


def test_the_sandboxs_example_is_a_quickstart(tmp_path: Path) -> None:
    """Its file says what a quickstart runs: the figures of the one are those of the other."""
    from mpo_lite.cli.quickstart import SETTINGS

    places = {"run_dir": tmp_path, "cache_dir": tmp_path}
    told = load_config(ROOT / "examples/sandbox/experiment.yaml", places, environ={})
    assert told == load_config(given=SETTINGS | places, environ={})
