"""What is wrong with a model's name, address or key is said with the variable or flag that mends it."""

import pytest

from mpo_lite.errors import CallFailed, EndpointError
from mpo_lite.llm import event_loop
from mpo_lite.llm.models import KEYLESS
from tests.support.llm_calls import MakeClient, call
from tests.support.llm_server import LLMServer

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("gemini/gemini-2.5-pro", "set GEMINI_API_KEY, GOOGLE_API_KEY or MPO_JUDGE_API_KEY"),
        ("groq/llama", "set GROQ_API_KEY or MPO_JUDGE_API_KEY"),
        ("openai/gpt-4o", "set OPENAI_API_KEY or MPO_JUDGE_API_KEY"),
        ("anthropic/claude-sonnet-4-5-20250929", "set ANTHROPIC_API_KEY or MPO_JUDGE_API_KEY"),
    ],
)
def test_a_key_that_is_missing_is_named(make_client: MakeClient, model: str, said: str) -> None:
    with LLMServer() as server, pytest.raises(EndpointError, match=f"{model}: the key is missing.*; {said}$"):
        event_loop.wait(make_client().ask(call(server, model=model, api_base=None, api_key=None)))


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ({"api_key": KEYLESS}, r"no key was given \(401\); set MPO_JUDGE_API_KEY, or the variable"),
        ({"api_key": KEYLESS, "role": "meta"}, r"no key was given \(401\); set MPO_META_API_KEY"),
        (
            {"api_key": "sk-wrong-key", "key_variable": "MY_KEY"},
            r"the key in MY_KEY was rejected \(401\); check that it is complete, valid",
        ),
    ],
)
def test_which_key_is_refused_is_said(make_client: MakeClient, backend: dict[str, str], said: str) -> None:
    with LLMServer(key="right") as server, pytest.raises(EndpointError, match=said):
        event_loop.wait(make_client().ask(call(server, **backend)))


def test_a_providers_own_key_that_is_refused_is_named(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLMServer(key="right") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        hosted = call(server, model="openai/gpt-4o", api_base=None, api_key=None)
        with pytest.raises(EndpointError, match=r"gpt-4o: the key in OPENAI_API_KEY was rejected \(401\)"):
            event_loop.wait(make_client().ask(hosted))


def test_a_provider_that_cannot_be_reached_is_no_server_of_ones_own(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLMServer() as server:
        pass
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    hosted = call(server, model="openai/gpt-4o", api_base=None, api_key="sk-some-key")
    with pytest.raises(CallFailed, match="openai/gpt-4o: cannot reach openai: check your network or proxy"):
        event_loop.wait(make_client().ask(hosted))


@pytest.mark.parametrize("model", ["hosted_vllm/x", "lm_studio/x", "openai_like/x"])
@pytest.mark.parametrize("role", ["judge", "meta"])
def test_a_server_of_ones_own_needs_an_address(make_client: MakeClient, model: str, role: str) -> None:
    with LLMServer() as server:
        nowhere = call(server, model=model, api_base=None, api_key=None, role=role)
        with pytest.raises(EndpointError, match=rf"{model}: .*set --{role}-api-base http://HOST:PORT/v1"):
            event_loop.wait(make_client().ask(nowhere))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt4o", "did you mean gpt-4o? Otherwise write provider/model"),
        ("claud", "did you mean claude"),
        ("opnai/gpt-4o", "did you mean openai/gpt-4o"),
        ("antropic/claude", "did you mean anthropic/claude"),
        ("quux", "unknown model name; write provider/model as LiteLLM does, e.g. openai/gpt-4o"),
    ],
)
def test_an_unknown_name_suggests_near_ones(make_client: MakeClient, name: str, meant: str) -> None:
    with LLMServer() as server, pytest.raises(EndpointError) as caught:
        event_loop.wait(make_client().ask(call(server, model=name, api_base=None, api_key=None)))
    assert meant in str(caught.value)
