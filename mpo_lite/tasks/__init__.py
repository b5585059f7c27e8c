"""Tasks: a folder each, with prompts, persona, first rubric, rules and gold metric. Files, not classes."""
