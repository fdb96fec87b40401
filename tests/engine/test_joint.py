"""One pass over the trees of several sequences against a pass of each."""

import pytest
import torch

from eagle.engine.joint import score_together
from eagle.engine.masks import ancestor_matrix
from eagle.engine.requests import TreeScore
from eagle.engine.suitability import spread_apart
from eagle.engine.target import Target
from tests.engine.families import RIGHT, WINDOW, family_target
from tests.tiny import random_ids, tiny_target

# A row's attention is its own call; only the sums of the other layers run in another order. Over a hundred random
# families the worst is 3e-6 of a row's spread: sums of 1e-7 each over nine layers. A row that read its neighbour's
# keys, positions or mask is off by 0.1 and more.
TOLERANCE = 1e-5
ROWS = ((3, (-1, 0, 0, 1, 3)), (2 * WINDOW + 3, (-1,)), (WINDOW, (-1, 0, 1, 2, 0, 4, 1)))  # tokens before, parents


def trees(target: Target, rows=ROWS) -> list[TreeScore]:
    asked = []
    for seed, (length, parents) in enumerate(rows):
        ids, cache = torch.tensor(random_ids(length + len(parents), seed)), target.new_cache()
        target.prefill(ids[:length], cache)
        asked.append(TreeScore(target, ids[length:], ancestor_matrix(parents), cache))
    return asked


@torch.inference_mode()
def apart(target: Target) -> float:
    """The worst row of logits and features, and of the next tree's behind a path that was kept."""
    alone, joint = trees(target), trees(target)
    worst = 0.0
    for _ in range(2):
        wanted, got = [one.alone() for one in alone], score_together(target, joint)
        for one, other in zip(got, wanted, strict=True):
            worst = max(worst, spread_apart(one.logits, other.logits), spread_apart(one.features, other.features))
        for tree in (*alone, *joint):
            tree.cache.keep(torch.tensor([0, len(tree.tokens) - 1][: len(tree.tokens)]))
    return worst


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "mixtral", "gpt_oss"]
)
def test_logits_and_features_are_those_of_each_row_alone(family):
    """Full, sliding and mixed layers, a softcap, sinks, experts: whatever a family's own attention does."""
    target = family_target(family, RIGHT[family])
    assert target.why_not_together is None
    assert apart(target) < TOLERANCE


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_either_kernel(attention):
    assert apart(tiny_target(attention=attention)) < TOLERANCE


def test_the_model_attends_as_before_afterwards():
    target = tiny_target()
    before = target.config._attn_implementation
    score_together(target, trees(target))
    assert target.config._attn_implementation == before
    broken = trees(target)
    broken[1].cache.limit = broken[1].cache.length
    with pytest.raises(ValueError, match="exceed the target's context"):
        score_together(target, broken)
    assert target.config._attn_implementation == before and all(
        tree.cache.length == own[0] for tree, own in zip(broken, ROWS, strict=True)
    )


@torch.inference_mode()
@pytest.mark.parametrize("wrong", ["caches", "ancestors"])
def test_rows_that_are_mixed_up_are_seen(wrong):
    """What the tolerance is worth: two rows change their caches, or their masks."""
    target = tiny_target()
    rows = ((9, (-1, 0, 0, 1)), (9, (-1, 0, 1, 2)))
    wanted = [one.alone() for one in trees(target, rows)]
    one, other = trees(target, rows)
    if wrong == "caches":
        mixed = [
            TreeScore(target, one.tokens, one.ancestors, other.cache),
            TreeScore(target, other.tokens, other.ancestors, one.cache),
        ]
    else:
        mixed = [
            TreeScore(target, one.tokens, other.ancestors, one.cache),
            TreeScore(target, other.tokens, one.ancestors, other.cache),
        ]
    got = score_together(target, mixed)
    assert min(spread_apart(a.logits, b.logits) for a, b in zip(got, wanted, strict=True)) > 1000 * TOLERANCE


def test_who_cannot_share_a_pass_takes_turns():
    growing = tiny_target(rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    assert "rotary angles" in (growing.why_not_together or "")
    assert all(tree.partners is None for tree in trees(growing))
    fine = tiny_target()
    assert {tree.partners for tree in trees(fine)} == {fine}
