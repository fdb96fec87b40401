"""Reading conversations: both layouts, cut files, and a named reason for all that cannot be used."""

import json
from collections import Counter

import pytest

from eagle.data.prompts import (
    Conversation,
    decode_array,
    load_conversations,
    parse_conversation,
    without_duplicates,
)
from eagle.packages import PackagedFile


def sharegpt(*turns: str, id: str = "a") -> dict:
    speakers = ["human", "gpt"] * len(turns)
    return {"id": id, "conversations": [{"from": s, "value": t} for s, t in zip(speakers, turns, strict=False)]}


def test_both_layouts_give_the_same_conversation():
    openai = {
        "id": "a",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ],
    }
    assert parse_conversation(sharegpt("Hi", "Hello"), "x", 0) == parse_conversation(openai, "x", 0)
    assert parse_conversation(openai, "x", 0).user_turns == ["Hi"]
    assert parse_conversation(openai, "x", 0).answers == ["Hello"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "no turns"),
        ({"id": "a", "conversations": []}, "no turns"),
        ({"conversations": ["Hi"]}, "not an object"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}]}, "does not open with a user turn"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "unknown role 'tool'"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "an empty turn"),
        ({"messages": [{"role": "user", "content": None}]}, "an empty turn"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "do not alternate"),
    ],
)
def test_bad_rows_name_their_reason(row, reason):
    with pytest.raises(ValueError, match=reason):
        parse_conversation(row, "x", 0)


def test_a_cut_array_gives_what_stands_before_the_cut():
    """The packaged file ends in the middle of an object."""
    text = json.dumps([{"id": 1}, {"id": 2}, {"id": 3}], indent=1)
    assert list(decode_array(text[: text.rindex("3")])) == [{"id": 1}, {"id": 2}]


def test_a_file_is_read_and_its_bad_rows_counted(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [sharegpt("Hi", "Hello"), {"conversations": []}, {"messages": [{"role": "user", "content": "Yo"}]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    skipped = Counter()
    found = list(load_conversations(str(path), "train", skipped))
    assert [(c.id, c.source) for c in found] == [("a", "mine.jsonl"), ("mine.jsonl-2", "mine.jsonl")]
    assert skipped == {"no turns under 'conversations' or 'messages'": 1}


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(sharegpt("Hi")) + "\n{oops\n")
    with pytest.raises(ValueError, match=r"mine\.jsonl line 2 is not JSON"):
        list(load_conversations(str(path), "train", Counter()))


def test_duplicates_are_dropped_by_id_and_by_text():
    def one(id: str, text: str) -> Conversation:
        return parse_conversation(sharegpt(text, "answer", id=id), "x", 0)

    skipped = Counter()
    kept = list(without_duplicates([one("a", "Hi you"), one("a", "else"), one("b", "hi  YOU"), one("c", "x")], skipped))
    assert [c.id for c in kept] == ["a", "c"]
    assert skipped == {"duplicate id": 1, "duplicate user turns": 1}


def test_a_missing_package_is_named_with_its_command():
    with pytest.raises(FileNotFoundError, match=r"run `pip install --no-deps no-such-package==1\.0`"):
        PackagedFile("no-such-package", "1.0", "data.json", "--no-deps").path()
    with pytest.raises(FileNotFoundError, match=r"package pytest has no file nowhere\.json"):
        PackagedFile("pytest", "1.0", "nowhere.json").path()
