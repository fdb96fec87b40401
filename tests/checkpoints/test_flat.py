"""Head checkpoints: round trips, published layouts, and everything that must be refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from eagle.checkpoints.flat import open_head, read_checkpoint, read_head, save_head, stored_feature_layers
from eagle.checkpoints.formats import config_feature_layers
from eagle.checkpoints.weights import CONFIG, OLD_WEIGHTS, WEIGHTS
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.trees import EagleTree
from tests.tiny import random_ids, tiny_head, tiny_target

PUBLISHED_KEYS = {
    "fc.weight",
    "midlayer.input_layernorm.weight",
    "midlayer.hidden_norm.weight",
    "midlayer.self_attn.q_proj.weight",
    "midlayer.self_attn.k_proj.weight",
    "midlayer.self_attn.v_proj.weight",
    "midlayer.self_attn.o_proj.weight",
    "midlayer.mlp.gate_proj.weight",
    "midlayer.mlp.up_proj.weight",
    "midlayer.mlp.down_proj.weight",
    "midlayer.post_attention_layernorm.weight",
    "norm.weight",
    "lm_head.weight",
    "d2t",
    "t2d",
}


@pytest.fixture
def directory(tmp_path, target):
    return save_head(tiny_head(target), tmp_path / "head")


def edit_config(directory, drop=(), **changes):
    path = directory / CONFIG
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop} | changes
    path.write_text(json.dumps(config))


def edit_state(directory, drop=(), **changes):
    state = {key: value for key, value in load_file(directory / WEIGHTS).items() if key not in drop}
    save_file({**state, **{key.replace("__", "."): value for key, value in changes.items()}}, directory / WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_round_trip_is_exact(tmp_path, target, dtype):
    head = tiny_head(target)
    found = open_head(save_head(head, tmp_path, dtype), target, dtype)
    assert found.config == head.config
    for name, tensor in head.state_dict().items():
        expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(found.state_dict()[name], expected), name


def test_the_file_holds_the_published_keys_and_offsets(directory, target):
    state = load_file(directory / WEIGHTS)
    assert state.keys() == PUBLISHED_KEYS
    assert state["d2t"].dtype == torch.int64 and state["t2d"].dtype == torch.bool
    target_ids = state["d2t"] + torch.arange(len(state["d2t"]))
    assert torch.equal(state["t2d"].nonzero().flatten(), target_ids)


def test_an_older_checkpoint_is_read(directory, target):
    """SafeAILab publishes pytorch_model.bin, in float16, without rope_theta and head_dim."""
    state = load_file(directory / WEIGHTS)
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, directory / OLD_WEIGHTS)
    (directory / WEIGHTS).unlink()
    drop = ("rope_theta", "head_dim", "eagle_feature_layers", "eagle_config", "eagle_aux_hidden_state_layer_ids")
    edit_config(directory, drop)
    head = open_head(directory, target)
    assert head.config.feature_layers == (2, 4, 6) and head.config.head_dim == 8
    assert open_head(directory, target).fc.weight.dtype == target.dtype
    session, options = Session(target, EagleDrafter(head, target.embed, EagleTree())), DecodeOptions(max_new_tokens=12)
    plain = [step.tokens[0] for step in autoregressive(target, random_ids(9), options)]
    assert [token for step in session.decode(random_ids(9), options) for token in step.tokens] == plain


def test_rotation_has_base_10000_whatever_the_target_uses(directory):
    """Published heads say nothing of rope_theta; taking the target's (130000, 500000) ruins acceptance silently."""
    other = tiny_target(rope_theta=500000.0)
    edit_config(directory, drop=("rope_theta",))
    assert open_head(directory, other).config.rope_theta == 10000.0
    edit_config(directory, rope_theta=777.0)
    assert open_head(directory, other).config.rope_theta == 777.0


def test_rotary_frequencies_stay_exact_in_half_precision(directory, target):
    frequencies = [open_head(directory, target, dtype).rotary.inv_freq for dtype in (torch.float32, torch.bfloat16)]
    assert torch.equal(*frequencies)


def test_feature_layers_are_converted_between_conventions():
    """Inputs of layers against outputs: mixing the two gave 1.2 % acceptance instead of 58.9 % in one report."""
    ours, spec_forge = {"eagle_feature_layers": [2, 15, 27]}, {"eagle_aux_hidden_state_layer_ids": [1, 14, 26]}
    assert config_feature_layers(ours) == config_feature_layers({"eagle_config": spec_forge}) == (2, 15, 27)
    assert config_feature_layers({"eagle_aux_hidden_state_layer_ids": [2, 15, 27]}) == (2, 15, 27)
    assert config_feature_layers({}) is None
    with pytest.raises(ValueError, match="same three feature layers everywhere"):
        config_feature_layers(ours | {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 15, 27]}})


def test_written_configs_agree_with_themselves(directory):
    config = json.loads((directory / CONFIG).read_text())
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 3, 5]
    assert config["eagle_aux_hidden_state_layer_ids"] == config["eagle_feature_layers"] == [2, 4, 6]


def test_missing_and_unexpected_tensors_are_listed(directory, target):
    edit_state(directory, drop=("norm.weight", "fc.bias"), midlayer__extra=torch.ones(2))
    with pytest.raises(ValueError, match=r"missing norm\.weight; unexpected midlayer\.extra"):
        open_head(directory, target)


def test_misshapen_tensors_are_listed(directory, target):
    edit_state(directory, lm_head__weight=torch.ones(3, 32))
    with pytest.raises(ValueError, match=r"lm_head\.weight has shape \(3, 32\), config\.json says \(50, 32\)"):
        open_head(directory, target)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": 64}, "hidden size 32, .* has 64: use this target's own head, or train one"),
        ({"vocab_size": 200}, "vocabulary size 97, .* has 200: use this target's own head, or train one"),
    ],
)
def test_a_head_of_another_target_is_refused_with_both_sizes(directory, changes, message):
    with pytest.raises(ValueError, match=message):
        open_head(directory, tiny_target(**changes))


def test_a_shallower_target_is_refused(directory):
    edit_config(directory, drop=("eagle_config", "eagle_aux_hidden_state_layer_ids"), eagle_feature_layers=[2, 15, 27])
    with pytest.raises(ValueError, match=r"inputs of layers \(2, 15, 27\), .* has only 9"):
        open_head(directory, tiny_target())


def test_a_map_initialised_with_arange_is_refused(directory, target):
    """Trap: d2t holds offsets. `arange` in their place, a common initialisation, means ids 0, 2, 4, ..."""
    edit_state(directory, d2t=torch.arange(50))
    with pytest.raises(ValueError, match=r"draft vocabulary ids must lie|t2d marks other ids than d2t.*offsets"):
        open_head(directory, target)


def test_the_map_may_be_incomplete_only_where_nothing_is_lost(directory, target):
    expected = open_head(directory, target).t2d
    edit_state(directory, drop=("t2d",))
    assert torch.equal(open_head(directory, target).t2d, expected)
    edit_state(directory, drop=("d2t",))
    with pytest.raises(ValueError, match="d2t is missing, yet the head predicts 50 of 97 tokens"):
        open_head(directory, target)


def test_an_embedding_in_the_file_is_the_heads_own(directory, target):
    """Heads that bring embeddings were refused: the one of Llama-3.3-70B, and all that speculators writes."""
    stored = torch.randn(97, 32)
    edit_state(directory, embed_tokens__weight=stored)
    for head in (open_head(directory), open_head(directory, target)):
        assert torch.equal(head.embedding(target.embed)(torch.tensor([3, 96])), stored[[3, 96]])
    assert torch.equal(load_file(save_head(head, directory) / WEIGHTS)["embed_tokens.weight"], stored)


def test_an_embedding_that_is_the_targets_takes_no_memory_twice(directory, target):
    own = target.model.get_input_embeddings().weight
    edit_state(directory, embed_tokens__weight=own.detach().clone())
    assert open_head(directory, target).embed_tokens.weight.data_ptr() == own.data_ptr()
    edit_state(directory, embed_tokens__weight=own.detach() + 1)
    assert open_head(directory, target).embed_tokens.weight.data_ptr() != own.data_ptr()


def test_the_target_hands_out_the_layers_of_the_head_that_was_loaded(directory):
    target, drop = tiny_target(), ("eagle_config", "eagle_aux_hidden_state_layer_ids")
    edit_config(directory, drop=drop, eagle_feature_layers=[1, 3, 5])
    read_head(directory, target)
    assert target.feature_layers == (2, 4, 6)  # only looked at
    head = open_head(directory, target)
    assert target.feature_layers == head.config.feature_layers == (1, 3, 5)
    assert stored_feature_layers(directory, 9) == (1, 3, 5)


def test_ids_of_the_draft_vocabulary_may_stand_in_any_order(directory, target):
    """Some publishers write them by frequency; they were taken for ids of another target."""
    state = load_file(directory / WEIGHTS)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    ids = (state["d2t"] + torch.arange(50))[order]
    edit_state(directory, d2t=ids - torch.arange(50), lm_head__weight=state["lm_head.weight"][order])
    head, hidden = open_head(directory, target), torch.randn(4, 32)
    assert torch.equal(head.vocabulary.target_ids, ids)
    law = head.vocabulary.scatter(head.logits(hidden).softmax(-1))
    assert torch.equal(law[:, ids], head.logits(hidden).softmax(-1)) and law.sum(-1).allclose(torch.ones(4))
    assert torch.equal(head.vocabulary.draft_ids[ids], torch.arange(50))
    edit_state(directory, drop=("t2d",), d2t=torch.cat([ids[:1], ids[:-1]]) - torch.arange(50))
    with pytest.raises(ValueError, match="must differ from each other"):
        open_head(directory, target)


@pytest.mark.parametrize("drop", [("d2t",), ("d2t", "t2d"), ("t2d",)])
def test_a_head_over_the_whole_vocabulary_needs_no_map(tmp_path, target, drop):
    directory = save_head(tiny_head(target, draft_vocab_size=97), tmp_path)
    edit_state(directory, drop=drop)
    assert torch.equal(open_head(directory, target).vocabulary.target_ids, torch.arange(97))


@pytest.mark.parametrize("prefix", ["model.", "module.", "draft_model."])
def test_prefixes_of_other_programs_are_taken_off(directory, target, prefix):
    state, before = load_file(directory / WEIGHTS), open_head(directory, target)
    renamed = {name if name == "d2t" else prefix + name: tensor for name, tensor in state.items()}
    renamed |= {"verifier_norm.weight": torch.ones(32), "midlayer.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(renamed, directory / WEIGHTS)
    after = open_head(directory, target)
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in after.state_dict().items())
    edit_state(directory, fc__weight=state["fc.weight"])
    with pytest.raises(ValueError, match=r"holds fc\.weight twice"):
        open_head(directory, target)


def test_the_fusion_reads_three_features(directory, target):
    edit_state(directory, fc__weight=torch.ones(32, 64))
    with pytest.raises(ValueError, match=r"fc\.weight has shape \(32, 64\).* reads three features"):
        open_head(directory, target)


def test_sizes_that_no_tensor_has_ask_for_no_memory(directory, target):
    """A typing error in config.json asked for terabytes before the tensors were compared with it."""
    edit_config(directory, intermediate_size=2**20, num_attention_heads=2**14)
    with pytest.raises(ValueError, match="the checkpoint does not fit its config"):
        open_head(directory, target)


def test_absent_files_are_one_clear_message(tmp_path):
    (tmp_path / "README.md").touch()
    with pytest.raises(FileNotFoundError, match=r"must hold config\.json and model\.safetensors.*found README\.md"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a directory nor a Hugging Face id"):
        read_checkpoint(tmp_path / "a" / "b" / "c")
