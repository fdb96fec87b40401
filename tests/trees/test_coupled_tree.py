"""The tree on perturbed logits: its values, its order, and whom it serves."""

import pytest
import torch

from eagle.chance import Chance, Noise
from eagle.noise import NoiseField
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree, CoupledTree, CoupledValues, EagleTree, parse_policy
from eagle.trees.automatic import perturbed, placed
from eagle.trees.exact import TableProposer
from eagle.trees.protocols import grown
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree

IDS = torch.tensor([1, 3, 4, 7, 8, 11])  # of the draft's six tokens, in a vocabulary of 12
WARM = Sampling(0.8)
POSITION = 20


def logits_after(text: tuple[int, ...]) -> torch.Tensor:
    return 2 * torch.randn(len(IDS), generator=seeded(sum((i + 1) * 31**token for i, token in enumerate(text)) % 2**40))


def proposer() -> TableProposer:
    return TableProposer(DraftVocabulary.from_target_ids(IDS, 12), logits_after, (5,))


def shared(sampling: Sampling = WARM, key: int = 7) -> Chance:
    return Chance(sampling, noise=Noise(NoiseField(key), POSITION))


def paths(tree: DraftTree) -> set[tuple[int, ...]]:
    return {tuple(tree.token_list[n] for n in tree.path(node)) for node in range(1, tree.num_nodes)}


def value(path: tuple[int, ...], values: CoupledValues, key: int) -> float:
    """Of a path below the root, written out from the definition."""
    joint = 1.0
    for depth, token in enumerate(path):
        draft = logits_after((5, *path[:depth]))
        noise = NoiseField(key).at(POSITION + depth, IDS)
        own = (values.sharpness * (draft + WARM.temperature * noise)).softmax(-1)
        mixed = (1 - values.plain) * own + values.plain * draft.softmax(-1)
        joint *= float(mixed[IDS.tolist().index(token)])
    return joint


@pytest.mark.parametrize("values", [CoupledValues(1.0, 0.0), CoupledValues(1.4, 0.25), CoupledValues()])
@pytest.mark.parametrize("key", range(4))
def test_it_holds_the_paths_of_largest_value(values, key):
    """Against all 6 + 36 + 216 paths; with all tokens expanded the tree is the best there is."""
    tree = grown(CoupledTree(9, depth=3, top_k=6, values=values), proposer(), shared(key=key), 3)
    every: list[tuple[int, ...]] = [(a,) for a in IDS.tolist()]
    every += [(*path, a) for path in every for a in IDS.tolist()]
    every += [(*path, a) for path in every[6:] for a in IDS.tolist()]
    best = sorted(every, key=lambda path: -value(path, values, key))[:8]
    assert paths(tree) == set(best)
    assert not any(tree.sampled_list) and tree.draft_probs is None


def test_other_noise_other_tree_and_the_same_again():
    trees = [paths(grown(CoupledTree(9), proposer(), shared(key=key), 3)) for key in (1, 2, 1)]
    assert trees[0] == trees[2] != trees[1]


def test_depth_and_budget_are_limits():
    assert grown(CoupledTree(9), proposer(), shared(), 0).num_nodes == 1
    assert grown(CoupledTree(1), proposer(), shared(), 3).num_nodes == 1
    assert max(grown(CoupledTree(30, depth=2), proposer(), shared(), 8).depth) == 2


def test_at_temperature_0_it_is_eagles():
    tree = grown(CoupledTree(9, depth=4, top_k=3), proposer(), Chance(Sampling()), 4)
    expected = grown(EagleTree(9, depth=4, top_k=3), proposer(), Chance(Sampling()), 4)
    assert (tree.token_list, tree.parent_list) == (expected.token_list, expected.parent_list)


def test_without_shared_noise_it_is_refused():
    with pytest.raises(ValueError, match="choose --verifier coupled, or another tree such as 'auto'"):
        grown(CoupledTree(9), proposer(), Chance(WARM, seeded(0)), 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coupled:num_nodes=0", "num_nodes is 0"),
        ("coupled:values=3", "values are 3, give fields of it"),
        ("coupled:values.sharpness=0", "sharpness is 0, it must be larger than 0|sharpness is 0"),
        ("coupled:values.plain=1", "plain is 1"),
        ("coupled:values.blunt=1", "blunt"),
    ],
)
def test_numbers_out_of_range_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_policy(text)


def test_fields_can_be_written_by_hand():
    assert parse_policy("coupled:num_nodes=24,values.sharpness=1.1") == CoupledTree(24, values=CoupledValues(1.1))


def test_the_default_reads_the_noise_where_it_is_shared():
    fitted = CoupledValues(1.1, 0.2)
    auto = AutoTree(9)
    assert auto.choose(WARM, coupled=True) == perturbed(9) and auto.choose(Sampling(), coupled=True) == placed(9)
    planned = AutoTree(trees=((0.0, placed(5)),), coupled_trees=((0.5, perturbed(6, fitted)), (1.0, perturbed(8))))
    assert planned.choose(WARM, coupled=True) == perturbed(8)
    assert planned.choose(Sampling(0.6), coupled=True) == perturbed(6, fitted)
    assert planned.choose(WARM) == planned.choose(Sampling(), coupled=True) == placed(5)
    assert auto.verifier == "coupled" and AutoTree(9, sampled_from=0.5).verifier == "hsd"
    tree = grown(auto, proposer(), shared(), 3)
    assert paths(tree) == paths(grown(perturbed(9), proposer(), shared(), 3))
