"""Values on their way between the tests and the program, as JSON: numbers, text and what holds them, no code.

What equals a plain value in Python arrives as one: a `Counter` as a dict, a named tuple as a tuple, NumPy's numbers as
Python's. Everything else arrives as an object that equals nothing.
"""

import json
from collections.abc import Callable, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

MOST_BYTES = 32 << 20  # of a message


class Opaque:
    """Stands for a value that cannot cross."""


def dumps(value: Any) -> bytes:
    """One line. Raises ValueError or RecursionError for values that hold themselves."""
    return json.dumps(_encoded(value)).encode() + b"\n"


def loads(line: bytes) -> Any:
    """What `dumps` wrote; raises ValueError for anything else: the other side may be hostile."""
    try:
        return _decoded(json.loads(line))
    except (TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"no message: {error!r}") from None


def is_plain(value: Any) -> bool:
    """Whether a value arrives as what it is. What could not cross once is as little on its way back."""
    if isinstance(value, list | tuple | Set):
        return all(map(is_plain, value))
    if isinstance(value, Mapping):
        return all(is_plain(part) for pair in value.items() for part in pair)
    return value is None or isinstance(value, bool | int | float | str | bytes | complex | Decimal | Fraction | Opaque)


def _encoded(value: Any) -> Any:
    if value is None or isinstance(value, bool | str | int | float):
        return value
    if isinstance(value, list):
        return [_encoded(one) for one in value]
    return _tagged(_as_number(value))


def _tagged(value: Any) -> Any:
    """A pair of a name in `_FROM` and what it is made from."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, tuple):
        return {"tuple": [_encoded(one) for one in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(key), _encoded(one)] for key, one in value.items()]}
    if isinstance(value, Set):
        return {"frozenset" if isinstance(value, frozenset) else "set": [_encoded(one) for one in value]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex | Decimal | Fraction):
        return {type(value).__name__.lower(): str(value)}
    return {"opaque": type(value).__name__}


def _as_number(value: Any) -> Any:
    """NumPy's single values as Python's."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    if isinstance(value, Fraction | Decimal):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


_FROM: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda parts: tuple(map(_decoded, parts)),
    "dict": lambda pairs: {_decoded(key): _decoded(one) for key, one in pairs},
    "set": lambda parts: set(map(_decoded, parts)),
    "frozenset": lambda parts: frozenset(map(_decoded, parts)),
    "bytes": bytes.fromhex,
    "complex": complex,
    "decimal": Decimal,
    "fraction": Fraction,
    "opaque": lambda _name: Opaque(),
}


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    if isinstance(value, dict):
        ((name, content),) = value.items()
        return _FROM[name](content)
    return value
