"""What may change in a run."""

from pathlib import Path

import pytest

from mpo_lite import resume
from mpo_lite.errors import ConfigError


def test_a_setting_that_makes_batches_is_not_changed_in_a_run(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"group_size: cannot change in a run; resume takes steps, .*max_usd"
    ):
        resume(tmp_path, steps=9, group_size=4)
    with pytest.raises(ConfigError, match="not a run directory"):
        resume(tmp_path, steps=9)
