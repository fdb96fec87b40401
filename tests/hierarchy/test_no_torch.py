"""Planning needs no torch: a laptop without it can plan from a profile."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_planning_loads_no_torch():
    modules = [f"eagle.hierarchy.{path.stem}" for path in (ROOT / "eagle" / "hierarchy").glob("[a-z]*.py")]
    assert "eagle.hierarchy.planning" in modules
    code = f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
