"""Starts a script or ``-m module`` with FSDP on CPUs, where accelerate leaves it out.

torch shards over gloo as it does on GPUs, but accelerate ignores its plugin there and trains data parallel.
What is added here is what it does for GPUs.
"""

import runpy
import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


def take_up_fsdp() -> None:
    begin = AcceleratorState.__init__

    def begin_sharded(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        plugin = options.get("fsdp_plugin")
        if plugin and self.distributed_type == DistributedType.MULTI_CPU:
            if self.mixed_precision != "no":
                plugin.set_mixed_precision(self.mixed_precision)
            self.fsdp_plugin, self.distributed_type = plugin, DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = begin_sharded


if __name__ == "__main__":
    take_up_fsdp()
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
