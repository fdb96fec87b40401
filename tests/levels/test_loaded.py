"""Models that become levels: by their vocabulary, by the memory they need, by their context."""

import pytest
import torch

from eagle.compiled.passes import compile_passes
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.engine.target import Target
from eagle.levels import memory
from eagle.levels.building import build_drafter, hand_made
from eagle.levels.loaded import HeadDraft, check_precision, load_candidates
from eagle.levels.memory import check_memory, weight_bytes
from eagle.levels.pair_counts import bytes_of
from eagle.levels.tokenizers import check_same_tokens
from eagle.loading import load_head, load_target
from eagle.sampling import Sampling
from tests import tiny_text
from tests.levels.family import family, model, saved


def test_levels_are_loaded_with_their_heads(tmp_path):
    paths, target = saved(tmp_path), model("big", 0)
    found = load_candidates(target, [f"small={paths['small']}:head={paths['small_head']},nodes=4", "lookup"])
    member = found.member("small")
    assert found.readers() == ["small", "target"] and [head.name for head in found.heads()] == [
        "small.head@4",
        "small.head+lookup@4",
    ]
    assert member.num_tokens == tiny_text.VOCAB_SIZE and member.head is not None and found.lookup is not None
    assert member.model.dtype == target.dtype
    with pytest.raises(ValueError, match="target has no draft head: name one with --head"):
        found.head_of("target")


def test_levels_and_their_heads_are_compiled_where_the_target_is(tmp_path):
    paths, target = saved(tmp_path), model("big", 0)
    compile_passes(target, "on")
    found = load_candidates(target, [f"small={paths['small']}:head={paths['small_head']}"])
    assert found.model("small").small_pass is not None and found.head_of("small").small_read is not None
    assert found.model("small").compile_mode == "on"


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("nodes", [None, 16])
def test_heads_are_found_by_their_names(nodes, beside):
    head = HeadDraft("small-2", nodes, beside)
    assert HeadDraft.of(head.name) == head
    assert HeadDraft.of("small-2") is None and HeadDraft.of("lookup") is None


def test_another_tokenizer_is_told_by_its_vocabulary_and_not_its_size(monkeypatch):
    other = tiny_text.tokenizer()
    own = dict(other.get_vocab())
    first, second = "a", "b"
    swapped = {**own, first: own[second], second: own[first]}
    monkeypatch.setattr(other, "get_vocab", lambda: swapped)
    level = Target(tiny_text.target(), other, name="sibling")
    with pytest.raises(ValueError, match=r"'small' \(sibling\) has another tokenizer than big: 2 tokens .* 'a'"):
        check_same_tokens(model("big", 0), level, "small")


def test_padded_rows_are_no_difference():
    padded = model("small", 1, vocab_size=tiny_text.VOCAB_SIZE + 6)
    assert check_same_tokens(model("big", 0), padded, "small") == tiny_text.VOCAB_SIZE


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="has no tokenizer"):
        check_same_tokens(model("big", 0), Target(tiny_text.target()), "small")


def test_memory_is_estimated_from_the_configuration_alone(tmp_path):
    saved(tmp_path)
    (tmp_path / "small" / "model.safetensors").unlink()
    small = family().member("small").model.model
    expected = sum(weight.numel() for weight in small.parameters())
    assert weight_bytes("small", str(tmp_path / "small"), 2) == 2 * expected
    with pytest.raises(FileNotFoundError, match="no model 'gone'"):
        weight_bytes("gone", str(tmp_path / "nowhere"), 2)


def test_too_little_memory_is_refused_before_loading(tmp_path, monkeypatch):
    paths = saved(tmp_path)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match=r"level 'small' needs about 0.0 GB for its weights, 0.0 GB are free on cpu"):
        load_candidates(model("big", 0), [f"small={paths['small']}"])
    monkeypatch.undo()
    check_memory("small", 1000, torch.device("cpu"))
    check_memory("small", None, torch.device("cpu"))


def test_a_prompt_without_room_in_a_levels_context_is_refused():
    candidates = family(max_position_embeddings=64)
    candidates.check_room(63)
    with pytest.raises(ValueError, match="level 'small' was made for 64 tokens, the prompt has 64"):
        candidates.check_room(64)


def test_a_copy_in_four_bits_has_the_targets_head_and_its_text():
    """In float32, of the packaged default: the copy drafts with the head, the target's own greedy text comes out."""
    target = load_target(device="cpu", dtype=torch.float32)
    candidates = load_candidates(target, ["copy=int4"], load_head(target=target))
    copy = candidates.member("copy-int4")
    assert copy.head is candidates.head and copy.model is not target
    assert bytes_of(copy.model.model) < bytes_of(target.model) / 2  # the embedding stays in float32
    drafter = build_drafter(candidates, hand_made(("copy=int4:buffer=5",), with_head=True))
    options, ids = DecodeOptions(Sampling(), 40), target.tokenizer("Water boils when").input_ids
    steps = list(Session(target, drafter).decode(ids, options))
    text = [token for step in steps for token in step.tokens]
    assert text == [token for step in autoregressive(target, ids, options) for token in step.tokens]
    assert sum(step.num_accepted for step in steps) >= 20  # the copy knows what the target will say


def test_eight_bit_floats_are_for_gpus_that_multiply_them(monkeypatch):
    with pytest.raises(ValueError, match=r"copy=fp8 needs a GPU of compute capability 8\.9, cpu has none"):
        load_candidates(model("big", 0), ["copy=fp8"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ValueError, match=r"cuda:0 has 8\.0: take copy=int8"):
        check_precision("fp8", torch.device("cuda:0"))
