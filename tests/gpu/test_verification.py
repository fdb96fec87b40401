"""Verification on an accelerator against the CPU, in float64."""

import pytest
import torch

import hsd_verify
from eagle.noise import NoiseField
from eagle.sampling import Sampling
from hsd_verify import VERIFIERS, DraftTree
from hsd_verify.draw import draw_indices
from tests.conftest import needs_gpu

VOCAB = 211
SEEDS = range(6)
CHAIN, BRANCHING, PATHS = [-1, 0, 1, 2], [-1, 0, 0, 1, 1, 2], [-1, 0, 0, 1, 2]
TREES = {"block": CHAIN, "hsd_capped": CHAIN, "naive": [-1, 0], "hsd_multidraft": PATHS}


def laws(count: int, seed: int) -> torch.Tensor:
    """Peaked ones, so that many outcomes happen: (count, V) float64."""
    return (3 * torch.randn(count, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(
        -1
    )


def drawn_tree(parents: list[int], seed: int, device: torch.device) -> tuple[DraftTree, torch.Tensor]:
    """A tree whose nodes were drawn, siblings of paths with replacement, and the target's laws (N, V)."""
    count, given = len(parents), laws(2 * len(parents), seed)
    target, draft, tokens, again = given[:count], given[count:], [0] * count, parents == PATHS
    for parent in range(count):
        children = [node for node in range(count) if parents[node] == parent]
        if children:
            generator = torch.Generator().manual_seed(seed + parent)
            drawn = torch.multinomial(draft[parent], len(children), replacement=again, generator=generator)
            for child, token in zip(children, drawn.tolist(), strict=True):
                tokens[child] = token
    tree = DraftTree(
        torch.tensor(parents, device=device),
        torch.tensor(tokens, device=device),
        sampled=torch.tensor([False] + [True] * (count - 1), device=device),
        draft_probs=draft.to(device),
        replacement=again,
    )
    return tree, target.to(device)


def tree_for(verifier: str, seed: int, device: torch.device) -> tuple[DraftTree, torch.Tensor]:
    """One that the verifier applies to: for `greedy` nodes that were placed, and one-hot laws."""
    tree, target = drawn_tree(TREES.get(verifier, BRANCHING), seed, device)
    if verifier != "greedy":
        return tree, target
    return DraftTree(tree.parents, tree.tokens), Sampling().laws(target.log())


@needs_gpu
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_a_law_is_the_same_there(accelerator, verifier, seed):
    """To 1e-12: sums in float64 in another order."""
    here, there = (
        hsd_verify.law(*tree_for(verifier, seed, device), verifier) for device in (torch.device("cpu"), accelerator)
    )
    torch.testing.assert_close(there.stop.cpu(), here.stop, rtol=0, atol=1e-12)
    for node in range(here.tree.num_nodes):
        torch.testing.assert_close(there.residual(node).cpu(), here.residual(node), rtol=0, atol=1e-12)


@needs_gpu
@pytest.mark.parametrize("verifier", ["hsd", "tokenwise", "traversal"])
def test_a_verdict_is_the_law_of_its_outcome(accelerator, verifier):
    """4,000 draws: the first node's share is within 5 standard errors of its law, a false alarm in 1.7 million."""
    tree, target = drawn_tree(BRANCHING, 3, accelerator)
    generator = torch.Generator(accelerator).manual_seed(1)
    stop = hsd_verify.law(tree, target, verifier).stop.cpu()
    ends = torch.zeros(len(stop), dtype=torch.float64)
    for _ in range(4000):
        ends[hsd_verify.verify(tree, target, verifier, generator).node] += 1
    deviation = (stop * (1 - stop) / 4000).sqrt().clamp_min(1e-9)
    assert bool(((ends / 4000 - stop).abs() <= 5 * deviation + 1e-9).all())


@needs_gpu
def test_draws_and_noise_are_the_same_numbers(accelerator):
    weights, uniforms = laws(64, 5), torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    there = draw_indices(weights.to(accelerator), uniforms.to(accelerator)).cpu()
    assert torch.equal(there, draw_indices(weights, uniforms))
    rows = [NoiseField(17, device).rows([3, 9, 250], VOCAB).cpu() for device in (torch.device("cpu"), accelerator)]
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-6, atol=1e-6)  # logarithms of two libraries, in float32
