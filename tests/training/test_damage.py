"""Runs whose files were damaged, moved or written twice: they go back to what is whole, or say what to do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eagle.files import only_writer, read_json
from eagle.training.log import METRICS, read_metrics
from eagle.training.run import train
from eagle.training.target_snapshot import TargetFacts
from tests.files import limited_to, read_only
from tests.training import runs


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 255
    path.write_bytes(data)


def states(output: Path) -> list[Path]:
    return sorted((output / "states").glob("step-*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run at its end, to be copied."""
    output = tmp_path_factory.mktemp("finished") / "run"
    runs.trained_head(runs.config(output, num_epochs=2), runs.setting())
    return output


DAMAGE = [
    ("model.safetensors", cut),
    ("model.safetensors", fill_with_zeros),
    ("model.safetensors", flip),
    ("model.safetensors", Path.unlink),
    ("optimizer.bin", cut),
    ("optimizer.bin", Path.unlink),
    ("optimizer.bin", fill_with_zeros),
    ("progress.json", cut),
    ("progress.json", fill_with_zeros),
    ("progress.json", Path.unlink),
    ("files.json", cut),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE, ids=[f"{damage.__name__} {name}" for name, damage in DAMAGE])
def test_a_damaged_state_is_set_aside_for_the_one_before(finished, tmp_path, capsys, name, damage):
    """The newest state cut by a full disk ended in a traceback of pickle, with a whole older one beside it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    older, newest = states(tmp_path)
    damage(newest / name)
    resumed = runs.trained_head(runs.config(tmp_path, num_epochs=2), runs.setting())
    told = [line for line in capsys.readouterr().out.replace("\n", " ").split("step-") if "is damaged" in line]
    assert len(told) == 1 and name in told[0]
    ended = load_file(finished / "states" / newest.name / "model.safetensors")
    assert torch.equal(resumed.lm_head.weight, ended["head.lm_head.weight"])
    assert [path.name for path in states(tmp_path)] == [older.name, newest.name]
    steps = [row["step"] for row in read_metrics(tmp_path / METRICS, "eval")]
    assert steps == sorted(set(steps))


def test_without_a_whole_state_the_files_are_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for state in states(tmp_path):
        cut(state / "optimizer.bin")
    with pytest.raises(
        ValueError, match=r"every state .*step-\d+: optimizer\.bin has .*; .*: restore .* or remove"
    ) as e:
        runs.trainer(runs.config(tmp_path, num_epochs=2), runs.setting())
    assert "\n" not in str(e.value) and all(str(state) in str(e.value) for state in states(tmp_path))


def test_a_state_of_before_there_were_lists_is_loaded_or_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    config, on = runs.config(tmp_path, num_epochs=2), runs.setting()
    for state in states(tmp_path):
        (state / "files.json").unlink()
    assert runs.trainer(config, on).progress.step == 4
    cut(states(tmp_path)[-1] / "model.safetensors")
    with pytest.raises(ValueError, match=r"step-00000004 cannot be loaded .*restore a state from a copy, or remove"):
        runs.trainer(config, on)


def test_a_resumed_run_has_every_row_once(tmp_path):
    """Rows of evaluations were doubled at every resume: 27 for 16."""
    on = runs.setting()
    for stop in (1, 3, 3, 4, None, None):
        runs.trained_head(runs.config(tmp_path), on, stop_after=stop)
    runs.trained_head(runs.config(tmp_path / "whole"), on)
    for kind in ("train", "eval"):
        steps = [
            [row["step"] for row in read_metrics(place / METRICS, kind)] for place in (tmp_path, tmp_path / "whole")
        ]
        assert set(steps[1]) <= set(steps[0]) and steps[0] == sorted(set(steps[0]))


def test_rows_and_files_that_a_kill_left_are_dropped(tmp_path):
    config, on = runs.config(tmp_path), runs.setting()
    runs.trained_head(config, on, stop_after=2)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"kind": "train", "step": 3, "loss": 1}\n{"kind": "eval", "st')
    (tmp_path / "states" / ".step-00000003.tmp").mkdir()
    runs.trained_head(config, on)
    assert [row["step"] for row in read_metrics(tmp_path / METRICS, "train")] == [1, 2, 3, 4, 5, 6]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("line", ["[1]", "{}", '{"kind": "eval", "step": "x"}', "oops"])
def test_metrics_of_something_else_are_named(tmp_path, line):
    (tmp_path / METRICS).write_text(line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        runs.trained_head(runs.config(tmp_path), runs.setting())


@pytest.fixture
def config(tmp_path):
    """A run as a command makes it, with target and data on disk."""
    return runs.config(tmp_path / "run", **runs.script_flags(tmp_path), max_steps=2)


def test_a_run_that_was_moved_or_is_named_otherwise_goes_on(config, tmp_path, monkeypatch):
    """Paths stood in run.json as they were typed: from another directory the same run was "something else"."""
    train(config)
    for name in ("run", "target", "features"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    shutil.move(tmp_path / "rows.jsonl", tmp_path / "elsewhere" / "rows.jsonl")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = {"output": "run", "target": "target", "features": "features", "data": "rows.jsonl"}
    train(runs.config(**{**vars(config), **moved}))
    with pytest.raises(ValueError, match=r"learning_rate was 0\.0005, is 0\.1"):
        train(runs.config(**{**vars(config), **moved, "learning_rate": 0.1}))


def test_other_contents_under_the_same_name_are_another_run(config, tmp_path):
    train(config)
    runs.save_rows(tmp_path / "rows.jsonl", 23)
    with pytest.raises(ValueError, match="1 conversations this run started with are gone"):
        train(config)
    runs.save_rows(tmp_path / "rows.jsonl", 24)
    runs.save_target(tmp_path / "target", seed=1)
    with pytest.raises(ValueError, match=r"features was started with something else .*weights_sha256"):
        train(config)
    with pytest.raises(ValueError, match="target_sha256"):
        train(runs.config(**{**vars(config), "features": None, "fill_features": False}))


def test_a_second_stage_is_told_from_another_one(config, tmp_path):
    train(config)
    second = {**vars(config), "output": str(tmp_path / "second"), "initial_head": str(tmp_path / "run" / "last")}
    train(runs.config(**second))
    shutil.copytree(tmp_path / "run" / "last", tmp_path / "copy")
    train(runs.config(**{**second, "initial_head": str(tmp_path / "copy")}))
    with pytest.raises(ValueError, match="initial_head_sha256"):
        train(runs.config(**{**second, "initial_head": str(tmp_path / "second" / "last")}))


def test_a_run_of_an_older_version_goes_on(config, tmp_path):
    """It wrote paths and no digests; what it did write is compared."""
    train(config)
    known = read_json(tmp_path / "run" / "run.json")
    old = {name: v for name, v in known.items() if name not in ("target_sha256", "vocabulary_sha256")}
    (tmp_path / "run" / "run.json").write_text(json.dumps(old | {"output": "elsewhere"}))
    train(config)


@pytest.mark.parametrize("name", ["run.json", "conversations.json"])
@pytest.mark.parametrize("content", ["", '["x", 7]'])
def test_damaged_settings_are_named(config, tmp_path, name, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as raised:
        train(config)
    assert "\n" not in str(raised.value)


def test_two_runs_do_not_write_to_one_directory(config, tmp_path):
    """Two processes on one output doubled every row and overwrote each other's states and shards."""
    for held in ("run", "features"):
        hold = "import sys; from pathlib import Path; from eagle.files import only_writer\n"
        hold += "with only_writer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", hold, str(tmp_path / held)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"{held} is being written by process {process.pid} "):
            train(config)
        process.communicate()
    train(config)


def test_stored_features_may_be_read_by_several_runs(config, tmp_path):
    train(config)
    with only_writer(tmp_path / "features"):
        train(runs.config(**{**vars(config), "output": str(tmp_path / "other"), "fill_features": False}))


@pytest.mark.parametrize("name", ["target.json", "target.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"name": 3}'])
def test_damaged_facts_beside_features_are_named(tmp_path, name, content):
    runs.setting().facts.save(tmp_path)
    TargetFacts.load(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"write the features to another directory, or restore") as raised:
        TargetFacts.load(tmp_path)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_killed_run_leaves_no_temporary_files(config, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    for place in ("run", "run/best", "features"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / f".model.safetensors.{process.pid}.tmp").touch()
    train(config)
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # tensorboard has a thread
@pytest.mark.parametrize("size", [0, 4_000, 20_000, 60_000])
def test_a_full_disk_is_one_line_that_names_a_place(tmp_path, size):
    """safetensors, torch and tensorboard have errors of their own for it, none an OSError with a path."""
    on = runs.setting()
    with pytest.raises(OSError) as raised, limited_to(size):
        runs.trained_head(runs.config(tmp_path), on)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)
    runs.trained_head(runs.config(tmp_path), on)  # and with room again it goes on


def test_an_output_that_cannot_be_made_is_named(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        train(runs.config(**{**vars(config), "output": str(tmp_path / "file" / "run")}))


def test_a_read_only_output_is_named(config, tmp_path, monkeypatch):
    read_only(tmp_path / "run", monkeypatch)
    with pytest.raises(PermissionError, match="run"):
        train(config)
