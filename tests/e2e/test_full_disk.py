"""A full disk, which a process of its own meets as a limit on the size of its files."""

import subprocess
import sys
from pathlib import Path


def test_a_full_disk_costs_the_caches_use_and_not_the_answer(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from mpo_lite.llm.cache import AnswerCache
store = AnswerCache(Path({str(tmp_path)!r}))
store.put("old", {{"text": "kept"}})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
store.put("new", {{"text": "x" * 1_000_000}})
print(store.get("old"), store.get("new"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'text': 'kept'} None"
    assert "cannot write the answer cache" in done.stderr
