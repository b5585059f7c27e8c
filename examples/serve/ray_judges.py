"""Judging spread over a Ray cluster, with one owner of the rubric.

    serve run examples.serve.ray_judges:app
    mpo-lite serve --judge hosted_vllm/judge --judge-api-base http://RAY_HEAD:8000/v1 --meta claude

The rubric has one owner: `mpo-lite serve` on one machine. What is replicated is the judge model behind it:
Ray Serve balances its calls over vLLM replicas, and the owner keeps rubric, cache, caps and journal. Needs
`pip install "ray[serve,llm]"`; tried on no cluster yet.
"""

from ray.serve.llm import LLMConfig, build_openai_app  # pyright: ignore

app = build_openai_app(
    {
        "llm_configs": [
            LLMConfig(
                model_loading_config={"model_id": "judge", "model_source": "Qwen/Qwen2.5-14B-Instruct"},
                deployment_config={"autoscaling_config": {"min_replicas": 1, "max_replicas": 4}},
                engine_kwargs={"max_model_len": 16384},
            )
        ]
    }
)
