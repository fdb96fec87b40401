"""Options of a command: a frozen dataclass, its defaults, a YAML file and flags, in rising order of precedence.

One field is one flag is one key. The help text of a field stands in its metadata: ``option(default, "what it does")``.
A field of type ``tuple[..]`` takes several values, one of type ``bool`` may stand without a value.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")


def option(default: Any, explanation: str, **notes: Any) -> Any:
    """A field with its help text; `notes` is kept in its metadata."""
    return dataclasses.field(default=default, metadata={"help": explanation, **notes})


def parse(
    kind: type[Config], description: str, argv: Sequence[str] | None = None, needs_file: bool = False, **fixed: Any
) -> Config:
    """The command line as a ``kind``; wrong flags, keys and values end the program with one message.

    The YAML file is the flag ``--config``, or with ``needs_file`` the command's argument. ``fixed`` goes over all else.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    name = "config" if needs_file else "--config"
    parser.add_argument(name, type=Path, help="YAML file with any of the options below as keys")
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        text = f"{field.metadata.get('help', '')} (default: {field.default})".replace("%", "%%")
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, default=argparse.SUPPRESS, help=text, **_shape(hints[field.name]))
    flags = vars(parser.parse_args(argv))
    path = flags.pop("config")
    try:
        return build(kind, {**(read_yaml(path) if path else {}), **flags, **fixed})
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _shape(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is tuple:
        return {"nargs": "+"}
    return {"nargs": "?", "const": True} if hint is bool else {}


def load(kind: type[Config], path: str | Path, **over: Any) -> Config:
    """The YAML file as a ``kind``, with ``over`` put over it."""
    return build(kind, {**read_yaml(Path(path)), **over})


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
    if get_origin(hint) is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(name, one, get_args(hint)[0]) for one in values)
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if NoneType in kinds and value in (None, "none"):
        return None
    wanted = next(kind for kind in kinds if kind is not NoneType)
    if wanted is bool:
        return _boolean(name, value)
    if wanted is int and isinstance(value, float) and value != int(value):
        raise ValueError(f"{name} is {value!r}, expected a whole number")
    try:
        return wanted(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}, expected {wanted.__name__}") from None


def _boolean(name: str, value: Any) -> bool:
    words = {"true": True, "yes": True, "false": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError(f"{name} is {value!r}, expected true or false")
    return words[str(value).lower()]
