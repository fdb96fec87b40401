"""Options of a command: a frozen dataclass, its defaults, a YAML file and flags, in rising order of precedence.

One field is one flag is one key. What is known of a field stands at its declaration: ``option(default, "what it does",
at_least=1)``; the dataclass calls ``check_options(self)`` at construction. A field of type ``tuple[..]`` takes several
values, one of type ``bool`` may stand without a value.
"""

import argparse
import dataclasses
import difflib
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin, get_type_hints

from eagle.typed import conform, frozen, leaves, read_word, shown
from eagle.yaml_file import read_yaml

Config = TypeVar("Config")
DTYPES = ("bfloat16", "float16", "float32")  # of a target's weights
BOUNDS = {
    "at_least": ("at least", operator.ge),
    "above": ("larger than", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("smaller than", operator.lt),
}


@dataclass(frozen=True)
class Limits:
    """What a value must be; of an option with several values, each of them."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    each_once: bool = False  # of an option with several values: at least one, and none twice
    may_be_empty: bool = False  # of text: by default it must say something

    def told(self) -> Iterator[str]:
        """The bounds in words. Choices are told by the flag itself."""
        return (f"{BOUNDS[name][0]} {bound}" for name, bound in self._bounds())

    def check(self, value: Any, told: str) -> None:
        """Raises ValueError that opens with ``told`` and names the limit; nan and infinity are inside of none."""
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{told}, it must be a {'number' if math.isnan(value) else 'finite number'}")
        if self.choices and value not in self.choices:
            raise ValueError(f"{told}, choose one of {', '.join(map(str, self.choices))}")
        if isinstance(value, str | Path) and not str(value).strip() and not self.may_be_empty:
            raise ValueError(f"{told}, it must not be empty: leave the option out for its default")
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
    """Every field as its type has it (see `eagle.typed`) and inside its limits; None only where the type says so.

    For any frozen dataclass, at construction. Raises ValueError for the first field that is not, with its value.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = check_option(field, getattr(config, field.name), hints[field.name])
        object.__setattr__(config, field.name, value)


def check_option(field: dataclasses.Field[Any], value: Any, hint: Any) -> Any:
    """The value as ``hint`` has it. Raises ValueError where it is of another type, or outside its limits."""
    value = conform(field.name, value, hint)
    limits: Limits = field.metadata.get("limits", Limits())
    if limits.each_once and (not value or len(set(value)) < len(value)):
        raise ValueError(f"{field.name} is {shown(list(value))}: name at least one, each once")
    for one in leaves(value):
        if one is not None:
            limits.check(one, f"{field.name} {'holds' if isinstance(value, tuple) else 'is'} {shown(one)}")
    return value


def freeze_lists(config: Any) -> None:
    """Lists among a dataclass's fields become tuples, inner ones too: YAML and JSON know only lists."""
    for field in dataclasses.fields(config):
        object.__setattr__(config, field.name, frozen(getattr(config, field.name)))


def identity(config: Any) -> dict[str, Any]:
    """The options that what a run leaves depends on: all but those that may change."""
    kept = [field.name for field in dataclasses.fields(config) if not field.metadata.get("may_change")]
    return {name: getattr(config, name) for name in kept}


class CommandParser(argparse.ArgumentParser):
    """Flags of one command; a wrong one ends the program with one line and exit code 2."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """One line; an unknown flag is told which known one it may be."""
        head, _, words = message.partition("unrecognized arguments: ")
        if not head and words:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            message += did_you_mean(words.split()[0].partition("=")[0], flags)
        self.exit(2, f"error: {' '.join(message.split())}\n")


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
    words = vars(parser.parse_args(argv))
    path = words.pop("config")
    flags = {name: read_word(word, hints[name]) for name, word in words.items()}
    try:
        return build(kind, {**(checked_file(kind, path) if path else {}), **flags, **fixed})
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
        return {"nargs": "+", "action": "extend"}  # `--level A --level B` as `--level A B`
    return {"nargs": "?", "const": True} if hint is bool else {}


def load(kind: type[Config], path: str | Path, **over: Any) -> Config:
    """The YAML file as a ``kind``, with ``over`` put over it."""
    return build(kind, {**checked_file(kind, Path(path)), **over})


def checked_file(kind: type[Config], path: Path) -> dict[str, Any]:
    """The values of a YAML file. Raises ValueError that names file and field, OSError where it cannot be read."""
    try:
        return checked_values(kind, read_yaml(path))
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def build(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A ``kind`` from plain values; refuses missing and unknown keys and values of the wrong type, naming all.

    For any dataclass, whether its fields are options or not.
    """
    checked = checked_values(kind, values)
    required = [field.name for field in dataclasses.fields(kind) if _is_required(field)]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in checked]:
        raise ValueError(f"missing {', '.join(missing)}")
    return kind(**checked)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def checked_values(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the fields of ``kind`` have them. Raises ValueError for the first that is not, or is unknown."""
    if not isinstance(values, Mapping):
        raise ValueError(f"expected a table of fields, found a {type(values).__name__}")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := [str(name) for name in values if name not in fields]:
        told = f"known are {', '.join(fields)}{did_you_mean(unknown[0], fields)}"
        raise ValueError(f"unknown option {', '.join(unknown)[:200]}: {told}")
    return {name: check_option(fields[name], value, hints[name]) for name, value in values.items()}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message: a question with the nearest known name, nothing where none is near."""
    near = difflib.get_close_matches(name.lower(), list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""
