"""Talking to models: one client that caches, limits, retries and counts; LiteLLM is only its transport."""
