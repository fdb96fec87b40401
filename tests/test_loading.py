"""Loading targets and heads by name, and what a user is told when that fails."""

from dataclasses import replace

import pytest
import torch

from eagle import loading
from eagle.chat import Chat
from eagle.checkpoints.flat import save_head
from eagle.loading import choose_dtype, find_device, load_head, load_target
from eagle.trees import EagleTree
from tests.tiny import tiny_head, tiny_target


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
