"""What holds for every tree: laws are laws, names of tokens do not matter, nor does a child that cannot be accepted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hsd_verify
from tests.hsd_verify.trees import outcome, random_case

EVERY_TREE = ["walk", "tokenwise", "hsd"]
EXACT = 1e-12  # float64 rounding of a few dozen operations, with room to spare

cases = st.builds(
    random_case,
    seed=st.integers(0, 10_000),
    num_nodes=st.integers(1, 9),
    vocab=st.integers(9, 12),  # at least as many tokens as nodes, so that any node can have all the others as children
    replacement=st.booleans(),
    scale=st.sampled_from([0.3, 2.0, 8.0]),
)
quick = settings(max_examples=40, deadline=None)  # no deadline: the machine may be busy


@quick
@given(case=cases, verifier=st.sampled_from(EVERY_TREE))
def test_laws_are_laws(case, verifier):
    law = hsd_verify.law(*case, verifier)  # type: ignore[call-arg]
    joint = outcome(law)
    assert (joint >= 0).all()
    assert float(joint.sum()) == pytest.approx(1, abs=EXACT)
    assert law.expected_tau == pytest.approx(float(law.reach[1:].sum()), abs=EXACT)
    assert float(law.reach[0]) == pytest.approx(1, abs=EXACT)


@quick
@given(case=cases, verifier=st.sampled_from(EVERY_TREE), seed=st.integers(0, 99))
def test_permuting_the_vocabulary_permutes_the_law(case, verifier, seed):
    tree, target = case
    order = torch.randperm(target.shape[1], generator=torch.Generator().manual_seed(seed))  # new id -> old id
    renamed = hsd_verify.DraftTree(
        tree.parents,
        order.argsort()[tree.tokens],
        tree.sampled,
        None if tree.draft_probs is None else tree.draft_probs[:, order],
        tree.replacement,
    )
    law, permuted = outcome(hsd_verify.law(tree, target, verifier)), hsd_verify.law(renamed, target[:, order], verifier)
    assert torch.allclose(outcome(permuted), law[:, order], rtol=0, atol=EXACT)


@quick
@given(case=cases, verifier=st.sampled_from(EVERY_TREE), data=st.data())
def test_a_placed_child_of_probability_zero_changes_nothing(case, verifier, data):
    tree, target = case
    parent = data.draw(st.integers(0, tree.num_nodes - 1))
    wide = torch.cat([target, torch.zeros(len(target), 1, dtype=target.dtype)], dim=1)  # (N, V + 1): a token never used
    new_row = torch.full((1, wide.shape[1]), 1 / wide.shape[1], dtype=target.dtype)
    draft = tree.draft_probs
    padded = hsd_verify.DraftTree(
        torch.cat([tree.parents, torch.tensor([parent])]),
        torch.cat([tree.tokens, torch.tensor([target.shape[1]])]),
        torch.cat([tree.sampled, torch.tensor([False])]),
        None if draft is None else torch.nn.functional.pad(draft, (0, 1, 0, 1)),
        tree.replacement,
    )
    before = outcome(hsd_verify.law(tree, target, verifier))
    after = outcome(hsd_verify.law(padded, torch.cat([wide, new_row]), verifier))
    assert torch.allclose(after[:-1, :-1], before, rtol=0, atol=EXACT)
    assert float(after[-1].sum() + after[:, -1].sum()) == 0


@quick
@given(case=cases, verifier=st.sampled_from(EVERY_TREE), seed=st.integers(0, 99))
def test_one_generator_state_gives_one_verdict(case, verifier, seed):
    tree, target_probs = case
    generators = (torch.Generator().manual_seed(seed) for _ in range(2))
    first, second = (hsd_verify.verify(tree, target_probs, verifier, generator) for generator in generators)
    assert first.path.tolist() == second.path.tolist()
    assert first.next_token == second.next_token


@quick
@given(
    seeds=st.lists(st.integers(0, 10_000), min_size=1, max_size=4),
    verifier=st.sampled_from(EVERY_TREE),
    replacement=st.booleans(),
)
def test_a_batch_equals_its_rows(seeds, verifier, replacement):
    rows = [random_case(seed, 3 + seed % 5, 9, replacement) for seed in seeds]
    num_nodes = max(tree.num_nodes for tree, _ in rows)
    batch = torch.full((len(rows), num_nodes, 9), torch.nan, dtype=torch.float64)  # padding that must never be read
    for padded, (tree, target) in zip(batch, rows, strict=True):
        padded[: tree.num_nodes] = target
    trees = [tree for tree, _ in rows]
    for law, (tree, target) in zip(hsd_verify.law_batch(trees, batch, verifier), rows, strict=True):
        assert torch.allclose(outcome(law), outcome(hsd_verify.law(tree, target, verifier)), rtol=0, atol=EXACT)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    verdicts = hsd_verify.verify_batch(trees, batch, verifier, generators)
    for verdict, seed, (tree, target) in zip(verdicts, seeds, rows, strict=True):
        alone = hsd_verify.verify(tree, target, verifier, torch.Generator().manual_seed(seed))
        assert (verdict.path.tolist(), verdict.next_token) == (alone.path.tolist(), alone.next_token)


def test_rows_of_a_batch_may_differ_in_replacement():
    rows = [random_case(5, 6, 9, replacement) for replacement in (False, True)]
    laws = hsd_verify.law_batch([tree for tree, _ in rows], torch.stack([target for _, target in rows]))
    for law, row in zip(laws, rows, strict=True):
        assert torch.allclose(outcome(law), outcome(hsd_verify.law(*row)), rtol=0, atol=EXACT)
