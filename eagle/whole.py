"""Whether a directory is still what was written: a list of its files, their sizes and contents, kept beside them."""

import hashlib
from pathlib import Path

from eagle.files import read_json, write_json

LIST = "files.json"


def list_files(directory: Path) -> None:
    """Write down what the directory holds, to be compared by `damage`."""
    write_json(directory / LIST, {name: [size, _digest(directory / name)] for name, size in _sizes(directory).items()})


def damage(directory: Path, contents: bool = True) -> str | None:
    """What is wrong with a directory that was listed; None where nothing is, or nothing was listed.

    contents=False compares names and sizes alone: it costs nothing and finds what is missing or cut.
    """
    if not (directory / LIST).is_file():
        return None
    try:
        known = read_json(directory / LIST)
        entries = [(str(name), int(size), str(digest)) for name, (size, digest) in known.items()]
    except (ValueError, TypeError, AttributeError):
        return f"{LIST} cannot be read"
    sizes = _sizes(directory)
    for name, size, digest in entries:
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} bytes of {size}"
        if contents and _digest(directory / name) != digest:
            return f"{name} has other contents than were written"
    return None


def _sizes(directory: Path) -> dict[str, int]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != LIST)
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
