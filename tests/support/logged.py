"""A small scoring that tests of what is logged run."""

import json
from pathlib import Path

from tests.support.llm_server import LLMServer

SECRET = "sk-very-secret-4711"


def scored(server: LLMServer, tmp_path: Path, *flags: str) -> list[str]:
    """The command that scores three answers by the server."""
    data = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"Dogs {n}.", "response": f"an answer {n}"} for n in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ["--judge-api-base", server.url, "--cache-dir", str(tmp_path / "cache")]
    out = ["--out", str(tmp_path / "scored.jsonl")]
    return ["score", str(data), "--judge", "openai/m", *where, *out, *flags]
