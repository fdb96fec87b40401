"""`scripts/train.py` with its head sharded (FSDP2) on CPUs: accelerate offers FSDP on accelerators only.

torchrun --nproc_per_node 2 tests/training/sharded_on_cpu.py config.yaml ...
"""

import runpy
import sys
from pathlib import Path

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

build = AcceleratorState.__init__


def build_sharded(self, *arguments, **keywords):
    build(self, *arguments, **keywords)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)


AcceleratorState.__init__ = build_sharded  # type: ignore[method-assign]
sys.argv[0] = str(Path(__file__).parents[2] / "scripts" / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
