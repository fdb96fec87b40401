"""The target against the slow, obvious way: one path at a time, no cache, no tree mask."""

from typing import Any

import pytest
import torch

from eagle.engine.feature_layers import default_feature_layers
from eagle.engine.masks import ancestor_matrix, depths, tree_mask
from tests.tiny import random_ids, tiny_target

PARENTS = [-1, 0, 0, 1, 1, 2, 3]
# float32 sums of a few hundred terms in another order; an error in mask, position or layer is of the order of 1
TOLERANCE = 5e-5
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 8}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 8}),
    ("mixtral", {"num_local_experts": 4}),
    ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}),
]
EAGER_ONLY = {"gemma2"}  # transformers has no other kernel with a softcap


def path_by_path(target, prefix, tokens):
    """Logits and features after every node, each from a forward of its own over prefix + path."""
    ancestors = ancestor_matrix(PARENTS)
    for node in range(len(PARENTS)):
        ids = torch.cat([prefix, tokens[ancestors[node]]])[None]
        output = target.model(ids, output_hidden_states=True)
        hidden = [output.hidden_states[layer][0, -1] for layer in target.feature_layers]
        yield output.logits[0, -1], torch.cat(hidden)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("family", "changes"), FAMILIES, ids=[f"{f}-{list(c.values())}" for f, c in FAMILIES])
def test_tree_forward_equals_path_by_path(family, changes, attention):
    attention = "eager" if family in EAGER_ONLY else attention
    target = tiny_target(family, attention, **changes)
    prefix, tokens = torch.tensor(random_ids(20)), torch.tensor(random_ids(len(PARENTS), seed=1))
    cache = target.new_cache()
    target.prefill(prefix[:15], cache)  # in two pieces: the second goes behind a filled cache
    target.prefill(prefix[15:], cache)
    output = target.forward_tree(tokens, ancestor_matrix(PARENTS), cache)
    with torch.no_grad():
        for node, (logits, features) in enumerate(path_by_path(target, prefix, tokens)):
            torch.testing.assert_close(output.logits[node], logits, atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(output.features[node], features, atol=TOLERANCE, rtol=0)


def test_prefill_features_are_the_hidden_states_of_three_different_layers(target):
    ids = torch.tensor(random_ids(12))
    output = target.prefill(ids, target.new_cache())
    with torch.no_grad():
        hidden = target.model(ids[None], output_hidden_states=True).hidden_states
    assert target.feature_layers == (2, 4, 6)
    # cached and uncached attention take different kernels, hence the tolerance
    torch.testing.assert_close(output.features, torch.cat([hidden[i][0] for i in (2, 4, 6)], -1), atol=5e-5, rtol=0)


def test_read_gives_features_of_a_batch_and_logits_where_asked(target):
    ids = torch.tensor([random_ids(10), random_ids(10, seed=1)])
    output = target.read(ids, logits_to_keep=torch.tensor([3, 9]))
    with torch.no_grad():
        expected = target.model(ids, output_hidden_states=True, use_cache=False)
    torch.testing.assert_close(output.logits, expected.logits[:, [3, 9]], atol=5e-5, rtol=0)
    assert torch.equal(output.features[..., :32], expected.hidden_states[2])


def test_hooks_are_gone_after_a_forward_and_after_an_error(target):
    with pytest.raises(IndexError):
        target.prefill(torch.tensor([10_000]), target.new_cache())
    assert not any(layer._forward_pre_hooks for layer in target.layers)


def test_targets_too_shallow_for_three_features_are_refused():
    with pytest.raises(ValueError, match="has 5 layers, EAGLE-3 features need at least 7"):
        default_feature_layers(5)


def test_flash_attention_is_refused_for_tree_scoring(target, monkeypatch):
    monkeypatch.setattr(target.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match="takes no tree mask: load the target with 'sdpa' or 'eager'"):
        target.forward_tree(torch.tensor([1, 2]), ancestor_matrix([-1, 0]), target.new_cache())


@pytest.mark.parametrize(("given", "expected"), [(None, set()), (5, {5}), ([5, 7], {5, 7})])
def test_every_end_token_counts(given, expected):
    target = tiny_target()
    target.model.generation_config.eos_token_id = given
    assert target.end_token_ids == expected


def test_ancestors_and_depths_of_a_drawn_tree():
    ancestors = ancestor_matrix([-1, 0, 0, 1])
    assert ancestors.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]
    assert depths(ancestors).tolist() == [0, 1, 1, 2]


def test_tree_mask_is_additive_and_finite():
    """A boolean mask is right under sdpa and silently wrong under eager attention; minus infinity makes rows of nan."""
    mask = tree_mask(ancestor_matrix([-1, 0, 0]), prefix_length=2, dtype=torch.float16)
    low = torch.finfo(torch.float16).min
    assert mask.dtype == torch.float16 and mask.shape == (1, 1, 3, 5)
    assert mask[0, 0].tolist() == [[0, 0, 0, low, low], [0, 0, 0, 0, low], [0, 0, 0, low, 0]]


def test_a_sliding_window_counts_positions_and_not_entries():
    """Siblings share a position, so a window of 2 shows a leaf its parent however many siblings lie between them."""
    mask = tree_mask(ancestor_matrix([-1, 0, 0, 0, 1]), prefix_length=1, dtype=torch.float32, window=2)[0, 0]
    assert (mask[4] == 0).tolist() == [False, False, True, False, False, True]
    assert (mask[0] == 0).tolist() == [True, True, False, False, False, False]
