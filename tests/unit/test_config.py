import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpo_lite.config import METHODS, Config
from mpo_lite.config_sources import load_config, load_with_sources, save_config
from mpo_lite.errors import ConfigError
from mpo_lite.llm.models import fallback_backend, judge_backends, meta_backend
from mpo_lite.strict_yaml import dump_yaml, parse_yaml


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "essay.yaml"
    path.write_text(text)
    return path


def test_flags_beat_environment_beats_yaml_beats_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "judge: from-yaml\nmeta: from-yaml\nsteps: 7\n")
    environ = {"MPO_JUDGE": "from-env", "MPO_META": "from-env"}
    config = load_config(path, {"judge": "from-flag", "seed": None}, environ=environ)
    assert config.meta and config.meta.model == "from-env"
    assert (config.judge[0].model, config.steps, config.seed) == ("from-flag", 7, 0)


def test_every_field_has_a_variable() -> None:
    environ = {
        "MPO_MAX_USD": "2.5",
        "MPO_PRESCREEN": "true",
        "MPO_LEARNING_RATE": "1e-4",
        "MPO_LORA_R": "4",
        "MPO_GATE": "{margin: 0.3}",
        "MPO_LORA_TARGET_MODULES": "q_proj",
    }
    config = load_config(environ=environ)
    assert (config.max_usd, config.prescreen, config.learning_rate) == (2.5, True, 1e-4)
    assert (config.lora_r, config.gate.margin, config.lora_target_modules) == (4, 0.3, ("q_proj",))


def test_dot_env_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("MPO_JUDGE=from-dotenv\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPO_META", "from-env")
    config, origins = load_with_sources()
    assert [model.model for model in config.models] == ["from-dotenv", "from-env"]
    assert (origins["judge"], origins["meta"]) == (".env MPO_JUDGE", "MPO_META")
    monkeypatch.delenv("MPO_JUDGE")  # load_dotenv put it there


def test_overrides_reach_nested_keys_and_beat_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "ppo:\n  lam: 0.8\n  gamma: 0.9\ntrl:\n  num_iterations: 2\n")
    config = load_config(path, overrides=["ppo.lam=0.7", "trl.epsilon=0.3"], environ={})
    assert (config.ppo.lam, config.ppo.gamma) == (0.7, 0.9)
    assert config.trl == {"num_iterations": 2, "epsilon": 0.3}


def test_the_kl_penalty_fits_the_algorithm_unless_it_is_set() -> None:
    betas = {
        name: load_config(given={"algorithm": name}, environ={}).beta for name in ("grpo", "rloo", "ppo")
    }
    assert betas == {"grpo": 0.02, "rloo": 0.004, "ppo": 0.004}
    assert load_config(given={"algorithm": "rloo", "beta": 0.1}, environ={}).beta == 0.1


def test_a_method_is_weaker_than_anything_given(tmp_path: Path) -> None:
    path = write(tmp_path, "method: paper\nlora_r: 8\n")
    config = load_config(path, environ={"MPO_BETA": "0.1"})
    assert (config.algorithm, config.num_iterations, config.missing_eos_penalty) == ("ppo", 4, 0.2)
    assert (config.lora_r, config.beta) == (8, 0.1)
    assert load_config(write(tmp_path, save_config(config)), environ={}) == config
    for name, value in METHODS["paper"].items():
        assert getattr(load_config(given={"method": "paper"}, environ={}), name) == value
    with pytest.raises(ConfigError, match="--method: must be 'guarded' or 'paper'"):
        load_config(given={"method": "papper"}, environ={})


def test_an_unknown_key_is_refused_with_file_line_and_suggestion(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 3\nppo:\n  lam: 1\n  gama: 1\n")
    with pytest.raises(ConfigError, match=r'essay.yaml:4 ppo.gama: unknown key, did you mean "gamma"\?'):
        load_config(path, environ={})
    with pytest.raises(ConfigError, match=r'-o stepps: .*did you mean "steps"'):
        load_config(overrides=["stepps=3"], environ={})


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        ({"steps": 0}, {}, "--steps: must be 1 or more"),
        ({}, {"MPO_STEPS": "many"}, "MPO_STEPS: must be a whole number"),
        ({"judge_api_base": "localhost:8000"}, {}, "--judge-api-base: .*http"),
        (
            {"judge_api_base": "http://user:secret@host/v1"},
            {},
            "password; set the key in MPO_JUDGE_API",
        ),
        ({"judge_api_base": "http://secret@host/v1"}, {}, "must not contain a password"),
        ({"judge_api_base": "http://host/v1?api_key=secret"}, {}, "set the key in MPO_JUDGE_API_KEY"),
        ({"meta_api_base": "http://host/v1?key=secret"}, {}, "set the key in MPO_META_API_KEY"),
        ({}, {"MPO_META_API_BASE": "http://host/v1#secret"}, "MPO_META_API_BASE: .*MPO_META_API_KEY"),
        (
            {"judge": [{"model": "openai/m", "api_base": "http://host/v1?token=secret"}]},
            {},
            "the variable that api_key_env names",
        ),
    ],
)
def test_wrong_values_name_their_source(given: dict, environ: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(given=given, environ=environ)
    assert "secret" not in str(caught.value)


def test_keys_are_refused_in_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only from the environment.*MPO_JUDGE_API_KEY") as caught:
        load_config(write(tmp_path, "judge_api_key: sk-123\n"), environ={})
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n", "steps: [", "steps: !!python/name:os.system"])
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"essay.yaml"):
        load_config(write(tmp_path, text), environ={})


def test_a_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(
        given={"judge": "gpt-4o", "run_dir": tmp_path, "judge_price": [1, 2]},
        overrides=["gate.margin=0.1"],
        environ={},
    )
    assert load_config(write(tmp_path, save_config(config)), environ={}) == config
    assert yaml.safe_load(save_config(config))["judge"] == "gpt-4o"


def test_short_names_are_pinned_and_claude_alone_works() -> None:
    config = Config(judge="gpt-4o", meta="claude")
    assert judge_backends(config, {})[0].model == "openai/gpt-4o-2024-11-20"
    assert meta_backend(config, {}).model.startswith("anthropic/claude-")


def test_a_meta_judge_is_written_out_as_a_judge_is(tmp_path: Path) -> None:
    place = {"api_base": "https://h/v1", "api_key_env": "MY_KEY", "price": [1.0, 2.0], "label": "large"}
    config = load_config(
        write(tmp_path, yaml.safe_dump({"meta": {"model": "openai/m", **place}})), environ={}
    )
    meta = meta_backend(config, {"MY_KEY": "k", "MPO_META_API_KEY": "other"})
    assert (meta.api_base, meta.api_key, meta.price, meta.label) == ("https://h/v1", "k", (1.0, 2.0), "large")
    assert yaml.safe_load(save_config(config))["meta"] == {"model": "openai/m", **place}
    with pytest.raises(ConfigError, match=r"the variable MY_KEY \(named by api_key_env\) is not set"):
        meta_backend(config, {})
    plain = Config(meta="openai/m", meta_api_base="https://g/v1", meta_price=(3, 4))
    assert (meta_backend(plain, {}).api_base, meta_backend(plain, {}).price) == ("https://g/v1", (3, 4))


def test_a_server_of_ones_own_never_gets_the_providers_key() -> None:
    config = Config(judge="openai/x", judge_api_base="http://localhost:8000/v1")
    environ = {"OPENAI_API_KEY": "sk-secret"}
    assert judge_backends(config, environ)[0].api_key == "none"
    keyed = judge_backends(config, environ | {"MPO_JUDGE_API_KEY": "k-123"})[0]
    assert keyed.api_key == "k-123" and "k-123" not in repr(keyed)


def test_no_judge_names_flag_variable_and_quickstart() -> None:
    with pytest.raises(ConfigError, match=r"--judge.*MPO_JUDGE.*mpo-lite quickstart"):
        judge_backends(Config(), {})


def test_several_judges_have_addresses_keys_and_prices_of_their_own(tmp_path: Path) -> None:
    text = """
judge:
  - gpt-4o
  - {model: hosted_vllm/qwen, api_base: "http://localhost:8000/v1", api_key_env: QWEN_KEY, price: [0.1, 0.2]}
judge_fallback: {model: openai/last, api_base: "http://localhost:9000/v1"}
"""
    config = load_config(write(tmp_path, text), environ={})
    hosted, own = judge_backends(config, {"QWEN_KEY": "q-1", "MPO_JUDGE_API_KEY": "of-one-judge"})
    assert (hosted.api_base, hosted.api_key) == (None, None)
    assert (own.api_base, own.api_key, own.price) == ("http://localhost:8000/v1", "q-1", (0.1, 0.2))
    fallback = fallback_backend(config, {})
    assert fallback and (fallback.model, fallback.api_key) == ("openai/last", "none")
    saved = save_config(config)
    assert "q-1" not in saved and load_config(write(tmp_path, saved), environ={}) == config
    assert judge_backends(load_config(given={"judge": ("a/x", "b/y")}, environ={}), {})[1].model == "b/y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "judge: [{model: a/b, api_key: sk-1234567890}]",
            r"essay.yaml:1 judge.0.api_key: API keys are read only.*api_key_env",
        ),
        ("judge: [{model: a/b, api_key_env: sk-1234567890}]", r"judge.0.api_key_env: must match the pattern"),
        ("judge: [{model: a/b, api_bas: x}]", r'did you mean "api_base"'),
        ("judge: [{model: a/b, price: [1]}]", r"judge.0.price"),
    ],
)
def test_a_wrong_judge_is_refused_without_its_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(write(tmp_path, text), environ={})
    assert "sk-1234567890" not in str(refused.value)


def test_judges_that_could_not_be_told_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"listed twice.*--replicates"):
        judge_backends(Config(judge=("gpt-4o", "gpt-4o")), {})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"MY_KEY.*is not set"):
        judge_backends(
            load_config(given={"judge": [{"model": "a/b", "api_key_env": "MY_KEY"}]}, environ={}), {}
        )


NUMBERS = {"1e-4": 1e-4, "1E5": 1e5, "-2e+3": -2000.0, ".5e1": 5.0, "1.e2": 100.0, "1_000": 1000, "3": 3}


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_numbers_everywhere(text: str, tmp_path: Path) -> None:
    read = load_config(write(tmp_path, f"trl: {{warmup_ratio: {text}}}\n"), environ={})
    told = load_config(overrides=[f"trl.warmup_ratio={text}"], environ={})
    variable = load_config(environ={"MPO_TRL": f"{{warmup_ratio: {text}}}"})
    assert read.trl == told.trl == variable.trl == {"warmup_ratio": NUMBERS[text]}
    assert type(read.trl["warmup_ratio"]) is type(NUMBERS[text])


def test_texts_stay_texts() -> None:
    environ = {"MPO_GOAL": "Stories: short, *vivid*", "MPO_RUN_DIR": "2025-04-28", "MPO_DATA": "1e5"}
    config = load_config(environ=environ)
    assert (config.goal, str(config.run_dir), config.data) == tuple(environ.values())


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
@example({"\x85": "a\u2028b"})
@example(["1e5", "2024-01-01", "no", "<<", "*a", "0x1", "12:30", 1e16, 1e-7])
def test_yaml_reads_back_what_was_written(data: object) -> None:
    assert parse_yaml(dump_yaml({"data": data}), "x", ConfigError).data == {"data": data}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\nsteps: 4\n", r"essay.yaml:2: duplicate key 'steps' .also in line 1"),
        ("gate:\n  margin: 0.1\n  margin: 0.2\n", r"essay.yaml:3: duplicate key 'margin' .also in line 2"),
        ("a: &a [x, x]\nb: [*a, *a]\n", r"essay.yaml:2: aliases"),
        ("trl: " + "[" * 100_000, r"essay.yaml: nested more than 32 levels"),
        (
            "trl:\n" + "".join(" " * n + "-\n" for n in range(1, 600)),
            r"essay.yaml:33: nested more than 32 levels",
        ),
        ("steps: 3\n" + "# x\n" * 100_000, r"larger than 256 KiB"),
        ("steps: !!int ten\n", r"not valid YAML"),
        ("steps: !!timestamp ten\n", r"not valid YAML"),
    ],
)
def test_yaml_that_is_not_read_is_refused_at_once(text: str, message: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(write(tmp_path, text), environ={})
    assert time.monotonic() - started < 5 and "\n" not in str(refused.value)


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "task.yaml").touch()
    path = folder / "experiment.yaml"
    path.write_text("task: .\ndata: p.jsonl\nrun_dir: runs/one\nrubric: r.yaml\npolicy: me/model\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("mine/experiment.yaml"), {"cache_dir": Path("cache")}, environ={})
    assert (config.task, config.data) == (str(folder), str(folder / "p.jsonl"))
    assert (config.run_dir, config.rubric) == (folder / "runs/one", folder / "r.yaml")
    assert (config.policy, config.cache_dir) == ("me/model", Path("cache"))
    path.write_text("task: math\npolicy: sandbox\ndata: me/prompts\n")
    for name in ("math", "sandbox"):
        (folder / name).mkdir()
    config = load_config(path, environ={})
    assert (config.task, config.policy, config.data) == ("math", "sandbox", "me/prompts")


def test_a_saved_goal_names_no_task(tmp_path: Path) -> None:
    config = load_config(given={"goal": "Short stories."}, environ={})
    assert load_config(write(tmp_path, save_config(config)), environ={}) == config


def test_who_gives_calls_more_time_waits_longer_for_them() -> None:
    usual, slow = Config(), Config(call_timeout=600)
    assert (usual.call_timeout, usual.verdict_timeout, usual.batch_timeout) == (120, 300, 400)
    assert slow.call_timeout < slow.verdict_timeout < slow.batch_timeout
    assert Config(call_timeout=600, verdict_timeout=9).batch_timeout == 109
