"""Frozen dataclasses inside frozen dataclasses, to and from JSON files.

Every error of a file names it, the place inside and what is wrong there.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from eagle.files import read_json, write_json
from eagle.options import build
from eagle.typed import shown

Record = TypeVar("Record")


def write_record(path: Path, value: Any, format_number: int) -> None:
    """Replace the file in one step."""
    write_json(path, {"format": format_number, **dataclasses.asdict(value)})


def read_record(kind: type[Record], path: Path, format_number: int, remedy: str) -> Record:
    """Raises ValueError or OSError that names the file, the place in it and the remedy."""
    values = read_json(path, remedy)
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} is damaged, it holds no object: {remedy}")
    if (found := values.get("format")) != format_number:
        raise ValueError(f"{path} has format {found!r}, this version reads {format_number}: {remedy}")
    try:
        return from_plain(kind, {name: value for name, value in values.items() if name != "format"})
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {remedy}") from None


def from_plain(kind: type[Record], values: Any) -> Record:
    """A dataclass from what JSON gives back, inner ones too. Raises ValueError that names the place."""
    if not isinstance(values, Mapping):
        raise ValueError(f"expected a table of fields, found a {type(values).__name__}")
    hints = get_type_hints(kind)
    return build(kind, {name: _inner(str(name), hints.get(name), value) for name, value in values.items()})


def _inner(place: str, hint: Any, value: Any) -> Any:
    """The value with its tables made into the dataclasses that the type asks for; anything else as it is."""
    kind: Any = next((kind for kind in get_args(hint) if kind not in (NoneType, ...)), hint)
    if value is None or not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return value
    if get_origin(hint) is not tuple:
        return _named(place, kind, value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{place} is {shown(value)}, expected a list")
    return tuple(_named(f"{place}[{i}]", kind, one) for i, one in enumerate(value))


def _named(place: str, kind: type[Record], values: Any) -> Record:
    try:
        return from_plain(kind, values)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
