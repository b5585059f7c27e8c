"""The documentation holds: its commands run, its links lead somewhere, its generated pages are fresh."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpo_lite.cli.main import main
from mpo_lite.sandbox.data import policy_dir
from tests.support.documents import LOCAL, ROOT, blocks, commands
from tests.support.llm_server import LLMServer

ELSEWHERE = {
    "quickstart": "e2e/test_quickstart",
    "sandbox serve": "integration/sandbox/test_judge_server",
    "serve": "engines/test_engines",
    "export --push": "e2e/test_export, against a hub of its own",
}
"""Commands that other tests run: they take long, serve on, or need an account."""
REFUSED = {
    "--use-vllm": "vllm is not installed",
    "--load-in-4bit": "bitsandbytes",
    "--report-to tensorboard": "tensorboard",
    "--trainer async": "no answer (ConnectError); start it by: VLLM_SERVER_DEV_MODE=1",
}
"""What an installation without these, or a machine without a vLLM server, says in one line."""


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
    pairs = [
        {"prompt": f"Write about day {n}.", "response_a": essay["response"], "response_b": "Rain. " * 9,
         "winner": "ab"[n % 2]}
        for n, essay in enumerate(essays)
    ]  # fmt: skip
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
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
            settings = ["--judge", "gpt-4o", "--meta", "claude", "--no-use-gate", "--schedule", "interval"]
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
