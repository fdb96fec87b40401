"""Every field that changes what a head computes, in every layout: computed, or refused with its name and the reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from eagle.checkpoints.conversion import convert
from eagle.checkpoints.flat import open_head, save_head
from eagle.checkpoints.weights import CONFIG, WEIGHTS
from tests.tiny import tiny_head, tiny_target

PLACES = {
    "flat": ("flat", ()),
    "eagle_config": ("flat", ("eagle_config",)),
    "nested": ("nested", ()),
    "transformer_layer_config": ("nested", ("transformer_layer_config",)),
    "speculators_config": ("nested", ("speculators_config",)),
}
REFUSED = [
    ("hidden_act", "gelu"),
    ("hidden_act", 1),
    ("num_hidden_layers", 2),
    ("num_hidden_layers", True),
    ("num_hidden_layers", "1"),
    ("sliding_window", 512),
    ("layer_types", ["sliding_attention"]),
    ("layer_types", "full_attention"),
    ("use_aux_hidden_state", False),
    ("num_aux_hidden_states", 1),
    ("parallel_drafting", True),
    ("parallel_draft_step", 4),
    ("attention_bias", True),
    ("mlp_bias", True),
    ("qkv_bias", True),
    ("use_last_layernorm", False),
    ("use_mtp_layernorm", True),
    ("use_input_layernorm_in_first_layer", False),
    ("num_local_experts", 16),
    ("quantization_config", {"quant_method": "fp8"}),
    ("logit_scale", 0.5),
    ("partial_rotary_factor", 0.5),
    ("torch_dtype", "banana"),
    ("dtype", "int8"),
    ("max_position_embeddings", "long"),
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    target, directory = tiny_target(), tmp_path_factory.mktemp("heads")
    save_head(tiny_head(target), directory / "flat")
    convert(directory / "flat", directory / "nested", "speculators", target)
    return {name: directory / name for name in ("flat", "nested")}


@pytest.fixture
def edited(originals, tmp_path):
    """Writes a head with changed fields, at the top of its config or inside `path`, and returns its directory."""

    def write(layout, path=(), drop=(), tensors=None, **changes):
        config = json.loads((originals[layout] / CONFIG).read_text())
        place = config
        for name in path:
            place = place.setdefault(name, {})
        place.update(changes)
        for name in drop:
            place.pop(name, None)
        state = load_file(originals[layout] / WEIGHTS) | (tensors or {})
        save_file({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / WEIGHTS)
        (tmp_path / CONFIG).write_text(json.dumps(config))
        return tmp_path

    return write


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("field", "value"), REFUSED, ids=str)
def test_what_is_not_computed_is_refused_wherever_it_stands(edited, target, place, field, value):
    """Checked in one layout only, heads that compute something else loaded in the others, and tau collapsed."""
    layout, path = PLACES[place]
    directory = edited(layout, path, **{field: value})
    with pytest.raises(ValueError) as refusal:
        open_head(directory, target)
    told = str(refusal.value)
    assert str(directory) in told and ".".join([*path, field]) in told and repr(value) in told and "\n" not in told


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("field", ["norm_output", "norm_before_residual", "norm_before_fc", "fc_norm"])
def test_flags_are_read_wherever_they_stand(edited, originals, target, place, field):
    layout, path = PLACES[place]
    norms = {"norm_before_fc": {"input_norm.weight": torch.ones(96)}}
    norms["fc_norm"] = {f"fc_norm.{i}.weight": torch.ones(32) for i in range(3)}
    drop = () if not path or layout == "flat" else (field,)
    directory = edited(layout, path, tensors=norms.get(field, {}), **{field: True})
    if drop:  # the converter writes the flags at the top: there is only one of them here
        config = json.loads((directory / CONFIG).read_text())
        (directory / CONFIG).write_text(json.dumps({name: v for name, v in config.items() if name != field}))
    assert getattr(open_head(directory, target).config, field) is True
    edited(layout, path, **{field: "yes"})
    with pytest.raises(ValueError, match=f"{field} is 'yes', it must be true or false"):
        open_head(directory, target)


def test_flags_and_their_tensors_belong_together(edited, target):
    with pytest.raises(ValueError, match=r"missing fc_norm\.0\.weight; missing fc_norm\.1\.weight"):
        open_head(edited("flat", fc_norm=True), target)
    with pytest.raises(ValueError, match=r"unexpected input_norm\.weight"):
        open_head(edited("flat", tensors={"input_norm.weight": torch.ones(96)}), target)


def test_a_config_that_contradicts_itself_is_refused(edited, target):
    edited("flat", ("eagle_config",), norm_output=True)
    directory = edited("flat", norm_output=False)
    config = json.loads((directory / CONFIG).read_text())
    config["eagle_config"]["norm_output"] = True
    (directory / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"norm_output is False, eagle_config\.norm_output is True"):
        open_head(directory, target)


@pytest.mark.parametrize(
    "harmless",
    [
        {"sliding_window": 512, "use_sliding_window": False},  # SpecForge's gemma3-1b
        {"sliding_window": 512, "layer_types": ["full_attention"]},
        {"sliding_window": None, "use_sliding_window": True},
        {"tie_word_embeddings": True},  # SpecForge's qwen3-4b: over a part of the vocabulary nothing can be tied
        {"model_type": "phi3"},  # SpecForge's phi4-mini: the layer is Llama's all the same
        {"hidden_act": None, "num_hidden_layers": None},
        {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]}},  # SpecForge's qwen3-vl
        {"parallel_draft_step": 1, "use_last_layernorm": True, "next_layer_regular": True},  # ModelOpt
        {"dtype": "torch.float16", "torch_dtype": None},
    ],
    ids=str,
)
def test_values_of_public_configs_that_change_nothing_are_taken(edited, originals, target, harmless):
    head, ordinary = open_head(edited("flat", **harmless), target), open_head(originals["flat"], target)
    assert head.config == ordinary.config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", "32", "hidden_size is '32', it must be a whole number"),
        ("hidden_size", 32.0, "hidden_size is 32.0, it must be a whole number"),
        ("hidden_size", -32, "hidden_size is -32, it must be at least 1"),
        ("num_attention_heads", True, "num_attention_heads is True"),
        ("vocab_size", [97], r"vocab_size is \[97\]"),
        ("vocab_size", None, r"lacks \['vocab_size'\]"),
        ("vocab_size", 10**12, "at most"),
        ("num_key_value_heads", 0, "at least 1"),
        ("draft_vocab_size", 0, "at least 1"),
        ("target_hidden_size", 48, r"fc\.weight has shape \(32, 96\)"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps is nan"),
        ("rms_norm_eps", "1e-5", "rms_norm_eps is '1e-5', it must be a number"),
        ("rope_theta", "1e4", "rope_theta is '1e4'"),
        ("rope_scaling", [1], r"rope_scaling is \[1\], it must be an object"),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}, "rope_scaling has rope_type 'dynamic'"),
        ("rope_scaling", {"rope_type": "longrope", "factor": 2.0}, "longest position of a call"),
        ("rope_scaling", {"factor": 2.0}, "rope_type None"),
        ("rope_scaling", {"type": "linear"}, r"rope_scaling\.factor is None, it must be a number"),
        ("rope_scaling", {"type": "linear", "factor": "2"}, r"rope_scaling\.factor is '2'"),
        ("rope_scaling", {"rope_type": "llama3", "factor": 2.0}, r"rope_scaling\.low_freq_factor is None"),
        ("eagle_config", "x", "eagle_config is 'x', it must be an object"),
        ("eagle_feature_layers", [2.0, 4, 6], "eagle_feature_layers: .*whole numbers"),
        ("eagle_feature_layers", [-1, 4, 6], "eagle_feature_layers: .*from 0 up"),
        ("eagle_feature_layers", 5, "eagle_feature_layers: .*is 5"),
        ("model_type", "gpt_oss", "model_type is 'gpt_oss', not one of llama"),
        ("draft_vocab_size", 97, "d2t has shape"),
    ],
    ids=str,
)
def test_types_and_sizes_are_checked(edited, target, field, value, message):
    directory = edited("flat", **{field: value})
    with pytest.raises(ValueError, match=message) as refusal:
        open_head(directory, target)
    assert str(directory) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_scaled_rotation_is_transformers_own(edited, target, kind):
    scaling = {"rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    heads = [open_head(edited("flat", rope_scaling=scaling, max_position_embeddings=64), target)]
    heads.append(open_head(edited("flat", rope_parameters={**scaling, "rope_theta": 10000.0}), target))
    assert not torch.equal(heads[0].rotary.inv_freq, open_head(edited("flat"), target).rotary.inv_freq)
    assert (heads[0].config.rope_scaling or {}).get("original_max_position_embeddings", 64) == 64


def test_tied_output_over_the_whole_vocabulary_is_refused(tmp_path, target):
    save_head(tiny_head(target, draft_vocab_size=97), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(ValueError, match="tie_word_embeddings is True"):
        open_head(tmp_path, target)


EAGLE1 = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 97, "intermediate_size": 48}
LAYER = {"layers.0.self_attn.q_proj.weight": (32, 32), "layers.0.mlp.up_proj.weight": (48, 32)}


@pytest.mark.parametrize(
    ("config", "tensors", "kind"),
    [
        (EAGLE1, {"fc.weight": (32, 64), "embed_tokens.weight": (97, 32), **LAYER}, "an EAGLE-1 or EAGLE-2 head"),
        (EAGLE1, {"fc.weight": (32, 64), "fc.bias": (32,), **LAYER}, "an EAGLE-1 or EAGLE-2 head"),
        (EAGLE1, {"model.fc.weight": (32, 64), **LAYER}, "an EAGLE-1 or EAGLE-2 head"),
        ({"speculators_model_type": "eagle"}, {"fusion_fc.weight": (32, 64)}, "an EAGLE-1 or EAGLE-2 head"),
        ({"medusa_num_heads": 4}, {"0.0.linear.weight": (32, 32), "0.1.weight": (97, 32)}, "a Medusa head"),
        ({}, {"medusa_heads.0.0.linear.weight": (32, 32)}, "a Medusa head"),
        ({}, {"0.0.linear.weight": (32, 32)}, "a Medusa head"),
        ({"model_type": "mlp_speculator"}, {"emb.0.weight": (97, 32), "proj.0.weight": (32, 32)}, "an MLP speculator"),
        ({}, {"mask_hidden": (96,), "fc.weight": (32, 96)}, "parallel drafting"),
        ({}, {"model.layers.0.eh_proj.weight": (32, 64)}, "multi-token prediction"),
        (
            {"model_type": "llama"},
            {"model.embed_tokens.weight": (97, 32), "lm_head.weight": (97, 32), **LAYER},
            "a language model of 1 layer",
        ),
        (
            {"model_type": "llama"},
            {f"model.layers.{i}.self_attn.q_proj.weight": (32, 32) for i in range(9)},
            "a language model of 9 layers",
        ),
    ],
)  # fmt: skip
def test_other_drafters_are_recognised(tmp_path, config, tensors, kind):
    """They ended in a list of dozens of missing and unexpected tensors."""
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=f"{tmp_path.name}: this is .*{kind}.*, not an EAGLE-3 head"):
        open_head(tmp_path)
