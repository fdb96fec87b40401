"""What was found, line by line as it is found: a table for a person, an exit status for a script."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from eagle.files import write_json

MARKS = {True: "ok", False: "FAILED", None: "told"}


@dataclass(frozen=True)
class Finding:
    """`passed` None: told, and asked of nobody."""

    check: str
    passed: bool | None
    found: str


@dataclass
class Findings:
    """Everything found so far, kept in a file as well."""

    file: Path
    rows: list[Finding] = field(default_factory=list)

    def add(self, check: str, passed: bool | None, found: str) -> None:
        self.rows.append(Finding(check, passed, found))
        print(f"{MARKS[passed]:<6}  {check:<58}  {found}", flush=True)
        write_json(self.file, [asdict(row) for row in self.rows])

    @property
    def failed(self) -> list[str]:
        return [row.check for row in self.rows if row.passed is False]


def as_table(rows: Iterable[Finding]) -> str:
    """Markdown."""
    lines = [f"| {row.check} | {MARKS[row.passed]} | {row.found} |" for row in rows]
    return "\n".join(["| check | | found |", "|---|---|---|", *lines])
