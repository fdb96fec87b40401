"""Impossible input is refused with the node, the value and the remedy; nothing is repaired in silence."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

import hsd_verify

ROW = [0.5, 0.3, 0.2]
CHAIN = {"parents": [-1, 0, 1], "tokens": [0, 1, 2], "sampled": [False, True, True], "draft_probs": [ROW, ROW, ROW]}


def make(**changes):
    fields = CHAIN | changes
    tensors: dict[str, Any] = {k: v if k == "replacement" or v is None else torch.tensor(v) for k, v in fields.items()}
    return hsd_verify.DraftTree(**tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parents": [0, 0, 1]}, r"parents is \[0\].*node 0 is the root.*-1"),
        ({"parents": [-1, 2, 1]}, r"node 1 has parent 2.*parents before children"),
        ({"parents": [-1, -1, 0]}, r"node 1 has parent -1"),
        ({"tokens": [0, 1]}, r"tokens has shape \(2,\).*\(3,\)"),
        ({"tokens": [0.0, 1.0, 2.0]}, r"tokens is torch.float32.*integers"),
        ({"tokens": [0, -1, 2]}, r"node 1 has token -1.*0 or more"),
        ({"tokens": [0, 1, 3]}, r"draft_probs knows 3 tokens"),
        ({"tokens": [False, True, True]}, r"tokens is torch.bool.*integers"),
        ({"parents": [-1 + 0j, 0j, 1 + 0j]}, r"parents is torch.complex64.*integers"),
        ({"draft_probs": [[1, 0, 0]] * 3}, r"draft_probs is torch.int64, laws must be float32 or float64"),
        ({"sampled": [True, True, True]}, r"node 0 is marked sampled.*sampled\[0\] = False"),
        ({"sampled": [0, 1, 1]}, r"sampled is torch.int64.*booleans"),
        ({"draft_probs": None}, r"node 1 is sampled but draft_probs is None"),
        ({"draft_probs": [ROW, ROW]}, r"draft_probs has shape \(2, 3\).*3 nodes"),
        ({"draft_probs": [ROW, [0.5, 0.3, 0.3], ROW]}, r"draft_probs\[1\] \(node 1\) sums to 1.1.*renormalise"),
        ({"draft_probs": [ROW, [0.8, -0.3, 0.5], ROW]}, r"draft_probs\[1\] \(node 1\) has the entry -0.3"),
        ({"draft_probs": [ROW, [0.5, 0.5, 0.0], ROW]}, r"node 2 is sampled with token 2.*draft_probs\[1\] gives 0.0"),
        (
            {"parents": [-1, 0, 0], "tokens": [0, 1, 1]},
            r"node 2 repeats token 1 of a sampled sibling below node 0.*replacement=True",
        ),
    ],
)
def test_trees_that_cannot_have_been_drafted(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_duplicates_are_fine_with_replacement():
    assert make(parents=[-1, 0, 0], tokens=[0, 1, 1], replacement=True).num_nodes == 3


@pytest.mark.parametrize("call", [hsd_verify.law, hsd_verify.verify])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], r"target_probs has shape \(2, 3\), the tree has 3 nodes"),
        ([ROW + [0.0]] * 3, r"draft_probs has shape \(3, 3\), target_probs \(3, 4\)"),
        ([ROW, [0.25, 0.15, 0.1], ROW], r"target_probs\[1\] \(node 1\) sums to 0.5, not 1: renormalise"),
        ([[1.2, -0.2, 0.0], ROW, ROW], r"target_probs\[0\] \(node 0\) has the entry -0.2"),
        ([ROW, [float("nan"), 0.5, 0.5], ROW], r"target_probs\[1\] \(node 1\) has the entry nan"),
    ],
)
def test_targets_that_are_not_laws(call, rows, message):
    with pytest.raises(ValueError, match=message):
        call(make(), torch.tensor(rows))


def test_law_checks_every_row_and_verify_the_rows_it_uses():
    """The row of a leaf matters only if the verdict ends there: p = q on the path makes that certain."""
    broken_leaf = torch.tensor([ROW, ROW, [0.5, 0.3, 0.3]])
    for call in (hsd_verify.law, hsd_verify.verify):
        with pytest.raises(ValueError, match=r"target_probs\[2\] \(node 2\) sums to 1.1"):
            call(make(), broken_leaf)
    never = torch.tensor([[1.0, 0.0, 0.0], ROW, [0.5, 0.3, 0.3]])
    assert hsd_verify.verify(make(), never).num_accepted == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(ValueError, match=r"target_probs is torch\.b?float16.*`logits.float\(\).softmax\(-1\)`"):
        hsd_verify.law(make(), torch.tensor([ROW] * 3).to(dtype))
    with pytest.raises(ValueError, match=r"draft_probs is torch\.b?float16"):
        placed = map(torch.tensor, ([-1, 0], [0, 1], [False, True]))
        hsd_verify.DraftTree(*placed, torch.tensor([ROW] * 2).to(dtype))  # type: ignore[call-arg, arg-type]


def test_precisions_are_not_mixed():
    with pytest.raises(ValueError, match=r"draft_probs is torch.float32, target_probs torch.float64"):
        hsd_verify.law(make(), torch.tensor([ROW] * 3, dtype=torch.float64))


def test_a_placed_token_outside_the_vocabulary():
    tree = hsd_verify.DraftTree(torch.tensor([-1, 0]), torch.tensor([0, 7]))
    with pytest.raises(ValueError, match=r"node 1 has token 7: target_probs knows 3 tokens"):
        hsd_verify.law(tree, torch.tensor([ROW] * 2))


def test_unknown_methods_list_the_known_ones():
    with pytest.raises(ValueError, match=r"no verifier 'best'.*greedy.*hsd"):
        hsd_verify.law(make(), torch.tensor([ROW] * 3), "best")


def test_a_batch_names_the_tree():
    with pytest.raises(ValueError, match=r"tree 1: target_probs\[0\] \(node 0\) sums to 1.5"):
        hsd_verify.law_batch([make(), make()], torch.tensor([[ROW] * 3, [[0.5, 0.5, 0.5], ROW, ROW]]))


@pytest.mark.parametrize("call", [hsd_verify.law, hsd_verify.verify])
@pytest.mark.parametrize(
    ("tree", "rows", "message"),
    [
        (None, torch.tensor([ROW] * 3), "tree is a NoneType: pass a DraftTree"),
        (make(), [ROW] * 3, "target_probs is a list: pass a tensor"),
        (make(), None, "target_probs is a NoneType: pass a tensor"),
        (make(), torch.tensor(1.0), r"target_probs has shape \(\), the tree has 3 nodes"),
        (make(), torch.tensor([[1, 0, 0]] * 3), "target_probs is torch.int64, laws must be float32 or float64"),
    ],
)
def test_other_types_than_trees_and_laws(call, tree, rows, message):
    with pytest.raises(ValueError, match=message):
        call(tree, rows)


@pytest.mark.parametrize("values", [None, "abc", [[0], [1, 2]], object()])
def test_what_is_no_list_of_integers_is_named(values):
    with pytest.raises(ValueError, match=r"parents is .*: pass a tensor or a list of integers"):
        hsd_verify.DraftTree(values, torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_narrow_integers_are_widened(dtype):
    tree = make()
    narrow = hsd_verify.DraftTree(tree.parents.to(dtype), tree.tokens.to(dtype), tree.sampled, tree.draft_probs)
    assert narrow.parents.dtype == narrow.tokens.dtype == torch.int64
    assert torch.equal(hsd_verify.law(narrow, torch.tensor([ROW] * 3)).stop, torch.tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("verifier", hsd_verify.VERIFIERS)
def test_a_bare_root_adds_the_targets_own_token(verifier):
    """Every decode meets it at its end; 'block', 'hsd_capped' and 'naive' died there, asking for a law of nothing."""
    bare = hsd_verify.DraftTree(torch.tensor([-1]), torch.tensor([4]))
    row = torch.tensor([[0.0, 1.0, 0.0]] if verifier == "greedy" else [ROW])
    law = hsd_verify.law(bare, row, verifier)
    assert law.stop.tolist() == [1.0] and torch.equal(law.residual(0), row[0])
    assert hsd_verify.verify(bare, row, verifier).num_accepted == 0


@pytest.mark.parametrize("verifier", sorted(hsd_verify.VERIFIERS.keys() - {"greedy", "naive"}))
def test_a_path_deeper_than_pythons_stack(verifier):
    """'traversal' visited nodes by recursion and ended in a RecursionError."""
    num_nodes = sys.getrecursionlimit() + 10
    rows = torch.tensor([ROW] * num_nodes, dtype=torch.float64)
    sampled = torch.ones(num_nodes, dtype=torch.bool).index_fill(0, torch.tensor(0), False)
    tokens = torch.zeros(num_nodes, dtype=torch.int64)
    tree = hsd_verify.DraftTree(torch.arange(-1, num_nodes - 1), tokens, sampled, rows)
    stop = hsd_verify.law(tree, rows, verifier).stop
    assert float(stop.sum()) == pytest.approx(1, abs=1e-12)  # some thousand float64 products
    assert verifier == "walk" or stop[-1] == 1  # p = q: whoever looks at q accepts the whole path


def test_naive_hsd_needs_the_models_beyond_one_token():
    with pytest.raises(ValueError, match=r"'naive' resamples outside the tree.*naive.emissions"):
        hsd_verify.law(make(), torch.tensor([ROW] * 3), "naive")


def test_importing_loads_torch_alone():
    code = "import sys, hsd_verify; print({'transformers', 'eagle'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
