"""Targets on disk whose files are damaged or incomplete: one line that names file and remedy, and no random weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eagle.loading import load_target
from tests import tiny_text
from tests.training import runs

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@pytest.fixture
def model(tmp_path) -> Path:
    runs.save_target(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path) -> Path:
    tiny_text.target().save_pretrained(tmp_path / "model", max_shard_size="100KB")
    tiny_text.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(directory: Path):
    return load_target(directory, dtype=torch.float32, device="cpu")


def change(directory: Path, tensors: dict) -> None:
    """Put these in place of a model's tensors; None takes one away."""
    state = load_file(directory / WEIGHTS) | tensors
    save_file(
        {name: tensor for name, tensor in state.items() if tensor is not None}, directory / WEIGHTS, {"format": "pt"}
    )


def refused(directory: Path, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        load(directory)
    assert "\n" not in str(raised.value) and str(directory) in str(raised.value)


TENSORS = [
    ({"model.norm.weight": None}, r"lacks 1 tensors, as model\.norm\.weight: fetch or save"),
    ({"lm_head.weight": None}, r"lacks 1 tensors, as lm_head\.weight"),
    ({"model.norm.weight": torch.ones(7)}, r"tensors of other sizes .* as model\.norm\.weight \(7,\) \(48,\)"),
    ({"model.norm.weight": torch.ones(48, dtype=torch.int64)}, r"no floating numbers, as model\.norm\.weight \(I64\)"),
    ({"model.norm.weight": torch.ones(48, dtype=torch.bool)}, r"no floating numbers, as model\.norm\.weight \(BOOL\)"),
    ({"model.norm.weight": torch.ones(48, dtype=torch.complex64)}, r"no floating numbers"),
]


@pytest.mark.parametrize(("tensors", "message"), TENSORS)
def test_tensors_that_are_missing_or_wrong_are_named(model, tensors, message):
    """A target with missing tensors ran on random weights, with a table on stderr that scrolled away."""
    change(model, tensors)
    refused(model, message)


def test_a_tied_output_layer_needs_no_tensor(tmp_path):
    model = tiny_text.target(tiny_text.LlamaConfig(**{**tiny_text.shape(), "tie_word_embeddings": True}))
    model.save_pretrained(tmp_path)
    tiny_text.tokenizer().save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    assert torch.equal(load(tmp_path).model.lm_head.weight, model.lm_head.weight)


def test_tensors_that_are_not_used_are_told(model):
    change(model, {"vision.weight": torch.ones(3)})
    with pytest.warns(UserWarning, match=r"holds 1 tensors that are not used, as vision\.weight"):
        load(model)


FILES = [
    (WEIGHTS, b"", r"model\.safetensors is damaged"),
    (WEIGHTS, b"\xff" * 999, r"model\.safetensors is damaged"),
    (WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of git-lfs.* `git lfs pull`"),
    (CONFIG, b"", r"config\.json is empty"),
    (CONFIG, b"{", r"config\.json is damaged, no JSON"),
    (CONFIG, b"[]", r"config\.json holds no table"),
    (CONFIG, b"\xff\0", r"config\.json is no text in UTF-8"),
    ("tokenizer.json", b"{", "has no tokenizer that can be read"),
    ("tokenizer.json", b"{}", "has no tokenizer that can be read"),
    ("tokenizer_config.json", b"{", "has no tokenizer that can be read"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_damaged_files_are_named(model, name, content, message):
    (model / name).write_bytes(content)
    refused(model, message)


def test_cut_weights_are_named(model):
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-100])
    refused(model, r"model\.safetensors is damaged")


def test_a_pickle_that_is_none_is_named(model):
    (model / WEIGHTS).unlink()
    (model / "pytorch_model.bin").write_bytes(b"abc" * 99)
    refused(model, "cannot be loaded")


@pytest.mark.parametrize("values", [{"hidden_size": "many"}, {"num_attention_heads": 0}, {"model_type": "oak"}])
def test_a_config_that_describes_no_model_is_refused(model, values):
    config = json.loads((model / CONFIG).read_text())
    (model / CONFIG).write_text(json.dumps(config | values))
    refused(model, "cannot be loaded as a causal language model|tensors of other sizes")


def test_a_model_without_tokenizer_is_told_so(model):
    for path in model.glob("tokenizer*"):
        path.unlink()
    refused(model, "has no tokenizer that can be read")


def test_damaged_shards_are_named(sharded):
    shard = sorted(sharded.glob("model-*"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    refused(sharded, rf"{shard.name} is damaged")
    shard.unlink()
    refused(sharded, rf"{shard.name} is missing, model\.safetensors\.index\.json names it")
    shard.write_bytes(whole)
    load(sharded)
    for content, message in (
        ("{", "is damaged"),
        ("{}", "names no files"),
        ('{"weight_map": {"a": 1}}', "names no files"),
    ):
        (sharded / "model.safetensors.index.json").write_text(content)
        refused(sharded, message)


def test_a_home_directory_may_be_shortened(model, monkeypatch):
    monkeypatch.setenv("HOME", str(model.parent))
    assert load(Path("~/model")).vocab_size == tiny_text.VOCAB_SIZE
