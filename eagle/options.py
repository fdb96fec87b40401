"""Options of a command: a frozen dataclass, its defaults, a YAML file and flags, in rising order of precedence.

One field is one flag is one key. What is known of a field stands at its declaration: ``option(default, "what it does",
at_least=1)``; the dataclass calls ``check_options(self)`` at construction. A field of type ``tuple[..]`` takes several
values, one of type ``bool`` may stand without a value.
"""

import argparse
import dataclasses
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml

Config = TypeVar("Config")
DTYPES = ("bfloat16", "float16", "float32")  # of a target's weights
BOUNDS = {
    "at_least": ("at least", operator.ge),
    "above": ("larger than", operator.gt),
    "at_most": ("at most", operator.le),
}


@dataclass(frozen=True)
class Limits:
    """What a value must be; of an option with several values, each of them."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    choices: tuple[Any, ...] = ()
    each_once: bool = False  # of an option with several values: at least one, and none twice

    def told(self) -> Iterator[str]:
        """The bounds in words. Choices are told by the flag itself."""
        return (f"{BOUNDS[name][0]} {bound}" for name, bound in self._bounds())

    def check(self, value: Any, told: str) -> None:
        """Raises ValueError that opens with ``told`` and names the limit; nan fits no limit."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{told}, choose one of {', '.join(map(str, self.choices))}")
        if value != value:
            raise ValueError(f"{told}, it must be a number")
        for name, bound in self._bounds():
            words, holds = BOUNDS[name]
            if not holds(value, bound):
                raise ValueError(f"{told}, it must be {words} {bound}")

    def _bounds(self) -> Iterator[tuple[str, float]]:
        bounds = ((name, getattr(self, name)) for name in BOUNDS)
        return ((name, bound) for name, bound in bounds if bound is not None)


def option(default: Any, explanation: str, *, may_change: bool = False, **limits: Any) -> Any:
    """A field with its help text and its ``Limits``.

    may_change: what a run leaves does not depend on it, so that a later run on the same output may choose it anew.
    """
    notes = {"help": explanation, "may_change": may_change, "limits": Limits(**limits)}
    return dataclasses.field(default=default, metadata=notes)


def check_options(config: Any) -> None:
    """Raises ValueError for the first option outside its limits, with its value; None is always inside.

    Lists become tuples.
    """
    freeze_lists(config)
    for field in dataclasses.fields(config):
        limits, value = field.metadata.get("limits", Limits()), getattr(config, field.name)
        if limits.each_once and (not value or len(set(value)) < len(value)):
            raise ValueError(f"{field.name} is {list(value)}: name at least one, each once")
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                limits.check(one, f"{field.name} {'holds' if isinstance(value, tuple) else 'is'} {one!r}")


def freeze_lists(config: Any) -> None:
    """Lists among a dataclass's fields become tuples, inner ones too: YAML and JSON know only lists."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list | tuple):
            object.__setattr__(config, field.name, _frozen(value))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def identity(config: Any) -> dict[str, Any]:
    """The options that what a run leaves depends on: all but those that may change."""
    kept = [field.name for field in dataclasses.fields(config) if not field.metadata.get("may_change")]
    return {name: getattr(config, name) for name in kept}


class CommandParser(argparse.ArgumentParser):
    """Flags of one command; a wrong one ends the program with one line and exit code 2."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parse(
    kind: type[Config], description: str, argv: Sequence[str] | None = None, needs_file: bool = False, **fixed: Any
) -> Config:
    """The command line as a ``kind``; wrong flags, keys and values end the program with one message.

    The YAML file is the flag ``--config``, or with ``needs_file`` the command's argument. ``fixed`` goes over all else.
    """
    parser = CommandParser(description)
    name = "config" if needs_file else "--config"
    parser.add_argument(name, type=Path, help="YAML file with any of the options below as keys")
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, default=argparse.SUPPRESS, **_shown(field), **_shape(hints[field.name]))
    flags = vars(parser.parse_args(argv))
    path = flags.pop("config")
    try:
        return build(kind, {**(read_yaml(path) if path else {}), **flags, **fixed})
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _shown(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """The help text with bounds and default, and the choices in place of the value."""
    limits = field.metadata.get("limits", Limits())
    text = f"{field.metadata.get('help', '')} ({', '.join([*limits.told(), f'default: {field.default}'])})"
    shown = {"help": text.replace("%", "%%")}
    return shown | ({"metavar": f"{{{','.join(map(str, limits.choices))}}}"} if limits.choices else {})


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
    if wanted is int and isinstance(value, float) and not value.is_integer():
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
