"""Files of prompts in every form that people have: what is good is loaded, what is not is counted."""

import bz2
import gzip
import json
import lzma
from collections import Counter

import pytest

from eagle.data.prompt_files import Damaged, json_values, read_rows
from eagle.data.prompts import load_conversations

ROWS = [{"id": str(number), "prompt": f"Frage\u2028{number} ä"} for number in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
PRETTY = "\n".join(json.dumps(row, indent=2) for row in ROWS)
ROW_BY_ROW = "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]"


def write(path, content: str | bytes):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path) -> tuple[list[str], Counter]:
    skipped = Counter()
    return [conversation.id for conversation in load_conversations(str(path), "train", skipped)], skipped


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.replace("\n", "\r\n"),
        LINES.replace("\n", "\n\n") + "  \n",
        "\ufeff" + LINES,
        LINES.replace("\n", "\n\ufeff", 1),
        LINES.rstrip("\n"),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        "\ufeff\n " + json.dumps(ROWS, indent=4) + "\n\n",
        ROW_BY_ROW,
        PRETTY,
        LINES.encode("utf-16"),
        json.dumps(ROWS).encode("utf-32"),
        gzip.compress(LINES.encode(), mtime=0),
        gzip.compress(LINES[:90].encode(), mtime=0) + gzip.compress(LINES[90:].encode(), mtime=0),
        gzip.compress(json.dumps(ROWS).encode(), mtime=0),
    ],
)
@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "P.JSONL", "p.jsonl.gz", "prompts"])
def test_whole_files_are_read_whole_whatever_their_name(tmp_path, name, content):
    """A .json of lines gave the first row, a .jsonl of an array none, and a BOM, a blank line or .JSONL a refusal."""
    assert load(write(tmp_path / name, content)) == ([row["id"] for row in ROWS], {})


def test_parquet_is_read(tmp_path):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{"id": str(i), "messages": [{"role": "user", "content": f"Say {i}"}]} for i in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "p.PARQUET")
    assert load(tmp_path / "p.PARQUET") == (["0", "1", "2"], {})
    write(tmp_path / "cut.parquet", (tmp_path / "p.PARQUET").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut\.parquet cannot be read as parquet \(.*\): is it whole"):
        load(tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("content", "ids", "reasons"),
    [
        (json.dumps(ROWS)[:100], "01", {"the JSON breaks off: what follows is lost": 1}),
        (json.dumps(ROWS, indent=1)[:130], "01", {"the JSON breaks off: what follows is lost": 1}),
        (json.dumps(ROWS[:2])[:-1], "01", {"the JSON array has no end: what follows is lost": 1}),
        (ROW_BY_ROW.replace('"id": "1"', '"id": 1"'), "0234", {"a value is not JSON": 1}),
        (json.dumps(ROWS, indent=2).replace('"id": "3"', '"id": 3"'), "0124", {"a value is not JSON": 1}),
        (PRETTY.replace('"id": "1"', '"id": 1"'), "0234", {"a value is not JSON": 1}),
        (LINES.replace('"id": "0"', '"id": 0"').replace('"id": "3"', '"id": 3"'), "124", {"a line is not JSON": 2}),
        (LINES[:-4], "0123", {"a line is not JSON": 1}),
        ("oops\n" + LINES, "01234", {"a line is not JSON": 1}),
        ("[oops\n" + LINES, "01234", {"a value is not JSON": 1, "the JSON array has no end: what follows is lost": 1}),
        (LINES + "[" * 100000 + "\n" + "9" * 5000 + "\n", "01234", {"a line is not JSON": 2}),
        (
            gzip.compress(LINES.encode(), mtime=0)[:-12],
            None,
            {"the compressed file breaks off: what follows is lost": 1},
        ),
    ],
)
def test_damaged_files_give_what_is_good_and_count_the_rest(tmp_path, content, ids, reasons):
    """A truncated array of five loaded two without a word."""
    found, skipped = load(write(tmp_path / "p.json", content))
    if ids is None:
        assert set(found) <= set("01234") and reasons.items() <= skipped.items()
    else:
        assert (found, skipped) == (list(ids), reasons)


def test_another_encoding_costs_only_the_rows_that_use_it(tmp_path):
    rows = [{"id": "a", "prompt": "plain"}, {"id": "b", "prompt": "\xe4"}, {"id": "c", "prompt": "more"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    found, skipped = load(write(tmp_path / "p.jsonl", text.encode("latin-1")))
    assert found == ["a", "c"] and "bytes that are not UTF-8" in str(skipped)


def test_a_lone_surrogate_costs_its_row(tmp_path):
    r"""JSON may hold half of a character, "\ud800"; hashing or tokenising it ended in a traceback."""
    found, skipped = load(write(tmp_path / "p.jsonl", LINES + '{"id": "x", "prompt": "\\ud800"}\n'))
    assert found == list("01234") and "half a character" in str(skipped)


def test_lines_of_lists_are_conversations():
    turns = [{"role": "user", "content": "Hi"}]
    assert list(json_values("\n".join([json.dumps(turns)] * 2))) == [turns, turns]
    assert list(json_values(json.dumps([turns, turns]))) == [turns, turns]


@pytest.mark.parametrize("content", ["", "  \n", "[]", "Hello\nyou", "a,b\n1,2\n", b"\x00\x01\x02", b"\x1f\x8boops"])
def test_what_holds_nothing_gives_nothing_but_reasons(tmp_path, content):
    rows = list(read_rows(write(tmp_path / "p", content)))
    assert all(isinstance(row, Damaged) for row in rows)


@pytest.mark.parametrize(("pack", "form"), [(bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_other_packings_are_named(tmp_path, pack, form):
    with pytest.raises(ValueError, match=rf"p\.jsonl is in the form of {form}: unpack it"):
        load(write(tmp_path / "p.jsonl", pack(LINES.encode())))


def test_a_directory_is_refused_and_told_what_it_holds(tmp_path):
    write(tmp_path / "a.jsonl", LINES)
    with pytest.raises(IsADirectoryError, match=r"is a directory: name one file of prompts, as .*a\.jsonl"):
        load(tmp_path)
