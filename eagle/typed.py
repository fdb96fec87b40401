"""Values of the type that a field declares: given as YAML, JSON and Python have them, or as words of a command line.

Nothing is guessed: true is no number, 1.0 no whole one and "3" no 3. Two things are taken for another, because files
know no better: a whole number where a float is wanted, and a list (or a single value) where a tuple is. The word "none"
is None where the type has it.
"""

import math
import reprlib
from collections.abc import Iterator
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

LARGEST = 2**63 - 1  # what torch and numpy take
EXPECTED = {bool: "true or false", str: "text", Path: "a path"}
YES_OR_NO = {"true": True, "yes": True, "false": False, "no": False}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def shown(value: Any) -> str:
    """A value in a message: short, whatever it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def conform(name: str, value: Any, hint: Any) -> Any:
    """The value as the type `hint` has it. Raises ValueError that names the field, the value and what would do."""
    if get_origin(hint) is tuple:
        return _conform_all(name, value, get_args(hint))
    kinds = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    if NoneType in kinds and (value is None or (isinstance(value, str) and value == "none")):
        return None
    if len(wanted := [kind for kind in kinds if kind is not NoneType]) > 1:
        return value  # of several types no field of options is
    if get_origin(wanted[0]) is tuple:
        return _conform_all(name, value, get_args(wanted[0]))
    return _conform_one(name, value, wanted[0])


def read_word(word: Any, hint: Any) -> Any:
    """A word of the command line as a value of the type; a word that is none stays text, and `conform` refuses it."""
    if isinstance(word, list):
        return [read_word(one, get_args(hint)[0]) for one in word]
    kinds = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    if bool in kinds:
        return YES_OR_NO.get(str(word).lower(), word)
    for kind in kinds:
        if kind in (int, float):
            try:
                return kind(word)
            except ValueError:
                return word
    return word


def _conform_all(name: str, value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tuple of any length (`tuple[int, ...]`), or of as many values as there are types."""
    values = value if isinstance(value, list | tuple) else (value,)
    if hints[-1] is not ... and len(values) != len(hints):
        raise ValueError(f"{name} is {shown(value)}, expected {len(hints)} values")
    kinds = hints[:1] * len(values) if hints[-1] is ... else hints
    return tuple(conform(name, one, kind) for one, kind in zip(values, kinds, strict=True))


def _conform_one(name: str, value: Any, kind: Any) -> Any:
    if kind is int:
        return _whole(name, value)
    if kind is float:
        return _number(name, value)
    if kind is str:
        return _text(name, value)
    if kind is Path and isinstance(value, str):
        return Path(_text(name, value))
    origin, value = get_origin(kind) or kind, frozen(value)
    if isinstance(origin, type) and not isinstance(value, origin):
        expected = EXPECTED.get(kind, getattr(origin, "__name__", str(kind)))
        raise ValueError(f"{name} is {shown(value)}, expected {expected}")
    return value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, float):
        remedy = f": write {int(value)}" if value.is_integer() and abs(value) <= LARGEST else ""
        raise ValueError(f"{name} is {shown(value)}, expected a whole number{remedy}")
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} is {shown(value)}, expected int, a whole number{_unquote(value)}")
    whole = int(value)
    if abs(whole) > LARGEST:
        raise ValueError(f"{name} is {shown(whole)}, it must fit 64 bits: at most {LARGEST}")
    return whole


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise ValueError(f"{name} is {shown(value)}, expected float, a number{_unquote(value)}")
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"{name} is {shown(value)}, expected float, a number below 1e308") from None


def _text(name: str, value: Any) -> str:
    text = str(value) if isinstance(value, PurePath) else value
    if not isinstance(text, str):
        raise ValueError(f"{name} is {shown(value)}, expected text{_quote(value)}")
    if "\0" in text:
        raise ValueError(f"{name} is {shown(text)}, it must not hold the character 0")
    return text


def _unquote(value: Any) -> str:
    """The remedy for a number that was written as text."""
    try:
        return f": write {value} without quotes" if isinstance(value, str) and math.isfinite(float(value)) else ""
    except ValueError:
        return ""


def _quote(value: Any) -> str:
    return "" if value is None or isinstance(value, dict | list | tuple) else ": put it in quotes if it is meant"


def frozen(value: Any) -> Any:
    """Lists as tuples, inner ones too."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def leaves(value: Any) -> Iterator[Any]:
    """The values of a tuple, of inner ones too; of anything else itself."""
    if isinstance(value, tuple):
        for one in value:
            yield from leaves(one)
    else:
        yield value
