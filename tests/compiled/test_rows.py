"""Rows of a batch by one compiled pass, of the target and of the head: bit for bit what each gets alone."""

import pytest
import torch

from eagle.compiled.graph import MOST_NODES, in_groups
from eagle.compiled.head_passes import compile_head
from eagle.compiled.passes import CompiledPass, compile_passes
from eagle.decode import DecodeOptions
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.drafters.reader import HeadReader
from eagle.drafters.reading import HeadLogits, HeadRead
from eagle.engine.joint import score_together
from eagle.engine.masks import ancestor_matrix, depths, tree_mask
from eagle.engine.requests import TreeScore
from eagle.engine.target import Target
from eagle.kernels.compiler import kernels
from eagle.sampling import Sampling
from eagle.trees import AutoTree, EagleTree
from tests.engine.test_joint import trees
from tests.test_batching import answers, together, told
from tests.tiny import random_ids, tiny_head, tiny_target

# tokens before each tree, and its parents; together more than a pass takes
ROWS = ((20, (-1, 0, 0, 1, 1, 2, 3)), (3, (-1,)), (70, (-1, *[0] * 39)), (5, (-1, *[0] * 29)), (9, (-1, 0, 1)))
assert sum(len(parents) for _, parents in ROWS) > MOST_NODES


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def pair(request) -> tuple[Target, DraftHead]:
    target = tiny_target()
    target.model.to(request.param)
    head = tiny_head(target).to(request.param)
    compile_passes(target, "on")
    compile_head(head, True)
    return target, head


def same(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Where products are torch's own, sums of up to 64 terms run in another order: 1e-4 is a hundred of their errors,
    in bfloat16 a rounding of numbers up to 8."""
    if kernels().has_product():
        return torch.equal(got, wanted)
    return bool((got - wanted).abs().max() < (1e-4 if got.dtype == torch.float32 else 0.05))


@torch.inference_mode()
def test_trees_get_what_they_get_alone_and_so_do_those_behind_what_is_kept(pair, monkeypatch):
    target, _ = pair
    passes, read = [], CompiledPass._read
    monkeypatch.setattr(
        CompiledPass, "_read", lambda self, trees, *others: passes.append(len(trees)) or read(self, trees, *others)
    )
    alone, joint = trees(target, ROWS), trees(target, ROWS)
    for _ in range(2):
        wanted = [tree.alone() for tree in alone]
        passes.clear()
        got = score_together(target, joint)
        assert passes == [3, 2]  # rows of each pass
        for one, alike in zip(got, wanted, strict=True):
            assert same(one.logits, alike.logits) and same(one.features, alike.features)
        for tree in (*alone, *joint):
            tree.cache.keep(torch.tensor([0, len(tree.tokens) - 1][: len(tree.tokens)]))
    for tree, other in zip(joint, alone, strict=True):
        assert tree.cache.length == other.cache.length


def test_a_tree_without_room_is_refused_before_anything_is_written(pair):
    target, _ = pair
    broken = trees(target, ROWS)
    broken[1].cache.limit = broken[1].cache.length
    with pytest.raises(ValueError, match="exceed the target's context"):
        score_together(target, broken)
    assert [tree.cache.length for tree in broken] == [length for length, _ in ROWS]


def test_a_row_that_no_compiled_pass_takes_makes_all_of_them_eager(pair, monkeypatch):
    target, _ = pair
    monkeypatch.setattr(CompiledPass, "score_together", None)
    asked = trees(target, ROWS)
    large = TreeScore(target, torch.arange(65), ancestor_matrix((-1, *[0] * 64)), asked[0].cache)
    outputs = score_together(target, [large, *asked[1:]])
    assert [len(output.logits) for output in outputs] == [65, 1, 40, 30, 3]


@torch.inference_mode()
def test_entries_of_many_heads_states_get_what_they_get_alone(pair):
    target, head = pair
    dtype = head.fc.weight.dtype
    found: list[list[torch.Tensor]] = []
    for is_joint in (False, True):
        asked = []
        for seed, (length, parents) in enumerate(ROWS):
            reader, nodes = HeadReader(head, target.embed), len(parents)
            ids = torch.tensor(random_ids(length + nodes, seed))
            hidden = torch.randn(length + nodes, 32, generator=torch.Generator().manual_seed(seed)).to(dtype)
            before = tree_mask(torch.ones(length, length).tril().bool(), 0, dtype)
            reader.read(hidden[:length], ids[:length], torch.arange(length), before)
            ancestors = ancestor_matrix(parents)
            mask = None if nodes == 1 else tree_mask(ancestors, length, dtype)
            asked.append(HeadRead(reader, hidden[length:], ids[length:], length + depths(ancestors), mask))
        states = HeadRead.together(asked) if is_joint else [one.alone() for one in asked]
        wanting = [HeadLogits(one.reader, own) for one, own in zip(asked, states, strict=True)]
        logits = HeadLogits.together(wanting) if is_joint else [one.alone() for one in wanting]
        assert [one.reader.length for one in asked] == [length + len(parents) for length, parents in ROWS]
        found.append([*states, *logits])
    assert all(same(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("verifier", ["coupled", "hsd"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "warm"])
def test_texts_are_those_of_single_sessions_in_bfloat16_too(pair, sampling, verifier):
    """Where every row has its own bits alone and beside others no near-tie can fall another way."""
    target, head = pair
    if not kernels().has_product() and target.dtype == torch.bfloat16:
        return  # torch's products do not promise it
    options = DecodeOptions(sampling, verifier=verifier, ignore_end=True)
    for policy in (AutoTree(12), EagleTree(20, depth=3, top_k=4)):

        def drafter(policy=policy):
            return EagleDrafter(head, target.embed, policy)

        expected = [told(row.alone()) for row in answers(target, drafter, options)]
        found = [told(steps) for steps in together(answers(target, drafter, options), 4)]
        assert found == expected
    assert any(accepted for row in expected for _, accepted, *_ in row)
    plain = [told(row.alone()) for row in answers(target, lambda: None, options)]
    assert [told(steps) for steps in together(answers(target, lambda: None, options), 4)] == plain


def test_passes_are_as_few_as_hold_all():
    assert in_groups("abcd", [60, 4, 1, 63]) == [["a", "b"], ["c", "d"]]
    assert in_groups("abc", [1, 100, 1]) == [["a"], ["b"], ["c"]]
    assert in_groups("", []) == []
