"""Files that survive a kill, and directories that remember what they were started with."""

import json
import subprocess
import sys

import pytest

from eagle.files import JsonLines, atomic_file, check_same, claim, only_writer, read_json, write_json

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
    with pytest.raises(json.JSONDecodeError):
        list(JsonLines(tmp_path / "rows.jsonl").read())


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
