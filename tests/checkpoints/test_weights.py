"""Files of a head as they come: in shards, under other names, cut, damaged, or something else altogether."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from eagle.checkpoints.conversion import convert
from eagle.checkpoints.flat import open_head, save_head
from eagle.checkpoints.weights import CONFIG, OLD_WEIGHTS, WEIGHTS
from tests.tiny import tiny_head

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258\nsize 9\n"
)
INDEX = f"{WEIGHTS}.index.json"


@pytest.fixture
def directory(tmp_path, target):
    return save_head(tiny_head(target), tmp_path / "head")


def shard(directory, old=False):
    """Divide the weights into two files with an index; returns the index."""
    state = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    end, write = (OLD_WEIGHTS, torch.save) if old else (WEIGHTS, save_file)
    places = {}
    for number, names in enumerate((sorted(state)[::2], sorted(state)[1::2]), start=1):
        file = f"-0000{number}-of-00002.".join(end.rsplit(".", 1))
        write({name: state[name] for name in names}, directory / file)
        places |= dict.fromkeys(names, file)
    index = directory / f"{end}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def refusal(directory, target=None, kind=ValueError):
    with pytest.raises(kind) as caught:
        open_head(directory, target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("old", [False, True])
def test_shards_are_read_like_one_file(directory, target, old):
    whole = open_head(directory, target).state_dict()
    shard(directory, old)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in open_head(directory, target).state_dict().items())


def test_incomplete_shards_are_named(directory):
    index = shard(directory)
    second = directory / "model-00002-of-00002.safetensors"
    content = second.read_bytes()
    second.unlink()
    assert "model-00002-of-00002.safetensors is missing" in refusal(directory, kind=FileNotFoundError)
    second.write_bytes(content[:-50])
    assert "model-00002-of-00002.safetensors is no whole safetensors file" in refusal(directory)
    second.write_bytes(POINTER)
    assert "model-00002-of-00002.safetensors is a git-lfs pointer" in refusal(directory)
    save_file({"other": torch.ones(1)}, second)
    assert "which its files do not hold: fetch them again" in refusal(directory)
    for places in ({}, 5, {"fc.weight": 5}, {"fc.weight": "../head.safetensors"}, None):
        index.write_text(json.dumps({"weight_map": places}))
        assert f"{INDEX} has no weight_map" in refusal(directory)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, OLD_WEIGHTS])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (POINTER, "is a git-lfs pointer, not the file itself: run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"", "is empty: fetch it again"),
    ],
)
def test_files_that_are_something_else_are_told(directory, name, content, told):
    if name == OLD_WEIGHTS:
        (directory / WEIGHTS).unlink()
    (directory / name).write_bytes(content)
    assert f"{name} {told}" in refusal(directory)


@pytest.mark.parametrize("length", [4, 100, 5000, -1])
def test_a_file_that_was_cut_is_told(directory, length):
    whole = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(whole[:length])
    assert "model.safetensors is no whole safetensors file, it was cut short or damaged" in refusal(directory)
    state = load_file_of(whole, directory)
    (directory / WEIGHTS).unlink()
    torch.save(state, directory / OLD_WEIGHTS)
    (directory / OLD_WEIGHTS).write_bytes((directory / OLD_WEIGHTS).read_bytes()[:length])
    assert "pytorch_model.bin" in refusal(directory)


def load_file_of(content, directory):
    (directory / "whole").write_bytes(content)
    return load_file(directory / "whole")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_is_told_and_never_run(directory):
    state = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()  # the tensors lie in the file: it must not be written over
    torch.save(state, directory / WEIGHTS)
    assert "model.safetensors is a pickle (torch.save)" in refusal(directory)
    (directory / WEIGHTS).unlink()
    save_file(state, directory / OLD_WEIGHTS)
    assert "is no file of torch.save: a safetensors file is named model.safetensors" in refusal(directory)
    (directory / OLD_WEIGHTS).write_bytes(pickle.dumps(Spy()))
    assert "pytorch_model.bin" in refusal(directory) and not Spy.was_run
    torch.save({"state_dict": state}, directory / OLD_WEIGHTS)
    assert "holds no plain names and tensors" in refusal(directory)


def test_a_length_that_reads_like_a_pickle_is_none(directory, target):
    """Safetensors begin with the length of their header: 1408 bytes begin as a pickle of protocol 5 does."""
    content, length = (directory / WEIGHTS).read_bytes(), 0x0580
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].ljust(length)
    assert len(header) == length
    (directory / WEIGHTS).write_bytes(length.to_bytes(8, "little") + header + content[8 + size :])
    open_head(directory, target)


class Spy:
    was_run = False

    def __reduce__(self):
        return setattr, (Spy, "was_run", True)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.ones(32, 96, dtype=torch.int64), "fc.weight is of type int64"),
        (torch.ones(32, 96, dtype=torch.bool), "fc.weight is of type bool"),
        (torch.ones(32, 96, dtype=torch.complex64), "fc.weight is of type complex64"),
        (torch.ones(32, 96).to(torch.float8_e4m3fn), "fc.weight is of type float8_e4m3fn"),
        (torch.full((32, 96), float("nan")), "fc.weight holds NaN or infinite numbers"),
        (torch.full((32, 96), float("inf")), "fc.weight holds NaN or infinite numbers"),
        (torch.ones(()), r"fc.weight has shape ()"),
        (torch.ones(32, 32, 3), r"fc.weight has shape (32, 32, 3)"),
        (torch.ones(32, 99), r"fc.weight has shape (32, 99)"),
    ],
)
def test_weights_that_are_none_are_refused(directory, target, tensor, told):
    """Whole numbers, truth values and NaN loaded: drafts of a head that computes nothing."""
    save_file(load_file(directory / WEIGHTS) | {"fc.weight": tensor}, directory / WEIGHTS)
    assert told in refusal(directory, target)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("d2t", torch.zeros(50)),
        ("d2t", torch.zeros(50, dtype=torch.bool)),
        ("d2t", torch.zeros(5, 10, dtype=torch.int64)),
        ("d2t", torch.full((50,), 2**62)),
        ("d2t", torch.full((50,), -1)),
        ("t2d", torch.zeros(97)),
        ("t2d", torch.zeros(97, dtype=torch.bool)),
        ("t2d", torch.ones(96, dtype=torch.bool)),
    ],
)
def test_maps_that_are_none_are_refused(directory, target, name, tensor):
    save_file(load_file(directory / WEIGHTS) | {name: tensor}, directory / WEIGHTS)
    assert str(directory) in refusal(directory, target)


def test_sparse_and_absent_tensors_of_a_pickle_are_refused(directory):
    state = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    for broken in (state["fc.weight"].to_sparse(), state["fc.weight"].to("meta")):
        torch.save(state | {"fc.weight": broken}, directory / OLD_WEIGHTS)
        assert "fc.weight is no plain tensor" in refusal(directory)


@pytest.mark.parametrize("text", ["{", "nonsense", "[" * 100_000, "\ufeff{}"])
def test_a_config_that_is_no_json_is_told(directory, text):
    (directory / CONFIG).write_text(text)
    assert "config.json is no JSON" in refusal(directory)


@pytest.mark.parametrize("value", [[], 5, None, "x"])
def test_a_config_that_is_no_object_is_told(directory, value):
    (directory / CONFIG).write_text(json.dumps(value))
    assert "expected an object" in refusal(directory)


def test_places_that_are_no_head_are_told(directory, tmp_path):
    assert "is a file: name the directory" in refusal(directory / WEIGHTS)
    (tmp_path / "empty").mkdir()
    assert "found nothing" in refusal(tmp_path / "empty", kind=FileNotFoundError)
    (directory / WEIGHTS).unlink()
    assert "found config.json" in refusal(directory, kind=FileNotFoundError)


def test_the_output_of_a_training_run_names_the_head_inside(tmp_path, target):
    save_head(tiny_head(target), tmp_path / "run" / "best")
    told = refusal(tmp_path / "run", kind=FileNotFoundError)
    assert f"'{tmp_path / 'run' / 'best'}' holds one" in told


def test_convert_refuses_the_same(directory, tmp_path):
    (directory / WEIGHTS).write_bytes(POINTER)
    with pytest.raises(ValueError, match="git-lfs pointer"):
        convert(directory, tmp_path / "out", "flat")
    assert not (tmp_path / "out").exists()
