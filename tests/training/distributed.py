"""Scripts on two CPU processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def two_processes(script: Path, config: Path, options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """The script with one thread each."""
    words = {name: str(value).lower() if value is None or isinstance(value, bool) else str(value)
             for name, value in options.items()}  # fmt: skip
    flags = [part for name, word in words.items() for part in (f"--{name.replace('_', '-')}", word)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, str(script), str(config), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
