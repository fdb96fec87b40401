"""`eagle-hsd trees compare` on a tiny target: what it leaves, finds again, and refuses."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from eagle.files import JsonLines, only_writer
from evaluation.trees import compare
from evaluation.trees.contexts import Context
from evaluation.trees.shared import HeadSource
from tests.tiny import random_ids, tiny_head


@pytest.fixture
def start(target, tmp_path, monkeypatch):
    """Runs the command in a folder with four contexts and one arm; returns the directory of its rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "target_and_draft", lambda config: (target, HeadSource(tiny_head(target), target)))
    contexts = [Context(f"gsm8k/{n}/1/3", "gsm8k", str(n), 1.0, tuple(random_ids(9, n))) for n in range(4)]
    JsonLines(Path("contexts.jsonl")).append(*map(asdict, contexts))
    Path("arms.yaml").write_text("arms: {eagle: {depth: 2, top_k: 2}}\nbudgets: [4]\n")
    flags = ["--contexts", "contexts.jsonl", "--output", "out", "--arms", "arms.yaml", "--samplings", "1"]

    def run(*more: str) -> Path:
        compare.main([*flags, *more])
        (directory,) = (path.parent for path in Path("out").glob("*/table.csv"))
        return directory

    return run


def measured(directory: Path) -> list[str]:
    return [row["context"] for path in directory.glob("rows-*.jsonl") for row, *_ in JsonLines(path).read()]


def test_shards_are_measured_once_and_found_again_where_head_and_output_moved(start):
    directory = start("--head", "a/head", "--shard", "0/2")
    assert len(measured(directory)) == 2
    start("--head", "a/head", "--shard", "1/2")
    directory.rename(directory.with_name(directory.name.replace("head-", "renamed-")))
    moved = start("--head", "elsewhere/best")
    assert sorted(measured(moved)) == [f"gsm8k/{n}/1/3" for n in range(4)]
    assert (moved / "tau.png").stat().st_size > 1000 and list(moved.rglob("*.tmp")) == []


def test_two_writers_of_one_shard_are_refused_and_two_shards_are_not(start):
    directory = start("--shard", "0/2")
    with only_writer(directory / "writer-0-of-2"):
        with pytest.raises(ValueError, match="is being written by process"):
            start("--shard", "0/2")
        start("--shard", "1/2")


def test_a_report_of_nothing_says_so(start):
    with pytest.raises(FileNotFoundError, match=r"nothing has been measured in .*run without --report-only"):
        start("--report-only")


def test_damaged_rows_are_named(start):
    directory = start()
    with (directory / "rows-0-of-1.jsonl").open("a") as file:
        file.write(json.dumps([{"context": "a"}]) + "\n")
    with pytest.raises(ValueError, match=r"rows-0-of-1\.jsonl is damaged at line 5"):
        start()
