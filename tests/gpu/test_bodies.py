"""The tests for a GPU run through on a CPU in its place: what they compare is then the same, and they cannot be wrong
by themselves where no machine with a GPU is at hand."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import STAND_IN

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_every_test_for_a_gpu_runs():
    environment = {**os.environ, STAND_IN: "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", str(HERE)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d\d+ passed", done.stdout) and "skipped" not in done.stdout
