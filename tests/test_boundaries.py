"""Rules of the house that no single module can keep alone."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["scripts", "evaluation", "eagle", "hsd_verify"]  # imports only point to the right
SOURCES = sorted(path for room in ORDER for path in (ROOT / room).rglob("*.py"))
MAX_LINES = 400
FACADES = {"eagle", "evaluation"}  # what users import; nothing inside does
SAME_IDEA = {
    "trees",
    "hierarchy",
    "protocol",
    "main",
    "exact",
    "chat",
}  # policies and their laboratory; a planner and its commands; a room's way in; a command for it
MOST_ENTRIES = {"eagle/training": 18, "evaluation": 17}  # what one can still look over


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imported_modules(path: Path) -> set[str]:
    """Modules of this repository that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {node.module}
    return found & MODULES.keys()


IMPORTS = {name: imported_modules(path) - {name} for name, path in MODULES.items()}


def room_of(module: str) -> str:
    """A folder below a package is one room; files that lie in the package itself are rooms of their own."""
    folder = MODULES[module].parent.relative_to(ROOT)
    return str(folder) if len(folder.parts) > 1 or folder.parts == ("scripts",) else module


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


def test_no_module_imports_itself_around_a_corner():
    TopologicalSorter(IMPORTS).prepare()  # CycleError names the circle


def test_rooms_have_no_circle():
    rooms: dict[str, set[str]] = {}
    for module in IMPORTS.keys() - FACADES - {"hsd_verify"}:
        below = {room_of(other) for other in IMPORTS[module] - {"hsd_verify"}}
        rooms.setdefault(room_of(module), set()).update(below - {room_of(module)})
    TopologicalSorter(rooms).prepare()


PAGES = ("eagle.web", "eagle.fschat", "eagle.serving")  # what stands on decoding and under nothing but its commands


WEB = {"gradio", "fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"}


def test_decoding_knows_no_page_no_server_and_no_worker():
    def is_page(module: str) -> bool:
        return module.startswith(PAGES)

    for module, imported in IMPORTS.items():
        if not is_page(module) and not module.startswith("eagle.cli."):
            assert not {name for name in imported if is_page(name)}, module
    users = {name for name, path in MODULES.items() if imported_rooms(path) & WEB}
    assert {name for name in users if not is_page(name) and not name.startswith("eagle.cli.")} == set()


def test_nothing_inside_imports_the_facades():
    for module, imported in IMPORTS.items():
        own = {name for name in imported & FACADES if module.startswith(f"{name}.")}
        assert not own, f"{module} imports the facade {own}: name the module that has it"


def test_nothing_below_knows_the_libraries_that_call_it():
    """`generate` and the harness stand on top: only their commands import them, and only the harness its package."""
    for module, imported in IMPORTS.items():
        below = module.startswith(("eagle.", "hsd_verify")) and not module.startswith(("eagle.hf", "eagle.cli"))
        assert not below or not any(name.startswith("eagle.hf") for name in imported), module
    owners = {module for module, path in MODULES.items() if "lm_eval" in imported_rooms(path)}
    assert owners == {"eagle.hf.drafted_lm"}
    code = "import sys, eagle.chat, eagle.hf; print([m for m in ('lm_eval', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", MOST_ENTRIES)
def test_a_room_can_be_looked_over(folder):
    entries = [path for path in (ROOT / folder).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert len(entries) <= MOST_ENTRIES[folder], sorted(path.name for path in entries)


def test_public_modules_have_names_of_their_own():
    """`config` twice, `rows` twice: who reads an import or a traceback should know which one it is."""
    names: dict[str, list[str]] = {}
    for module in MODULES:
        if not module.startswith("scripts."):
            names.setdefault(module.rsplit(".", 1)[-1], []).append(module)
    twice = {name: found for name, found in names.items() if len(found) > 1 and name not in SAME_IDEA}
    assert not twice
