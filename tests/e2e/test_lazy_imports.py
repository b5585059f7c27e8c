"""What takes long to import is imported only where it is needed."""

import subprocess
import sys

from mpo_lite.cli.main import COMMANDS


def test_help_lists_all_commands_and_loads_neither_torch_nor_litellm() -> None:
    code = (
        "import sys; from mpo_lite.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', [m for m in ('torch', 'litellm', 'transformers', 'trl') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "LOADED []" in output
    assert all(name in output for name in COMMANDS)


def test_a_session_needs_no_torch() -> None:
    code = "import sys, mpo_lite.loop.session, mpo_lite.loop.reward; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
