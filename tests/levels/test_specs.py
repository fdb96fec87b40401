"""Levels as text."""

import pytest

from eagle.hierarchy.renewal import Level
from eagle.levels.building import hand_made
from eagle.levels.specs import LookupSpec, ModelSpec, parse_level, parse_levels


def test_a_model_a_copy_and_a_lookup():
    assert parse_level("small=org/id:buffer=6,head=runs/h") == ModelSpec("small", "org/id", buffer=6, head="runs/h")
    assert parse_level("small=C:/models,old/m.gguf,head=h") == ModelSpec("small", "C:/models,old/m.gguf", head="h")
    assert parse_level("small=id:nodes=4+8") == ModelSpec("small", "id", nodes=(4, 8))
    assert parse_level("copy=int8") == ModelSpec("copy-int8", precision="int8")
    assert parse_level("lookup") == LookupSpec()
    assert parse_level("lookup:buffer=5,most=3") == LookupSpec(5, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "write NAME=SOURCE"),
        ("small=", "write NAME=SOURCE"),
        ("target=id", "called 'target'"),
        ("a b=id", "called 'a b'"),
        ("copy=int3", "choose one of int8"),
        ("small=id:buffer=0", "buffer is 0, it must be at least 1"),
        ("small=id:buffer=x", "buffer is 'x'"),
        ("small=id:buffers=3", "unknown field buffers: known are buffer, head, nodes"),
        ("small=id:buffer=3,buffer=4", "twice"),
        ("lookup:head=x", "unknown field head"),
    ],
)
def test_what_is_no_level_is_told_with_its_text(text, told):
    with pytest.raises(ValueError, match=told) as raised:
        parse_level(text)
    assert str(raised.value).startswith(f"level '{text}':")


def test_two_levels_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two levels are called 'small'"):
        parse_levels(["small=a", "small=b"])


def test_levels_by_hand_stand_on_each_other_largest_first():
    levels = hand_made(("mid=b:buffer=8", "small=c:buffer=4,head=d"))
    assert [one.name for one in levels] == ["small.head", "small", "mid"]
    assert levels[1:] == (Level("small", 4), Level("mid", 8))
    assert hand_made(("small=c", "lookup:buffer=5")) == (Level("lookup", 5), Level("small", 8))
    assert [one.name for one in hand_made(("copy=int8",), with_head=True)] == ["copy-int8.head", "copy-int8"]
    assert hand_made(("copy=int8",)) == (Level("copy-int8", 8),)
    assert hand_made(("small=c:head=d",), beside=True)[0].name == "small.head+lookup"
    with pytest.raises(ValueError, match="stands beside a head"):
        hand_made(("small=c",), beside=True)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ((), "no level is named"),
        (("lookup", "small=c"), "it can only be the last"),
        (("mid=b:head=d", "small=c"), "the head of mid is of no use"),
    ],
)
def test_levels_that_cannot_stand_on_each_other_are_refused(texts, told):
    with pytest.raises(ValueError, match=told):
        hand_made(texts)
