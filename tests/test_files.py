"""Files that survive a kill, and directories that remember what they were started with."""

import os
import subprocess
import sys

import pytest

from eagle.files import (
    JsonLines,
    atomic_file,
    check_same,
    claim,
    only_writer,
    read_json,
    remove_leftovers,
    write_json,
)
from tests.files import limited_to

ROWS = [{"id": "a"}, {"id": "é\u2028"}, [1, 2.5, None]]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "new" / "file", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "file", [{1}])
    assert read_json(tmp_path / "new" / "file") == [1]


def test_lines_are_read_as_they_were_written(tmp_path):
    lines = JsonLines(tmp_path / "new" / "rows.jsonl")
    assert list(lines.read()) == []
    lines.append(*ROWS[:2])
    lines.append(ROWS[2])
    assert list(JsonLines(lines.path).read()) == ROWS
    lines.replace(row for row in lines.read() if row != ROWS[1])
    lines.append("after")
    assert list(lines.read()) == [ROWS[0], ROWS[2], "after"]


@pytest.mark.parametrize("cut", [1, 2, 4, 12])
def test_a_cut_last_line_is_left_out_and_never_continued(tmp_path, cut):
    """Wherever a kill cut it, in the middle of a character too: what is appended next stands on a line of its own."""
    path = tmp_path / "rows.jsonl"
    JsonLines(path).append(*ROWS[:2])
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(JsonLines(path).read()) == ROWS[:1]
    JsonLines(path).append(ROWS[2])
    assert list(JsonLines(path).read()) == [ROWS[0], ROWS[2]]


def test_reading_does_not_touch_a_line_that_is_being_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("[1]\n[2")
    assert list(JsonLines(path).lines()) == ["[1]\n"]
    assert path.read_text() == "[1]\n[2"


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "rows.jsonl").write_text("[1]\n{oops\n[2]\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged at line 2 \(.*\): remove the line, or restore"):
        list(JsonLines(tmp_path / "rows.jsonl").read())


def test_bytes_that_are_no_text_are_an_error_of_their_line(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"[1]\n[2]\n\xff\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged at line 3 \(no UTF-8: invalid start byte\)"):
        list(JsonLines(tmp_path / "rows.jsonl").read())


DAMAGED = [(b"", "is empty"), (b"\0\0\0", "is empty"), (b'{"a": 1', "is damaged"), (b"\xff{}", "is no text in UTF-8")]


@pytest.mark.parametrize(("content", "message"), [*DAMAGED, (b"[" * 100_000, "is damaged")])
def test_a_damaged_json_file_is_named_with_a_remedy(tmp_path, content, message):
    """A power cut leaves files empty or full of zeros; the error said "Expecting value" and no file."""
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"run\.json {message}"):
        read_json(tmp_path / "run.json", "start anew")


def test_a_full_disk_is_told_with_the_file(tmp_path):
    """The system's own message names no file: ENOSPC comes from the write, not from the name."""
    for write in (lambda path: write_json(path, [0]), lambda path: JsonLines(path).append([0])):
        with pytest.raises(OSError, match=r"nothing more can be written there: '.*full\.json'"), limited_to(0):
            write(tmp_path / "full.json")
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]  # what lines were to be added to


def test_a_line_that_did_not_fit_is_not_continued(tmp_path):
    """Space came back while the run went on, and the next line was glued to half of the one before."""
    lines = JsonLines(tmp_path / "rows.jsonl")
    lines.append("first")
    with pytest.raises(OSError), limited_to(12):
        lines.append("second")
    lines.append("third")
    assert list(lines.read()) == ["first", "third"]


def test_temporary_files_of_dead_processes_are_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    mine, dead, other = f".a.json.{os.getpid()}.tmp", f".a.b.json.{process.pid}.tmp", ".notes.tmp"
    for name in (mine, dead, other, "a.json"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine, other, "a.json"}
    remove_leftovers(tmp_path / "missing")


def test_a_directory_is_claimed_once_and_names_every_difference(tmp_path):
    path, options = tmp_path / "run" / "run.json", {"seed": 0, "layers": (1, 2), "name": "a", "new": None}
    claim(path, options, "use another")
    claim(path, {**options, "layers": [1, 2]}, "use another")
    claim(path, {"seed": 0, "layers": (1, 2), "name": "a"}, "use another")
    with pytest.raises(
        ValueError, match=r"run was started with .* \(name was 'a', is 'b'; seed was 0, is 1\): use anot"
    ):
        claim(path, {**options, "seed": 1, "name": "b"}, "use another")
    with pytest.raises(ValueError, match="depth was None, is 3"):
        claim(path, {**options, "depth": 3}, "use another")
    with pytest.raises(ValueError, match=r"layers was \[1, 2\], is None"):
        claim(path, {"seed": 0, "name": "a"}, "use another")
    assert read_json(path) == {**options, "layers": [1, 2]}
    check_same(tmp_path, options, options, "use another")


def test_a_directory_has_one_writer_and_the_second_is_told_which(tmp_path):
    """Two runs on one output doubled every row. A process that was killed must hold nothing."""
    hold = "import sys, time; from pathlib import Path; from eagle.files import only_writer\n"
    hold += "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    told = f"written by process {process.pid} on .*choose another --output"
    with pytest.raises(ValueError, match=told), only_writer(tmp_path):
        pass
    process.kill()
    process.wait()
    with only_writer(tmp_path):
        pass
