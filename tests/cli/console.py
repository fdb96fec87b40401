"""Commands as a user starts them, in a process of their own."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


Ended = subprocess.CompletedProcess[str]


def run(*words: str, stdin: str = "", timeout_s: int = 300, path: Path | None = None) -> Ended:
    """The interpreter with these words; `path` comes first where it looks for packages."""
    places = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*places, str(ROOT)])}
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, input=stdin, capture_output=True, text=True, timeout=timeout_s
    )


def write_metadata(directory: Path) -> Path:
    """What an installation of this pyproject.toml leaves for `importlib.metadata`: tests need no newer one."""
    info = directory / "eagle_hsd-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: 0\n")
    groups = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in entries.items()) for group, entries in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return directory


def assert_one_clear_line(code: int | str | None, stderr: str, message: str) -> None:
    """Exit code 2 and a single line that opens with "error:", beside warnings of libraries."""
    assert code == 2 and "Traceback" not in stderr, stderr
    errors = [line for line in stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0], stderr
