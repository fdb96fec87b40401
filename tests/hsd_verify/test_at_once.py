"""Verdicts as an accelerator reaches them, compared with draws from the law; here they run on the CPU's tensors."""

from __future__ import annotations

import pytest
import torch

import hsd_verify
from hsd_verify import at_once
from hsd_verify.draw import draw_at
from hsd_verify.exact import enumerate as exact
from hsd_verify.transfer import Nodes, to_device, to_host
from tests.engine.pretend import DEVICE, Pretended, pretending
from tests.hsd_verify.processes import LAWS, PROCESSES
from tests.hsd_verify.test_lazy import ALMOST_ONE, CASES, some_trees
from tests.hsd_verify.trees import numbered_cases, random_case

EXACT = 1e-12
BISECTIONS = 44  # leave an interval of 1e-13
CPU = torch.device("cpu")


def outcome(tree, target, uniforms):
    """Node and token of `hsd`, by what an accelerator does."""
    with torch.inference_mode():
        return tuple(at_once.hsd_outcome(tree, target, target.sum(-1), uniforms).tolist())


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("seed", range(9))
def test_the_same_numbers_give_the_same_verdict_as_the_law(seed, replacement):
    for tree, target, uniforms in numbered_cases(seed, replacement):
        assert outcome(tree, target, uniforms) == draw_at(hsd_verify.law(tree, target), uniforms)


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize("process", PROCESSES)
def test_also_on_degenerate_laws(process, laws):
    """As `test_lazy.py` asks it of the walk on a CPU; next to 1 a verdict need only be possible."""
    target, draft = LAWS[laws]
    for tree in some_trees(process, draft, 3):
        rows = exact.target_rows(tree, target)
        law = hsd_verify.law(tree, rows)
        for uniform in (0.0, 0.5, ALMOST_ONE):
            uniforms = torch.full((tree.num_nodes + 1,), uniform, dtype=torch.float64)
            node, token = outcome(tree, rows, uniforms)
            assert law.stop[node] > 0
            assert law.residual(node)[token] > 0
            assert uniform == ALMOST_ONE or (node, token) == draw_at(law, uniforms)


@pytest.mark.parametrize(("seed", "replacement", "scale"), CASES)
def test_its_verdicts_follow_the_law_exactly(seed, replacement, scale):
    """Stop probabilities read off the verdicts by bisection, as in `test_lazy.py`."""
    tree, target = random_case(seed, 3 + seed % 5, 9, replacement, scale)
    stop, remaining = torch.zeros(tree.num_nodes, dtype=torch.float64), 1.0
    for node in tree.post_order:
        share = threshold(tree, target, node)
        stop[node] = remaining * share
        remaining *= 1 - share
    assert float((stop - hsd_verify.law(tree, target).stop).abs().max()) < EXACT


def threshold(tree, target, node):
    uniforms = torch.full((tree.num_nodes + 1,), ALMOST_ONE, dtype=torch.float64)
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        uniforms[node] = (low + high) / 2
        hit = outcome(tree, target, uniforms)[0] == node
        low, high = (uniforms[node].item(), high) if hit else (low, uniforms[node].item())
    return 1.0 if high == 1 else 0.0 if low == 0 else high


@pytest.mark.parametrize("seed", range(8))
def test_a_token_after_every_node_is_the_walk(seed):
    """Exactly: over all tokens that can be drawn after the nodes, weighted with their laws, verdicts have its law."""
    tree, target = random_case(seed, 4, 3, scale=1.0)
    law = hsd_verify.law(tree, target, "walk")
    found = torch.zeros(4, 3, dtype=torch.float64)
    for tokens in torch.cartesian_prod(*[torch.arange(3)] * 4):
        verdict = hsd_verify.verify_chosen(tree, tokens)
        found[verdict.node, verdict.next_token] += target.gather(1, tokens[:, None]).prod()
    expected = torch.stack([law.stop[node] * law.residual(node) for node in range(4)])
    assert float((found - expected).abs().max()) < EXACT


@pytest.mark.parametrize("seed", range(12))
def test_what_siblings_were_drawn_from_is_the_same_by_rows(seed):
    tree, _ = random_case(seed, 12, 9, scale=(0.3, 8.0)[seed % 2])
    if tree.draft_probs is not None:
        expected = torch.tensor(tree.kept_of, dtype=torch.float64)
        torch.testing.assert_close(tree.kept_by_rows(), expected, atol=EXACT, rtol=0)  # float64, another order of sums


def there(tree, target):
    """The tree and its laws on the pretended device."""
    parents, tokens, sampled = map(Pretended, (tree.parents, tree.tokens, tree.sampled))
    rows = None if tree.draft_probs is None else Pretended(tree.draft_probs)
    return hsd_verify.DraftTree(parents, tokens, sampled, rows, tree.replacement), Pretended(target)


def verdict_of(call, *args):
    verdict = call(*args)
    return verdict.path.tolist(), verdict.next_token


@pytest.mark.parametrize("verifier", ["hsd", "walk", "tokenwise", "greedy"])
@pytest.mark.parametrize("seed", range(4))
def test_an_accelerator_is_waited_for_once_a_verdict(seed, verifier):
    tree, target = random_case(seed, 9, 12)
    if verifier == "greedy":
        target = torch.eye(12, dtype=torch.float64)[target.argmax(-1)]
    uniforms = torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rule = hsd_verify.VERIFIERS[verifier]
    expected = verdict_of(at_once.verdict_of_law, rule, tree, target, uniforms)
    with pretending() as counted, torch.inference_mode():
        far, rows = there(tree, target)
        counted.clear()
        found = verdict_of(at_once.verdict_at_once, far, rows, verifier, rule, Pretended(uniforms))
        assert counted.num_waits == 1, counted.waits
    assert found == expected or verifier == "walk"


@pytest.mark.parametrize("verifier", ["hsd", "tokenwise"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda draft: draft * 1.1, r"draft_probs\[\d\] \(node \d\) sums to 1.1.*renormalise"),
        (lambda draft: draft - 0.5, r"draft_probs\[\d\] \(node \d\) has the entry -0"),
        (lambda draft: draft * torch.nan, r"draft_probs\[\d\] \(node \d\) has the entry nan"),
        (
            lambda draft: torch.eye(12, dtype=torch.float64)[[11] * 9],
            r"is sampled with token \d+, to which draft_probs",
        ),
    ],
)
def test_proposals_that_are_no_laws_are_refused_before_anything_is_emitted(change, message, verifier):
    """On a CPU a tree is refused when it is built, on an accelerator with its verdict, in the same words."""
    tree, target = random_case(1, 9, 12)
    with pytest.raises(ValueError, match=message):
        hsd_verify.DraftTree(tree.parents, tree.tokens, tree.sampled, change(tree.draft_probs))
    with pretending(), torch.inference_mode():
        parents, tokens, sampled = map(Pretended, (tree.parents, tree.tokens, tree.sampled))
        wrong = hsd_verify.DraftTree(parents, tokens, sampled, Pretended(change(tree.draft_probs)))
        uniforms = Pretended(torch.full((10,), 0.5, dtype=torch.float64))
        rule = hsd_verify.VERIFIERS[verifier]
        with pytest.raises(ValueError, match=message):
            at_once.verdict_at_once(wrong, Pretended(target), verifier, rule, uniforms)
        with pytest.raises(ValueError, match=message):
            hsd_verify.law(wrong, Pretended(target), "tokenwise")


@pytest.mark.parametrize("verifier", ["hsd", "walk", "tokenwise"])
def test_targets_that_are_no_laws_are_refused_where_they_are_used(verifier):
    tree = hsd_verify.DraftTree(torch.tensor([-1, 0]), torch.tensor([0, 1]))
    rule, half = hsd_verify.VERIFIERS[verifier], torch.full((3,), 0.5, dtype=torch.float64)
    for rows, message in (
        ([[0.5, 0.0, 0.0], [1.0, 0.0, 0.0]], r"target_probs\[0\] \(node 0\) sums to 0.5"),
        ([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]], r"target_probs\[1\] \(node 1\) sums to 2"),
    ):
        with pretending(), torch.inference_mode():
            far, laws = there(tree, torch.tensor(rows))
            with pytest.raises(ValueError, match=message):
                at_once.verdict_at_once(far, laws, verifier, rule, Pretended(half))
    with pretending(), torch.inference_mode():  # the row of a leaf where the verdict does not end
        far, laws = there(tree, torch.tensor([[1.0, 0.0, 0.0], [9.0, 0.0, 0.0]]))
        assert at_once.verdict_at_once(far, laws, verifier, rule, Pretended(half)).next_token == 0


def test_rows_of_nodes_that_draw_nothing_are_not_read():
    tree = hsd_verify.DraftTree(
        torch.tensor([-1, 0, 1]),
        torch.tensor([0, 1, 2]),
        torch.tensor([False, True, False]),
        torch.tensor([[0.2, 0.8, 0.0], [torch.nan] * 3, [torch.inf] * 3], dtype=torch.float64),
    )
    target = torch.tensor([[0.2, 0.3, 0.5]] * 3, dtype=torch.float64)
    law = hsd_verify.law(tree, target)
    for uniforms in torch.rand(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        assert outcome(tree, target, uniforms) == draw_at(law, uniforms)


def test_one_transfer_brings_tensors_of_all_kinds():
    given = [torch.tensor([True, False]), torch.arange(3), torch.rand(2, 3), torch.tensor(2.5).double(), torch.empty(0)]
    assert all(a is b for a, b in zip(to_host(*given), given, strict=True))
    with pretending() as counted:
        found = to_host(*map(Pretended, given))
        assert counted.num_waits == 1
    for one, own in zip(found, given, strict=True):
        assert one.dtype == own.dtype and torch.equal(one, own)


def test_one_upload_brings_lists_one_and_two_deep():
    lists: list[Nodes] = [[1, 2], [], [[3], [4]], [[], []], [5]]
    assert [one.tolist() for one in to_device(lists, CPU)] == lists
    with pretending() as counted:
        to_device(lists, DEVICE)
        assert (counted.num_waits, counted.num_uploads) == (0, 1)
