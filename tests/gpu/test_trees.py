"""Trees grown on an accelerator against the CPU's."""

import pytest
import torch
from torch import Tensor

from eagle.chance import Chance, Noise
from eagle.noise import NoiseField
from eagle.sampling import Sampling, seeded
from eagle.trees import CoupledTree, EagleTree
from eagle.trees.exact import TableProposer
from eagle.trees.protocols import grown
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from tests.conftest import needs_gpu
from tests.engine.test_waits import NAMED, WARM

DRAFT, VOCAB = 20, 97


def tree_on(policy, seed: int, device: torch.device, sampling: Sampling, with_noise: bool) -> DraftTree:
    table = 3 * torch.randn(64, DRAFT, generator=seeded(seed))  # a row a text

    def logits(text: tuple[int, ...]) -> Tensor:
        return table[hash(text) % 64].to(device)

    known = DraftVocabulary(torch.arange(DRAFT, device=device) * 2, torch.ones(VOCAB, dtype=torch.bool, device=device))
    noise = Noise(NoiseField(seed, device), 5) if with_noise else None
    chance = Chance(sampling, seeded(seed, device), noise=noise)
    return grown(policy, TableProposer(known, logits, (7,)), chance, 6)


@needs_gpu
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_noise", [False, True])
@pytest.mark.parametrize("policy", [EagleTree(12, depth=6, top_k=4), CoupledTree(9, depth=6, top_k=5)], ids=repr)
def test_a_placed_tree_is_the_same_there(accelerator, policy, with_noise, seed):
    """Which node is better is decided by numbers that differ in the last bits only, and are random here: no ties."""
    sampling = WARM if with_noise else Sampling()
    expected = tree_on(policy, seed, torch.device("cpu"), sampling, with_noise)
    found = tree_on(policy, seed, accelerator, sampling, with_noise)
    assert (found.parent_list, found.token_list) == (expected.parent_list, expected.token_list)
    assert found.parents.device.type == accelerator.type


@needs_gpu
@pytest.mark.parametrize("name", NAMED)
def test_every_tree_grows_there(accelerator, name):
    """A tree checks itself: parents before children, siblings apart, laws that could have been drawn from."""
    trees = [tree_on(NAMED[name], seed, accelerator, WARM, with_noise=name in ("auto", "coupled")) for seed in range(4)]
    assert max(tree.num_nodes for tree in trees) > 1
    assert all(tree.tokens.device.type == accelerator.type for tree in trees)
