"""Values between the tests and a program arrive as what they equal, or as nothing at all."""

from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import numpy as np
import pytest

from evaluation.scoring.jail.plain import Opaque, dumps, is_plain, loads

Pair = namedtuple("Pair", "a b")


class Level(IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 10**100, 0.1, float("inf"), 1j, "é\u2028", "\ud800", b"\xff", [], [[1], (2,)], (), (1, [2]),
        {}, {1: "a", (1, 2): None}, {"tuple": [1]}, set(), {1, (2,)}, frozenset({1}), Fraction(1, 3), Decimal("1.10"),
    ],
)  # fmt: skip
def test_plain_values_arrive_as_they_were(value):
    arrived = loads(dumps(value))
    assert is_plain(value) and arrived == value and type(arrived) is type(value)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Counter("aab"), {"a": 2, "b": 1}), (OrderedDict(a=1), {"a": 1}), (Pair(1, 2), (1, 2)), (Level.LOW, 1),
        (np.int64(3), 3), (np.float32(0.5), 0.5), (np.bool_(True), True), ({1: 2}.keys(), {1}), (bytearray(b"a"), b"a"),
    ],
)  # fmt: skip
def test_others_arrive_as_what_they_equal(value, arrives):
    arrived = loads(dumps(value))
    assert arrived == arrives and type(arrived) is type(arrives)


def test_what_cannot_cross_equals_nothing():
    for value in (print, object(), map(abs, []), iter([]), np.zeros(2), type):
        assert isinstance(loads(dumps(value)), Opaque) and not is_plain(value) and not is_plain([{1: value}])


@pytest.mark.parametrize(
    "line",
    [
        b"", b"x", b"[1", b'{"tuple": 3}', b'{"other": []}', b'{"a": 1, "b": 2}', b"{}", b'{"set": [[]]}', b"\xff",
        b'{"bytes": "x"}', b'{"decimal": "x"}', b'{"fraction": "1/0"}', b"[" * 10**5, b'{"dict": [[1]]}',
    ],
)  # fmt: skip
def test_anything_else_is_no_message(line):
    with pytest.raises(ValueError):
        loads(line)
