"""Rules of the house that no single module can keep alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["scripts", "evaluation", "eagle", "hsd_verify"]  # imports only point to the right
SOURCES = sorted(path for room in ORDER for path in (ROOT / room).rglob("*.py"))
MAX_LINES = 400


def imported_rooms(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    above = set(ORDER[: ORDER.index(room)]) | {"tests"}
    assert not imported_rooms(path) & above


def test_the_verification_library_stands_alone():
    code = "import sys, hsd_verify; print([m for m in ('transformers', 'eagle', 'evaluation') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_verification_library_imports_torch_and_the_standard_library_only():
    for path in (ROOT / "hsd_verify").rglob("*.py"):
        foreign = imported_rooms(path) - set(sys.stdlib_module_names) - {"torch", "hsd_verify"}
        assert not foreign, f"{path.name} imports {foreign}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert not re.search(r"except\s*:", text), "bare except"
    assert not re.search(r"\.cuda\(\)|[\"']/(root|home|Users|work|tmp)/", text), "literal device or absolute path"
