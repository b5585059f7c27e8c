"""What a user gets wrong, and the one line that says so: what, where and how to mend it."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.config_sources import load_config
from mpo_lite.sandbox.data import policy_dir
from tests.support.made_run import made_run

Refused = Callable[..., str]
JUDGE = "--judge openai/m --judge-api-base http://127.0.0.1:9/v1 --baseline iter0 --policy sandbox"
PROMPTS = "".join(json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(20))
TASK = {
    "name": "mine",
    "description": "d",
    "purpose": "p",
    "persona": "q",
    "data": {"source": "prompts.jsonl"},
}
CRITERION = "criteria:\n- {id: a, description: d, levels: [x, y]}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prompts, where the user is."""
    (tmp_path / "prompts.jsonl").write_text(PROMPTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(place: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that fails; gives what it says last."""

    def run(command: str, files: dict[str, str] | None = None, code: int = 2) -> str:
        for name, text in (files or {}).items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        cached = "--cache-dir" in command or command.startswith("alarms")
        with pytest.raises(SystemExit) as left:
            main([*shlex.split(command), *([] if cached else ["--cache-dir", "cache"])])
        said = capsys.readouterr()
        assert left.value.code == code and "Traceback" not in said.err, said.err
        for word in ("None", "tuple", "dictionary", "instance of", "Input should"):
            assert word not in said.err
        return said.err.splitlines()[-1]

    return run


def yaml_of(text: str) -> tuple[str, dict[str, str]]:
    return f"estimate e.yaml {JUDGE} --data prompts.jsonl", {"e.yaml": text}


def data_of(name: str, text: str | None) -> tuple[str, dict[str, str]]:
    return f"estimate {JUDGE} --data {name}", {} if text is None else {name: text}


def flags_of(flags: str) -> tuple[str, dict[str, str]]:
    return f"estimate {JUDGE} --data prompts.jsonl {flags}", {}


def rubric_of(text: str) -> tuple[str, dict[str, str]]:
    return f"estimate {JUDGE} --data prompts.jsonl --rubric r.yaml", {"r.yaml": text}


def task_of(files: dict[str, str] | None = None, **changes: Any) -> tuple[str, dict[str, str]]:
    written = {"task.yaml": json.dumps(TASK | changes), "prompts.jsonl": PROMPTS, **(files or {})}
    return f"estimate {JUDGE} --task mine", {f"mine/{name}": text for name, text in written.items()}


MISTAKES: dict[str, tuple[tuple[str, dict[str, str]], str]] = {
    "a key in a file": (
        yaml_of("openai_api_key: sk-1"),
        "e.yaml:1 openai_api_key: API keys are read only from the environment; set OPENAI_API_KEY",
    ),
    "a token for the trainer": (
        flags_of("-o trl.hub_token=hf_1"),
        "-o trl.hub_token trl.hub_token: API keys are read only from the environment; set HF_TOKEN",
    ),
    "no such data": (data_of("none.jsonl", None), "none.jsonl: no such file"),
    "no data in it": (data_of("a.jsonl", ""), "a.jsonl: 0 distinct prompts; at least 2 are needed"),
    "one prompt, often": (
        data_of("a.jsonl", '{"prompt": "x"}\n' * 20),
        "a.jsonl: 1 distinct prompt; at least 2 are needed",
    ),
    "another column": (
        data_of("a.jsonl", '{"question": "x"}\n'),
        "a.jsonl: row 1 has no column 'prompt'; available: question; name the column of the prompt with "
        "--prompt-column",
    ),
    "a misspelt column": (
        data_of("a.jsonl", '{"prompt": "x"}\n{"promt": "y"}\n'),
        "a.jsonl: row 2 has no column 'prompt'; available: promt",
    ),
    "semicolons": (
        data_of("a.csv", "prompt;stars\nx;1\n"),
        "a.csv: columns are separated by ';'; save it with commas",
    ),
    "tabs": (data_of("a.csv", "prompt\tstars\nx\t1\n"), "a.csv: columns are separated by tabs"),
    "data that are code": (
        data_of("shutil:rmtree", None),
        "data 'shutil:rmtree': neither a file nor a Hub dataset ID",
    ),
    "no steps": (flags_of("--steps 0"), "mpo-lite: --steps: must be 1 or more"),
    "negative steps": (flags_of("--steps -5"), "mpo-lite: --steps: must be 1 or more"),
    "a group of one": (flags_of("--group-size 1"), "mpo-lite: --group-size: must be 2 or more"),
    "no money": (flags_of("--max-usd 0"), "mpo-lite: --max-usd: must be more than 0"),
    "steps in words": (flags_of("--steps ten"), "'ten' is not a valid integer"),
    "a misspelt flag": (flags_of("--step 3"), "no option --step; did you mean --steps?"),
    "another's name for a flag": (flags_of("--lr 1e-4"), "no option --lr; did you mean --learning-rate?"),
    "a key in the path of an address": (
        flags_of("--judge-api-base 'http://h/v1;token=S3CRET'"),
        "--judge-api-base: must not contain a key, a '?' or a ';'",
    ),
    "a key in the place of a name": (flags_of("--judge sk-S3CRET"), "looks like an API key; give the model"),
    "a key in the place of the meta-judge": (
        flags_of("--meta sk-S3CRET"),
        "--meta: looks like an API key;",
    ),
    "a function of ours that is no metric": (
        task_of(gold="mpo_lite.jsonl:Path"),
        "mpo_lite/jsonl.py is not in mine; a task's functions must be in its own folder",
    ),
    "what a module of ours has imported": (
        task_of(gold="mpo_lite.tasks.metrics:Path"),
        "mpo_lite.tasks.metrics has no function Path",
    ),
    "epochs": (flags_of("--epochs 3"), "no option --epochs; did you mean --steps?"),
    "a length of completions": (
        flags_of("--max-length 64"),
        "no option --max-length; did you mean --max-new-tokens?",
    ),
    "a flag with an underscore": (flags_of("--lora_r 4"), "no option --lora_r; did you mean --lora-r?"),
    "a split of a file": (
        flags_of("--data-split test"),
        "--data-split test: applies to Hub datasets, but prompts.jsonl is a file; remove it",
    ),
    "two meta-judges": (yaml_of("meta: [a, b]"), "e.yaml:1 meta: give keys and values such as 'model: …'"),
    "a task in the place of settings": (
        ("train mine", {"mine/task.yaml": json.dumps(TASK)}),
        "mine: is a task folder; pass it as --task mine",
    ),
    "a folder of settings": (
        ("train mine", {"mine/experiment.yaml": "steps: 3"}),
        "mine: is a folder; did you mean mine/experiment.yaml?",
    ),
    "data in the place of settings": (
        ("train prompts.jsonl", {}),
        "prompts.jsonl: is a data file, not a configuration; pass it as --data prompts.jsonl",
    ),
    "no meta-judge to refine by": (
        ("refine prompts.jsonl --judge openai/m --out r.yaml", {}),
        "no meta-judge: give --meta MODEL (it may be the judge's model) or set MPO_META",
    ),
    "no such baseline": (
        ("alarms answers.jsonl --before runs/nope", {"answers.jsonl": '{"prompt": "p", "response": "r"}'}),
        "runs/nope: no such file or run",
    ),
    "a batch size": (
        flags_of("--batch-size 8"),
        "no option --batch-size; set --batch-prompts (prompts per batch), --group-size",
    ),
    "a setting without a flag": (
        flags_of("--judge-price 1"),
        "no option --judge-price; use -o judge_price=VALUE",
    ),
    "no flag at all": (flags_of("--quxx 1"), "no option --quxx"),
    "a misspelt setting": (
        flags_of("-o max_new_token=64"),
        '-o max_new_token: unknown key, did you mean "max_new_tokens"?',
    ),
    "no setting at all": (
        flags_of("-o foo.bar=1"),
        "mpo-lite: -o foo.bar: unknown key; mpo-lite config show --all lists all keys",
    ),
    "a goal and a task": (
        flags_of("--goal x --task math"),
        "goal (--goal) replaces the task, but a task is set too (--task); remove one",
    ),
    "a task in a file and a goal": (
        (f"estimate e.yaml {JUDGE} --goal x", {"e.yaml": "task: math\n"}),
        "goal (--goal) replaces the task, but a task is set too (e.yaml:1); remove one",
    ),
    "an oracle of nothing": (
        (f"estimate {JUDGE.replace('iter0', 'oracle')} --data none/at-all", {}),
        "--baseline oracle: name the run whose last rubric it is to be: --rubric RUN",
    ),
    "no such settings": ((f"estimate none.yaml {JUDGE}", {}), "mpo-lite: none.yaml: no such file"),
    "no such rubric": (flags_of("--rubric none.yaml"), "mpo-lite: none.yaml: no such file"),
    "a number in words": (yaml_of("a: 1\nsteps: ten\n"), "e.yaml:1 a: unknown key"),
    "a wrong type": (yaml_of("steps: ten\n"), "e.yaml:1 steps: must be a whole number"),
    "a misspelt key": (yaml_of("seed: 1\nstepz: 3\n"), 'e.yaml:2 stepz: unknown key, did you mean "steps"?'),
    "broken YAML": (yaml_of("seed: 1\nsteps: [\n"), "e.yaml:3: not valid YAML ("),
    "a tab": (yaml_of("seed: 1\n\tsteps: 2\n"), "e.yaml:2: not valid YAML ("),
    "code in YAML": (yaml_of("steps: !!python/name:os.system\n"), "e.yaml:1: not valid YAML ("),
    "a list": (yaml_of("- a\n"), "e.yaml: must be a mapping of keys to values, like 'steps: 200'"),
    "a key twice": (yaml_of("steps: 1\nsteps: 2\n"), "e.yaml:2: duplicate key 'steps' (also in line 1"),
    "true steps": (yaml_of("steps: true\n"), "e.yaml:1 steps: must be a number, not true or false"),
    "a number for a mapping": (
        yaml_of("gate: 5\n"),
        "e.yaml:1 gate: give keys and values such as 'prompts: 12'",
    ),
    "half a price": (
        flags_of("-o judge_price=0.1"),
        "-o judge_price: must be USD per million input and output tokens, such as [0.15, 0.6]",
    ),
    "a rubric of nothing": (rubric_of("criteria: []\n"), "r.yaml:1 criteria: must have at least 1 entry"),
    "levels that are no words to YAML": (
        rubric_of("criteria:\n- {id: a, description: d, levels: [no, yes]}\n"),
        "r.yaml:2 criteria.0.levels.0: YAML reads no and yes as booleans; quote them: levels: ['no', 'yes']",
    ),
    "a rubric in prose": (
        rubric_of("Good answers are short.\n"),
        "r.yaml: give keys and values such as 'criteria: …'",
    ),
    "a criterion twice": (rubric_of(CRITERION + CRITERION.split("\n")[1]), "repeated: a"),
    "no such task": (
        (f"estimate {JUDGE} --task nowhere", {}),
        "task 'nowhere': neither a folder with a task.yaml nor a built-in task (essay,",
    ),
    "a task without a persona": (
        (
            f"estimate {JUDGE} --task mine",
            {"mine/task.yaml": json.dumps({key: value for key, value in TASK.items() if key != "persona"})},
        ),
        "task.yaml:1 persona: is missing",
    ),
    "a misspelt key of a task": (
        task_of(golf="m:f"),
        'task.yaml:1 golf: unknown key, did you mean "gold"?',
    ),
    "gold in no file": (
        task_of(gold="my_metrics:quality"),
        "task.yaml: gold: my_metrics.py is not in mine; a task's functions must be in its own folder",
    ),
    "gold of somebody else's": (task_of(gold="shutil:rmtree"), "gold: shutil.py is not in mine"),
    "gold that is no Python": (
        task_of({"broken_metric.py": "def f(:\n"}, gold="broken_metric:f"),
        "gold: cannot import broken_metric (SyntaxError: ",
    ),
    "gold of another name": (
        task_of({"named_metric.py": "x = 1\n"}, gold="named_metric:f"),
        "gold: named_metric has no function f",
    ),
    "too many held out": (
        task_of(data={"source": "prompts.jsonl", "held_out": 40}),
        "held_out 40 of 20 distinct prompts leaves fewer than 2 to train on",
    ),
    "no prompt in the policy's prompt": (
        task_of({"policy.md": "=== user\nTell me a story.\n"}),
        "mine/policy.md: has no $prompt",
    ),
    "a role that is none": (
        task_of({"policy.md": "=== userr\n$prompt\n"}),
        "mine/policy.md:1: '=== userr' is not a role; write '=== user' or '=== system'",
    ),
    "no role": (
        task_of({"policy.md": "Answer this:\n$prompt\n"}),
        "mine/policy.md:1: text before the first role",
    ),
    "a slot of another name": (
        task_of({"policy.md": "=== user\n$prompt\n$topic\n"}),
        "mine/policy.md:3: $topic is unknown",
    ),
    "a dollar": (
        task_of({"policy.md": "=== user\n$prompt for 5 $\n"}),
        "mine/policy.md:2: write '$$' for a literal '$'",
    ),
    "a folder that holds other files": (
        ("train --run-dir mine --judge sandbox --baseline iter0", task_of()[1]),
        "mine: holds other files; name a new or empty folder by --run-dir",
    ),
    "a file in the run's place": (
        ("train --run-dir prompts.jsonl --judge sandbox --baseline iter0", {}),
        "prompts.jsonl: is a file; name a folder by --run-dir",
    ),
    "a place that nobody can write to": (
        ("train --run-dir /proc/run --judge sandbox --baseline iter0", {}),
        "/proc/run: cannot write the run here (",
    ),
    "a tracker that is not installed": (
        ("train --report-to neptune --judge sandbox --baseline iter0 --data prompts.jsonl", {}),
        "--report-to neptune: neptune is not installed; pip install neptune",
    ),
    "no tracker": (
        ("train --report-to paper --judge sandbox --baseline iter0 --data prompts.jsonl", {}),
        "--report-to paper: unknown tracker; known: ",
    ),
    "no vLLM": (
        ("train --use-vllm --judge sandbox --baseline iter0 --data prompts.jsonl", {}),
        "--use-vllm: vllm is not installed",
    ),
    "no bitsandbytes": (
        ("train --load-in-4bit --judge sandbox --baseline iter0 --data prompts.jsonl", {}),
        "--load-in-4bit: bitsandbytes is not installed",
    ),
    "an unusable cache": (
        ("estimate --judge sandbox --baseline iter0 --data prompts.jsonl --cache-dir prompts.jsonl", {}),
        "prompts.jsonl: cannot use the cache (",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, refused: Refused) -> None:
    (command, files), message = MISTAKES[name]
    assert message in refused(command, files)


def test_a_misspelt_variable_is_told(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_STEP", "3")
    monkeypatch.setenv("MPO_UNRELATED", "of another program")
    assert refused(*flags_of("")) == "mpo-lite: MPO_STEP: unknown setting; did you mean MPO_STEPS?"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trl.foo=1", "trl.foo: unknown key"),
        ("trl.learning_rat=1", 'trl.learning_rat: unknown key, did you mean "learning_rate"?'),
        ("trl.learning_rate=fast", "trl.learning_rate 'fast': must be a number"),
        ("trl.per_device_train_batch_size=2", "a generation batch would hold 16 completions"),
        ("temperature=0", "temperature 0: greedy answers"),
        ("policy=mine", "policy 'mine': has no config.json; name the folder of a model"),
        ("policy=run", "policy 'run': has no config.json; it holds an adapter: mpo-lite export RUN --merge"),
        ("policy=prompts.jsonl", "policy 'prompts.jsonl': is a file; name the folder of a model"),
        ("policy=bare", "policy 'bare': holds no weights"),
        ("policy=base", "policy 'base': its tokenizer has no chat template; name a chat or instruct model"),
        (
            "policy=me/none",
            "is not a directory here and could not be downloaded from the Hub (HF_HUB_OFFLINE is set and",
        ),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is_asked(
    setting: str, message: str, place: Path, refused: Refused
) -> None:
    """The judge's address answers nobody: whoever asked it first would say so."""
    (place / "run" / "checkpoints").mkdir(parents=True)
    for name, left_out in (("bare", "model.safetensors"), ("base", "chat_template.jinja")):
        (place / name).mkdir()
        for path in policy_dir().iterdir():
            if path.name != left_out:
                (place / name / path.name).write_bytes(path.read_bytes())
    said = refused(f"train {JUDGE} --data prompts.jsonl --run-dir new -o {setting}", task_of()[1])
    assert message in said
    assert not (place / "new").exists()


@pytest.mark.slow
def test_numbers_with_an_exponent_reach_the_trainer(place: Path, refused: Refused) -> None:
    """What is wrong comes after the trainer has taken them: nobody answers at the judge's address."""
    said = refused(f"train {JUDGE} --data prompts.jsonl -o trl.learning_rate=1e-4 -o trl.epsilon=2E-1")
    assert "judge openai/m at http://127.0.0.1:9/v1: cannot connect" in said


def test_settings_that_peers_have_as_flags_are_flags(place: Path, capsys: Any) -> None:
    (place / "questions.jsonl").write_text("".join(f'{{"question": "q {n}"}}\n' for n in range(9)))
    flags = "--max-new-tokens 64 --batch-prompts 4 --group-size 7 --micro-batch 7 --prompt-column question"
    main(shlex.split(f"estimate {JUDGE} --data questions.jsonl --cache-dir cache {flags}"))
    said = capsys.readouterr().out
    assert "200 batches of 28 completions" in said and "of 64 at most" in said


def test_a_run_is_not_written_over(place: Path, refused: Refused) -> None:
    run = made_run(place / "run")
    said = refused(f"train {JUDGE} --data prompts.jsonl --run-dir {run.path}")
    assert f"already contains a run; resume it with mpo-lite resume {run.path}, or choose another" in said


def resumed(place: Path, capsys: Any, *flags: str) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as left:
        main(["resume", str(place / "run"), *flags])
    return left.value.code, capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_cannot_go_on_says_why(place: Path, capsys: Any) -> None:
    code, said = resumed(place, capsys)
    assert code == 2 and "not a run directory (no config.yaml)" in said
    data = place / "gone.jsonl"
    run = made_run(place / "run", data=str(data), judge="openai/m", baseline="iter0", meta=None)
    code, said = resumed(place, capsys)
    assert code == 2 and f"{data}: no such file" in said
    data.write_text(PROMPTS)
    run.lock()
    code, said = resumed(place, capsys)
    assert code == 2 and "another process is training this run; wait for it" in said
    code, said = resumed(place, capsys, "--steps", "20")
    assert code == 2 and "another process is training this run; wait for it" in said
    run.unlock()


def test_a_cap_that_cannot_hold_is_not_made_the_runs(place: Path, capsys: Any) -> None:
    (place / "prompts.jsonl").write_text(PROMPTS)
    data = str(place / "prompts.jsonl")
    run = made_run(place / "run", data=data, judge="openai/m", judge_api_base="http://127.0.0.1:9/v1",
                   baseline="iter0", meta=None)  # fmt: skip
    before = run.config_file.read_bytes()
    code, said = resumed(place, capsys, "--max-usd", "5", "--steps", "40")
    assert code == 2 and said.endswith(
        "--max-usd 5: the price of openai/m is unknown, so the cap cannot hold; use --max-calls or "
        "--max-tokens instead"
    )
    assert run.config_file.read_bytes() == before


def test_a_meta_judge_that_is_not_asked_needs_no_price(place: Path, capsys: Any) -> None:
    (place / "prompts.jsonl").write_text(PROMPTS)
    priced = {"judge": "openai/m", "judge_price": [1, 1], "judge_api_base": "http://127.0.0.1:9/v1"}
    data = str(place / "prompts.jsonl")
    made_run(place / "run", data=data, baseline="iter0", meta="openai/other", **priced)
    _, said = resumed(place, capsys, "--max-usd", "5", "--steps", "40")
    assert said.startswith("mpo-lite: policy 'Qwen/")  # it got as far as the policy, which is not here


def test_a_setting_of_a_run_is_not_changed_by_resume(place: Path, capsys: Any) -> None:
    made_run(place / "run")
    code, said = resumed(place, capsys, "--learning-rate", "1e-4")
    assert (
        code == 2
        and "no option --learning-rate: a run is resumed with the settings it was started with" in said
    )


def test_a_run_in_the_place_of_settings_is_gone_on_with(place: Path, refused: Refused) -> None:
    run = made_run(place / "run")
    assert refused("train run").endswith(f"{run.path.name}: is a run; resume it: mpo-lite resume run")


def test_a_misspelt_command_is_told(refused: Refused) -> None:
    assert "no command trian; did you mean train?" in refused("trian")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("log_calls=/none/calls.jsonl", "--log-calls /none/calls.jsonl: cannot be written"),
        ("task=mine", "own:gold returned 7"),
    ],
)
def test_what_a_run_writes_and_measures_by_is_tried_before_anything_is_asked(
    setting: str, message: str, place: Path, refused: Refused
) -> None:
    """The judge's address answers nobody: whoever asked it first would say so."""
    files = task_of({"own.py": "def gold(text, row):\n    return 7\n"}, gold="own:gold")[1]
    said = refused(f"train {JUDGE} --data prompts.jsonl --run-dir new -o {setting}", files)
    assert message in said
    assert not (place / "new").exists()


def test_a_first_task_trains_from_its_own_folder_and_when_it_has_moved(
    place: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["init", "mine"])
    Path("mine").rename("moved")
    for folder, file in (("moved", "experiment.yaml"), (".", "moved/experiment.yaml")):
        monkeypatch.chdir(place / folder)
        capsys.readouterr()
        main(["estimate", file, "--cache-dir", str(place / "cache")])
        assert "200 batches" in capsys.readouterr().out
        assert load_config(Path(file), environ={}).task == str(place / "moved")
