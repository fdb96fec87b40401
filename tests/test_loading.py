"""Loading targets and heads by name, and what a user is told when that fails."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from eagle import loading
from eagle.chat import Chat
from eagle.checkpoints.flat import save_head
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.engine.packing import pack
from eagle.loading import choose_dtype, find_device, load_head, load_target
from eagle.packages import PackagedFile
from eagle.sampling import Sampling, seeded
from eagle.training.target_snapshot import TargetFacts
from eagle.trees import EagleTree
from eagle.whole import list_files
from tests import tiny_text
from tests.engine.families import family_target
from tests.tiny import SIZES, generated, random_ids, tiny_drafter, tiny_head, tiny_target, tokens_of

TEN = DecodeOptions(max_new_tokens=10)


def test_a_target_comes_from_a_local_directory(tmp_path, smollm2):
    tiny = tiny_target()
    tiny.model.save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    loaded = load_target(tmp_path, dtype=torch.float32, device="cpu")
    ids = torch.arange(10)
    outputs = [target.prefill(ids, target.new_cache()).logits for target in (tiny, loaded)]
    torch.testing.assert_close(*outputs)


def test_unknown_models_and_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no GGUF file at '.*missing\.gguf'"):
        load_target(tmp_path / "missing.gguf")
    with pytest.raises(FileNotFoundError, match="no model 'no/such/model'"):
        load_target("no/such/model")
    (tmp_path / "empty").mkdir()
    # transformers 4.57 misses the weights first, 5.x the model's type
    with pytest.raises((FileNotFoundError, ValueError), match=r"empty' cannot be loaded|no model '.*empty'"):
        load_target(tmp_path / "empty")


PARTS = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
DISK = dict.fromkeys(PARTS, "cpu") | {
    f"model.layers.{layer}": "disk" if layer % 3 == 1 else "cpu" for layer in range(9)
}
ALL_ON_DISK = {**dict.fromkeys(DISK, "disk"), "model.norm": "cpu"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A tiny target on disk."""
    directory = tmp_path_factory.mktemp("stored")
    tiny_target().model.save_pretrained(directory)
    tiny_text.tokenizer().save_pretrained(directory)
    return directory


@pytest.mark.parametrize("device_map", ["auto", DISK, ALL_ON_DISK], ids=["auto", "cpu and disk", "disk"])
def test_a_target_may_be_spread_over_devices(stored, device_map):
    """Its text is the one of the whole, greedy and drawn; its features and logits are the same numbers."""
    whole, loaded, ids = tiny_target(), load_target(stored, torch.float32, "cpu", device_map=device_map), random_ids(12)
    session = Session(loaded, tiny_drafter(loaded, EagleTree()))
    for options in (TEN, replace(TEN, sampling=Sampling(1.0), verifier="coupled")):
        drafted, plain = session.decode(ids, options, seeded(3)), autoregressive(whole, ids, options, seeded(3))
        assert tokens_of(drafted) == tokens_of(plain)
    read = [target.prefill(torch.tensor(ids), target.new_cache()) for target in (whole, loaded)]
    for whole_numbers, own in ((read[0].features, read[1].features), (read[0].logits, read[1].logits)):
        # weights lie elsewhere in memory, and some products then add 32 terms of size 1 in another order
        torch.testing.assert_close(own, whole_numbers, atol=1e-5, rtol=1e-5)


def test_training_gets_what_lies_on_disk(stored):
    """A head starts from the target's embeddings, output layer and last MLP: the same numbers wherever they lie."""
    facts = [TargetFacts.of(load_target(stored, torch.float32, "cpu", device_map=where)) for where in (None, DISK)]
    assert facts[0].identity["weights_sha256"] == facts[1].identity["weights_sha256"]
    everything = TargetFacts.of(load_target(stored, torch.float32, "cpu", device_map=ALL_ON_DISK))
    assert everything.tensors.keys() == facts[0].tensors.keys()
    assert all(torch.equal(everything.tensors[name], tensor) for name, tensor in facts[0].tensors.items())


def test_a_device_map_may_be_a_file(stored, tmp_path):
    (tmp_path / "map.yaml").write_text("".join(f"{module}: {place}\n" for module, place in DISK.items()))
    (tmp_path / "map.json").write_text(json.dumps(DISK))
    for name in ("map.yaml", "map.json"):
        loaded = load_target(stored, torch.float32, "cpu", device_map=str(tmp_path / name))
        assert loaded.model.hf_device_map == DISK


def test_a_wrong_device_map_is_named_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"device_map is 'everywhere', neither one of auto, balanced, .* nor a file"):
        load_target(tmp_path, device_map="everywhere")
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(ValueError, match=r"empty\.yaml places no module: write lines as"):
        load_target(tmp_path, device_map=str(tmp_path / "empty.yaml"))
    with pytest.raises(ValueError, match=r"device 'cuda:7' cannot be used here .*: choose one of cpu"):
        load_target(tmp_path, device_map={"": "cuda:7"})


def test_experts_on_disk_need_a_folder(tmp_path):
    """Files hold every expert for itself, the model all in one: transformers stores them anew."""
    family_target("mixtral", {}).model.save_pretrained(tmp_path / "model")
    tiny_text.tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="offload_folder"):
        load_target(tmp_path / "model", torch.float32, "cpu", device_map=DISK)
    pieces = tmp_path / "pieces"
    loaded = load_target(tmp_path / "model", torch.float32, "cpu", device_map=DISK, offload_folder=str(pieces))
    assert list(pieces.iterdir()) and loaded.read(torch.tensor([random_ids(5)])).logits.isfinite().all()


def test_a_spread_target_is_not_compiled(stored):
    with pytest.raises(ValueError, match="cannot be compiled: its layers lie on several devices"):
        load_target(stored, torch.float32, "cpu", device_map=DISK, compile="on")


TEXT: dict[str, Any] = {name: size for name, size in SIZES.items() if name != "initializer_range"} | {"head_dim": 8}
SEES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
}
SEES |= {"patch_size": 8, "depth": 1, "num_heads": 2, "embed_dim": 16, "out_hidden_size": 32}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}


@pytest.mark.parametrize("family", ["gemma3", "llava", "qwen2_vl", "mistral3"])
def test_the_text_part_of_a_model_that_reads_images_is_decoded(tmp_path, family):
    """Their classes are no causal language models by name, and were refused."""
    default: Any = AutoConfig.for_model(family)
    told = {name: value for name, value in TEXT.items() if hasattr(default.text_config, name)}
    if "vl" in family:
        told |= {"rope_parameters" if hasattr(default.text_config, "rope_parameters") else "rope_scaling": ROPE}
    if getattr(default.text_config, "layer_types", None):
        told["layer_types"] = None
    sees: dict[str, Any] = {name: value for name, value in SEES.items() if hasattr(default.vision_config, name)}
    ids_of = [name for name in vars(default) if name.endswith(("token_id", "token_index"))]
    images: dict[str, Any] = {name: 90 + number for number, name in enumerate(ids_of)}
    config = type(default)(
        text_config=type(default.text_config)(**told).to_dict(),
        vision_config=type(default.vision_config)(**sees).to_dict(),
        **images,
    )
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    tiny_text.tokenizer().save_pretrained(tmp_path)
    target, ids = load_target(tmp_path, torch.float32, "cpu"), random_ids(12, vocab_size=80)
    endless = replace(TEN, ignore_end=True)
    session = Session(target, tiny_drafter(target, EagleTree()))
    assert tokens_of(session.decode(ids, endless)) == generated(target, ids, 10)


def test_quantisations_are_known_or_told(monkeypatch):
    with pytest.raises(ValueError, match="quantization is 'int3', choose one of bnb-8bit"):
        load_target(quantization="int3")
    monkeypatch.setattr("eagle.load_options.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"'quanto-int8' needs optimum\.quanto: pip install optimum-quanto"):
        load_target(quantization="quanto-int8")


def test_weights_of_another_kind_are_not_packed():
    """torchao keeps its own tensors in stock layers: packing them crashed."""

    class Other(torch.nn.Parameter):
        pass

    layer = torch.nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
    layer.weight = Other(layer.weight.data)
    assert pack(torch.nn.Sequential(layer)) == 0


def test_attention_is_eager_where_the_family_has_no_other(tmp_path):
    """gemma2 and gpt_oss could not be loaded by any command."""
    family_target("gpt_oss", {}).model.save_pretrained(tmp_path)
    tiny_text.tokenizer().save_pretrained(tmp_path)
    target = load_target(tmp_path, torch.float32, "cpu")
    assert target.config._attn_implementation == "eager" and target.suitability.trees is None


def test_no_head_is_guessed_for_another_target():
    with pytest.raises(ValueError, match="no head is shipped for LlamaForCausalLM: name one with --head"):
        load_head(target=tiny_target())


def test_a_loaded_head_decides_what_its_target_hands_out(tmp_path):
    """The target kept its default layers, and the head was fed the features of others."""
    target = tiny_target()
    head = tiny_head(target)
    head.config = replace(head.config, feature_layers=(1, 3, 5))
    save_head(head, tmp_path)
    assert load_head(tmp_path, target).config.feature_layers == target.feature_layers == (1, 3, 5)
    Chat(target, load_head(tmp_path, target), policy=EagleTree())
    with pytest.raises(ValueError, match=r"layers \(1, 3, 5\), .* hands out those of \(2, 4, 6\)"):
        Chat(tiny_target(), load_head(tmp_path), policy=EagleTree())
    with pytest.raises(ValueError, match="must lie in 0"):
        target.read_layers((2, 4, 20))


def test_bf16_is_chosen_only_where_it_is_native(monkeypatch):
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(loading, "_cpu_capabilities", lambda native=native: {"avx512_bf16": native})
        assert choose_dtype(torch.device("cpu")) == dtype


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xpu", "mps", "vulkan"])
def test_a_device_that_is_not_there_is_told_before_anything_is_loaded(name):
    """`--device` of another build of torch was an AssertionError, after the model had been read."""
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here .*: choose one of cpu"):
        find_device(name)
    with pytest.raises(ValueError, match="unknown device 'nonsense'"):
        find_device("nonsense")


def test_the_embedded_model_is_read_from_the_cache_without_its_package(tmp_path, monkeypatch, smollm2):
    """A conversion is whole by itself: the package it was made of may be gone, and another file's does not serve."""
    monkeypatch.setenv("EAGLE_HSD_CACHE", str(tmp_path))
    monkeypatch.setattr("eagle.loading.SMOLLM2", PackagedFile("no-such-package", "1.0", "folder/tiny.gguf"))
    with pytest.raises(FileNotFoundError, match="package no-such-package is not installed"):
        loading.find_model(None)
    for name, whole in (("other-123", True), ("tiny-0ld", False), ("tiny-123", True)):
        directory = tmp_path / "models" / name
        tiny_target().model.save_pretrained(directory)
        tiny_text.tokenizer().save_pretrained(directory)
        list_files(directory)
        if not whole:
            (directory / "config.json").write_text("{")
    assert loading.find_model(None) == str(tmp_path / "models" / "tiny-123")
