"""Files that survive a kill: replaced in one step, appended line by line, claimed by what they were made with, and
written by one process at a time."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK, OWNER = ".lock", ".lock.owner"
WRITE_ERRORS = ("(os error ", "PytorchStreamWriter", "inline_container.cc")  # in messages of safetensors and torch


def cache_dir() -> Path:
    """Where converted models and measurements are kept: `EAGLE_HSD_CACHE`, or the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EAGLE_HSD_CACHE") or Path(base) / "eagle-hsd")


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process; makes it where there is none.

    Raises ValueError that names the process which holds it already. A killed process holds nothing: the operating
    system lets go of its lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        owner = directory / OWNER
        told = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "another process"
        raise ValueError(f"{directory} is being written by {told}: wait for it, or choose another --output") from None
    try:
        write_text(directory / OWNER, f"process {os.getpid()} on {socket.gethostname()} ({' '.join(sys.argv)[:200]})\n")
        yield
    finally:
        (directory / OWNER).unlink(missing_ok=True)
        lock.release()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there becomes `path` at the end, on disk and whole.

    Makes the folder where there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names `path` where nothing more can be written there: the system tells a full disk without it, and safetensors
    and torch tell it as errors of their own. All become an OSError."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, f"{error.strerror}: nothing more can be written there", str(path)) from error
    except Exception as error:
        if not any(words in str(error) for words in WRITE_ERRORS):
            raise
        raise OSError(f"nothing more can be written to {path}: {str(error)[:200]}") from error


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files and folders in `directory` (not below it) whose process was killed.

    Called by who holds the directory (`only_writer`): processes of another machine cannot be seen.
    """
    for path in directory.glob(".*.tmp"):
        process = path.name.split(".")[-2]
        if not process.isdigit() or _lives(int(process)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises ValueError or OSError that names it and what is wrong."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 (byte {error.start}): is it the right file?") from None


def read_json(path: Path, remedy: str = "restore it from a copy, or remove it and make it anew") -> Any:
    """The value in a file. Raises ValueError or OSError that names the file and the remedy."""
    text = read_text(path)
    if not text.strip("\0 \t\r\n"):
        raise ValueError(f"{path} is empty: {remedy}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, no JSON ({str(error)[:100]}): {remedy}") from None


class JsonLines:
    """A file of JSON values, one a line, with one writer and any number of readers.

    A kill may cut the last line. Readers leave it out, and the first `append` drops it: what is added next must not
    continue it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._is_whole = False  # whether the last line is known to have its end

    def lines(self) -> Iterator[str]:
        """The finished lines as text; none where there is no file. Raises ValueError that names one of other bytes."""
        if self.path.is_file():
            with self.path.open("rb") as file:  # bytes: a cut may lie inside a character
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield self._decoded(line, number)

    def read(self) -> Iterator[Any]:
        """The values of the finished lines. Raises ValueError that names file and line at one that is no JSON."""
        for number, line in enumerate(self.lines(), 1):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(self._damaged(number, str(error))) from None

    def append(self, *values: Any) -> None:
        """Add a line for every value; makes file and folder where there are none."""
        if not self._is_whole:
            self._drop_cut_line()
        self._is_whole = False  # until it is written: of a full disk's line a part may stand
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_as_lines(values))
        self._is_whole = True

    def replace(self, values: Iterable[Any]) -> None:
        """Put these values in place of what the file holds, in one step."""
        write_text(self.path, _as_lines(values))
        self._is_whole = True

    def _drop_cut_line(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        with self.path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        self._is_whole = True

    def _decoded(self, line: bytes, number: int) -> str:
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(self._damaged(number, f"no UTF-8: {error.reason}")) from None

    def _damaged(self, number: int, problem: str) -> str:
        return f"{self.path} is damaged at line {number} ({problem[:100]}): remove the line, or restore the file"


def _as_lines(values: Iterable[Any]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def claim(path: Path, identity: Mapping[str, Any], remedy: str) -> None:
    """Write at `path` what the files beside it are made with, or compare with what was written there before.

    Raises ValueError that names what differs, and the remedy: things made in two ways must not mix.
    """
    if not path.is_file():
        write_json(path, dict(identity))
    known = read_json(path)
    if not isinstance(known, dict):
        raise ValueError(f"{path} is damaged, it holds no object: restore it from a copy, or {remedy}")
    check_same(path.parent, known, identity, remedy)


def check_same(place: Path, known: Mapping[str, Any], wanted: Mapping[str, Any], remedy: str) -> None:
    """Raises ValueError where `wanted` is not what `place` was started with; a missing field is one that is None."""
    known, wanted = _as_stored(known), _as_stored(wanted)
    differing = sorted(name for name in known.keys() | wanted.keys() if known.get(name) != wanted.get(name))
    if differing:
        told = "; ".join(f"{name} was {known.get(name)!r}, is {wanted.get(name)!r}" for name in differing)
        raise ValueError(f"{place} was started with something else ({told}): {remedy}")


def _as_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: lists for tuples."""
    stored: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return stored
