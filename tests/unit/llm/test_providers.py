"""Each provider has its own variable for a key."""

import pytest

from mpo_lite.llm.transport import provider_key


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("openai/gpt-4o", "OPENAI_API_KEY"),
        ("anthropic/claude-sonnet-4-5-20250929", "ANTHROPIC_API_KEY"),
        ("gemini/gemini-2.5-pro", "GEMINI_API_KEY"),
        ("groq/llama-3.3-70b", "GROQ_API_KEY"),
        ("mistral/mistral-large-latest", "MISTRAL_API_KEY"),
        ("together_ai/meta/llama", "TOGETHERAI_API_KEY"),
        ("openrouter/meta/llama", "OPENROUTER_API_KEY"),
        ("deepseek/deepseek-chat", "DEEPSEEK_API_KEY"),
        ("xai/grok-4", "XAI_API_KEY"),
        ("cerebras/llama", "CEREBRAS_API_KEY"),
        ("fireworks_ai/llama", "FIREWORKS_AI_API_KEY"),
        ("hyperbolic/llama", "HYPERBOLIC_API_KEY"),
        ("azure/deployment", "AZURE_API_KEY"),
        ("bedrock/anthropic.claude-v2", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_each_provider_has_a_variable_of_its_own(
    model: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = provider_key(model)
    assert variable in missing.variables and not missing.is_set
    assert (missing.is_set is None) == (variable == "HYPERBOLIC_API_KEY")  # LiteLLM does not say
    if missing.is_plain:
        assert missing.variables[0] == variable
        monkeypatch.setenv(variable, "sk-some-key")
        assert provider_key(model).is_set
