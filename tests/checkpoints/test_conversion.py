"""Conversion between layouts: exact round trips, explicit conventions, refusals."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eagle.checkpoints.conversion import convert
from eagle.checkpoints.flat import open_head, read_checkpoint, save_head, write_checkpoint
from eagle.checkpoints.weights import CONFIG, WEIGHTS
from eagle.loading import SHIPPED_HEAD, load_target
from tests import tiny_text
from tests.drafters.test_published_heads import FLAGS, VARIANTS, variant
from tests.tiny import tiny_head, tiny_target

SPECULATORS_KEYS = {
    "fc.weight", "norm.weight", "lm_head.weight", "d2t", "t2d",
    "layers.0.input_layernorm.weight", "layers.0.hidden_norm.weight", "layers.0.post_attention_layernorm.weight",
    *(f"layers.0.self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
}  # fmt: skip


@pytest.fixture
def flat(tmp_path, target):
    return save_head(tiny_head(target), tmp_path / "flat", torch.bfloat16)


@pytest.fixture
def nested(flat, tmp_path, target):
    return convert(flat, tmp_path / "nested", "speculators", target)


def test_a_round_trip_gives_back_the_same_bits(flat, nested, tmp_path):
    back = convert(nested, tmp_path / "back", "flat")
    before, after = (load_file(directory / WEIGHTS) for directory in (flat, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert json.loads((flat / CONFIG).read_text()) == json.loads((back / CONFIG).read_text())


def test_the_nested_file_says_what_vllm_reads(nested, target):
    config, state = read_checkpoint(nested)
    assert state.keys() == SPECULATORS_KEYS
    assert config["speculators_model_type"] == config["speculators_config"]["algorithm"] == "eagle3"
    assert config["speculators_config"]["verifier"]["name_or_path"] == target.name
    assert config["eagle_aux_hidden_state_layer_ids"] == [2, 4, 6]  # inputs, as vLLM counts
    assert config["norm_before_residual"] is False and config["draft_vocab_size"] == 50
    layer = config["transformer_layer_config"]
    assert (layer["hidden_size"], layer["num_hidden_layers"], layer["vocab_size"]) == (32, 1, 97)
    assert layer["rope_theta"] == 10000.0


def test_a_local_target_is_named_by_its_whole_path(flat, tmp_path, target, monkeypatch):
    """vLLM opens what "verifier" names: `models/tiny` was written as it was typed, and found from one folder alone."""
    target.model.save_pretrained(tmp_path / "models" / "tiny")
    tiny_text.tokenizer().save_pretrained(tmp_path / "models" / "tiny")
    monkeypatch.chdir(tmp_path / "models")
    config, _ = read_checkpoint(convert(flat, tmp_path / "out", "speculators", load_target("tiny")))
    verifier = config["speculators_config"]["verifier"]
    assert verifier["name_or_path"] == str((tmp_path / "models" / "tiny").resolve())
    assert verifier["architectures"] == ["LlamaForCausalLM"]


def test_the_packaged_target_is_named_by_the_directory_it_was_converted_to(smollm2, tmp_path):
    config, _ = read_checkpoint(convert(SHIPPED_HEAD, tmp_path / "out", "speculators", smollm2))
    found = Path(config["speculators_config"]["verifier"]["name_or_path"])
    assert found.is_absolute() and (found / CONFIG).is_file() and (found / WEIGHTS).is_file()


def test_a_nested_head_drafts_like_the_flat_one(flat, nested, target):
    heads = [open_head(directory, target) for directory in (flat, nested)]
    assert heads[0].config == heads[1].config
    hidden = torch.randn(5, 32)
    assert torch.equal(*(head.logits(hidden) for head in heads))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_heads_of_every_kind_make_the_round_trip(changes, target, tmp_path):
    """Flags, norms and embeddings of their own were refused, or dropped on the way."""
    head = variant(target, **changes)
    save_head(head, tmp_path / "flat")
    convert(tmp_path / "flat", tmp_path / "nested", "speculators", target)
    convert(tmp_path / "nested", tmp_path / "back", "flat")
    for name in ("flat", "nested", "back"):
        found = open_head(tmp_path / name, target)
        assert found.config == head.config
        assert found.state_dict().keys() == head.state_dict().keys()
        assert all(torch.equal(tensor, head.state_dict()[key]) for key, tensor in found.state_dict().items())
    assert json.loads((tmp_path / "flat" / CONFIG).read_text()) == json.loads((tmp_path / "back" / CONFIG).read_text())
    config, _ = read_checkpoint(tmp_path / "nested")
    assert all(config[flag] is changes.get(flag, False) for flag in FLAGS)  # vLLM's default is not speculators'


def test_a_head_is_not_converted_onto_itself(flat):
    with pytest.raises(ValueError, match="is the head to convert: name another directory"):
        convert(flat, flat.parent / "." / flat.name, "flat")


def test_unknown_tensors_are_listed_in_both_layouts(nested):
    config, state = read_checkpoint(nested)
    write_checkpoint(nested, config, {**state, "layers.1.mlp.up_proj.weight": torch.ones(1), "extra": torch.ones(1)})
    with pytest.raises(ValueError, match=r"unexpected extra; unexpected layers\.1\.mlp\.up_proj\.weight"):
        convert(nested, nested / "out", "flat")


def test_the_nested_layout_needs_its_target(flat, tmp_path):
    with pytest.raises(ValueError, match="pass it with --target"):
        convert(flat, tmp_path / "out", "speculators")
    with pytest.raises(ValueError, match="choose one of flat, speculators"):
        convert(flat, tmp_path / "out", "gguf")


def test_the_layer_convention_of_an_older_file_is_written_explicitly(flat, tmp_path):
    """A flat file that names no layers means (2, L // 2, L - 3); what is written says so in every convention."""
    config, state = read_checkpoint(flat)
    drop = {"eagle_feature_layers", "eagle_config", "eagle_aux_hidden_state_layer_ids"}
    write_checkpoint(flat, {name: value for name, value in config.items() if name not in drop}, state)
    with pytest.raises(ValueError, match="names no feature layers: pass the target"):
        convert(flat, tmp_path / "out", "flat")
    written, _ = read_checkpoint(convert(flat, tmp_path / "out", "flat", tiny_target()))
    assert written["eagle_feature_layers"] == [2, 4, 6]
    assert written["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 3, 5]
