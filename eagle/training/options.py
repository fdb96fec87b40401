"""Options of a command: a frozen dataclass, its defaults, a YAML file and flags, in rising order of precedence.

One field is one flag is one key. The help text of a field stands in its metadata: ``option(default, "what it does")``.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")


def option(default: Any, explanation: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": explanation})


def parse(kind: type[Config], description: str, argv: Sequence[str] | None = None) -> Config:
    """The command line as a ``kind``; wrong flags, keys and values end the program with one message."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, help="YAML file with any of the options below as keys")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        text = f"{field.metadata.get('help', '')} (default: {field.default})".replace("%", "%%")
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, help=text)
    flags = vars(parser.parse_args(argv))
    path = flags.pop("config")
    try:
        return build(kind, {**(read_yaml(path) if path else {}), **flags})
    except (ValueError, OSError) as error:
        parser.error(str(error))


def load(kind: type[Config], path: Path) -> Config:
    """The YAML file as a ``kind``."""
    return build(kind, read_yaml(path))


def read_yaml(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected 'key: value' lines, found a {type(values).__name__}")
    return values


def build(kind: type[Config], values: dict[str, Any]) -> Config:
    """A ``kind`` from plain values; refuses unknown keys and values of the wrong type, naming what would do."""
    hints = get_type_hints(kind)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}: known are {', '.join(hints)}")
    return kind(**{name: _convert(name, value, hints[name]) for name, value in values.items()})


def _convert(name: str, value: Any, hint: Any) -> Any:
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if NoneType in kinds and value in (None, "none"):
        return None
    wanted = next(kind for kind in kinds if kind is not NoneType)
    if wanted is bool:
        return _boolean(name, value)
    try:
        return wanted(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}, expected {wanted.__name__}") from None


def _boolean(name: str, value: Any) -> bool:
    words = {"true": True, "yes": True, "false": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError(f"{name} is {value!r}, expected true or false")
    return words[str(value).lower()]
