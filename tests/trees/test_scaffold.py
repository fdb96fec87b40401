"""What the text suggests stands in every tree, loses nothing and is bounded by the policy's own numbers.

Losslessness by listing every branch of a policy's draws, as in `test_lossless.py`; the bounds are those of that file.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from eagle.chance import Chance, Noise
from eagle.noise import NoiseField
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree, BudgetedTree, CoupledTree, EagleTree, SampledChain, TreePolicy, ValuedTree
from eagle.trees.automatic import partly_sampled
from eagle.trees.exact import TableProposer
from eagle.trees.protocols import grown
from eagle.trees.scaffold import EMPTY, Scaffold, believed
from eagle.trees.scaffolded import with_scaffold
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from tests.trees.test_lossless import CHEAP_BELOW_4, EXACT, POLICIES, SHALLOW
from tests.trees.test_tampering import CAUGHT, Tampered, prune_an_unlikely_token
from tests.trees.toy import policy_error, toy_proposer, toy_trees

IDS, SIZE = [0, 2, 3], 4  # the draft knows three of four tokens
SCAFFOLDS = {  # the draft itself gives 2 most of its mass below the root, and 0 and 3 little
    "placed-anyway": Scaffold((2, 0), (0.6, 0.5)),
    "beside": Scaffold((3, 0), (0.5, 0.5)),
    "foreign": Scaffold((1, 1), (0.3, 0.6)),
    "foreign-behind-known": Scaffold((3, 1, 2), (0.6, 0.6, 0.6)),
    "longer-than-the-depth": Scaffold((2, 1, 2, 1, 0), (0.5,) * 5),
    "hardly-believed": Scaffold((3, 0), (0.02, 0.5)),
}
SAMPLINGS = {"whole": Sampling(1.0), "top-p": Sampling(1.0, top_p=0.8)}
WARM, GREEDY = Sampling(1.0), Sampling()


def depth_of(name: str) -> int:
    return 2 if name in SHALLOW else 3


@pytest.mark.parametrize("verifier", ["hsd", "tokenwise"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("scaffold", SCAFFOLDS)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_lossless_with_a_scaffold(name, scaffold, sampling, verifier):
    error = policy_error(POLICIES[name], SAMPLINGS[sampling], IDS, SIZE, depth_of(name), SCAFFOLDS[scaffold], verifier)
    assert error < EXACT


@pytest.mark.parametrize("name", POLICIES)
def test_the_token_that_a_policy_places_itself_is_not_placed_twice(name):
    """All three draft tokens in turn: one of them is the policy's own first choice."""
    for token in IDS:
        scaffold = Scaffold((token, token), (0.7, 0.7))
        assert policy_error(POLICIES[name], WARM, IDS, SIZE, 2, scaffold) < EXACT
        for _, tree in toy_trees(POLICIES[name], WARM, IDS, SIZE, 2, scaffold):
            placed = {(tree.parent_list[v], tree.token_list[v]) for v in range(1, tree.num_nodes) if placed_at(tree, v)}
            drawn = {(tree.parent_list[v], tree.token_list[v]) for v in range(1, tree.num_nodes)} - placed
            assert len(placed) == sum(placed_at(tree, v) for v in range(1, tree.num_nodes))
            assert len(placed | drawn) == len(placed) + len(drawn)
            assert token != 2 or (0, token) in placed, "the likeliest, and a drawn sibling never takes its place"


def placed_at(tree: DraftTree, node: int) -> bool:
    return not tree.sampled_list[node]


def length_on(tree: DraftTree, scaffold: Scaffold) -> int:
    """How many tokens of a scaffold a tree holds, as placed nodes."""
    node, length = 0, 0
    for token in scaffold.tokens:
        found = [child for child in tree.placed_children(node) if tree.token_list[child] == token]
        if not found:
            break
        node, length = found[0], length + 1
    return length


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_listed_above_holds_a_scaffold_and_is_random(name):
    """Otherwise the lists would show nothing: placed whatever is drawn, and something is drawn beside it."""
    lists = [
        (scaffold, [tree for _, tree in toy_trees(POLICIES[name], WARM, IDS, SIZE, depth_of(name), scaffold)])
        for scaffold in SCAFFOLDS.values()
    ]
    held = [trees for scaffold, trees in lists if all(length_on(tree, scaffold) for tree in trees)]
    assert len(held) >= 4
    assert name.startswith("eagle") or sum(len({tree.token_list for tree in trees}) > 1 for trees in held) >= 2


LONG = Scaffold((30, 31, 31, 30, 30, 31, 30, 30, 31, 31), (0.97,) * 10)  # all of them foreign
SIZED: dict[str, TreePolicy] = {
    "eagle": EagleTree(9, depth=4, top_k=3),
    "coupled": CoupledTree(9, depth=4, top_k=3),
    "partly-sampled": partly_sampled(9),
    "hybrid": ValuedTree(9),
    "threshold": ValuedTree(9, 0.05),
    "sampled": ValuedTree(9, max_placed=0, max_sampled=8),
    "budgeted": BudgetedTree(replace(BudgetedTree().valued, num_nodes=9), CHEAP_BELOW_4, rate=0.05),
    "default": AutoTree(9),
}


def tree_on(policy: TreePolicy, scaffold: Scaffold, max_depth: int = 8, sampling: Sampling = WARM) -> DraftTree:
    chance = Chance(sampling, seeded(0), noise=None if sampling.greedy else Noise(NoiseField(1), position=5))
    return grown(policy, with_scaffold(toy_proposer(list(range(30)), 32, 2), scaffold), chance, max_depth)


@pytest.mark.parametrize("max_depth", [1, 3, 8])
@pytest.mark.parametrize("sampling", [WARM, GREEDY], ids=["warm", "greedy"])
@pytest.mark.parametrize("name", SIZED)
def test_budget_and_depth_are_kept_and_the_chain_goes_on_where_nothing_is_read(name, sampling, max_depth):
    tree = tree_on(SIZED[name], LONG, max_depth, sampling)
    most = min(max_depth, getattr(SIZED[name], "depth", 8))
    assert tree.num_nodes <= 9 and max(tree.depth) <= most
    if name in ("eagle", "coupled"):  # grown by value to the end: worth more than any sibling
        assert length_on(tree, LONG) == most
    else:  # level by level
        assert length_on(tree, LONG) >= min(most, 2)


class CountingProposer(TableProposer):
    """Counts the passes of the draft."""

    passes = 0

    def expand(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return super().expand(tokens, parents)


@pytest.mark.parametrize("policy", [SampledChain(4), ValuedTree(9, 0.5, max_sampled=0), EagleTree(2, depth=4)])
def test_what_is_not_read_is_a_chain_of_placed_nodes(policy):
    """Siblings only where the draft read: below the root here, or nowhere."""
    scaffold = Scaffold((31,) * 4, (0.95,) * 4)
    inner = CountingProposer(DraftVocabulary.first(30, 32), lambda _: torch.zeros(30))
    tree = grown(policy, with_scaffold(inner, scaffold), Chance(WARM, seeded(0)), 4)
    on = [node for node in range(1, tree.num_nodes) if tree.token_list[node] == 31]
    assert len(on) == (1 if policy == EagleTree(2, depth=4) else 4) and inner.passes <= 3
    assert all(placed_at(tree, node) for node in on)


def test_without_a_scaffold_nothing_changes():
    proposer = toy_proposer(IDS, SIZE, 2)
    assert with_scaffold(proposer, EMPTY) is proposer and EMPTY.steps(proposer.vocabulary) == ()


def test_a_foreign_token_is_never_drawn():
    tree = tree_on(ValuedTree(9, max_placed=0, max_sampled=8), Scaffold((31,), (0.01,)))
    assert tree.draft_probs is not None and not tree.draft_probs[:, 31].any()


def test_two_opinions_are_stronger_than_one():
    draft = torch.tensor([0.0, 1e-8, 0.01, 0.3, 0.6, 0.99, 1.0])
    for acceptance in (0.05, 0.5, 0.95):
        both = believed(draft, acceptance)
        assert both[0] == torch.tensor(acceptance) and (both >= draft).all() and (both <= 1).all()
        assert (both[1:].diff() >= 0).all()
    assert (believed(draft[1:], 0.95) >= believed(draft[1:], 0.5)).all()
    # odds of 4 : 1 and of 1 : 4, whose root is 1 : 2, make 2 : 1
    assert float(believed(torch.tensor(0.2), 0.8)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("tokens", "acceptance", "message"),
    [((1, 2), (0.5,), "2 tokens and 1 predictions"), ((1,), (1.0,), "acceptance 1.0"), ((1,), (0.0,), "between 0 and")],
)
def test_scaffolds_that_make_no_sense_are_refused(tokens, acceptance, message):
    with pytest.raises(ValueError, match=message):
        Scaffold(tokens, acceptance)


# what a scaffold must not do: each is off by more than 1e-3


def claim_the_law_with_the_placed_token(tree: DraftTree) -> DraftTree:
    """Siblings drawn without the scaffold's token, recorded as if it could have been drawn, too."""
    assert tree.draft_probs is not None
    rows = tree.draft_probs.clone()
    rows[0] *= 0.5
    rows[0, tree.tokens[tree.placed_children(0)[0]]] += 0.5
    return replace(tree, draft_probs=rows)


@dataclass(frozen=True)
class PlacedInsteadOfDrawn:
    """Draws from the whole law, and merges the child that drew the scaffold's token with the placed one.

    Without a scaffold it is a drawn chain of one token.
    """

    verifier = "hsd"

    def grow(self, proposer, chance, max_depth):
        law = chance.sampling.law(proposer.root_logits)  # (Vd,)
        drawn = int(chance.draw(law[None], None))
        suggested = [step.draft_id for step in proposer.scaffold.steps(proposer.vocabulary)[:1]]
        ids = suggested if drawn in suggested else [drawn, *suggested]
        tokens = torch.cat([torch.tensor([0]), proposer.vocabulary.target_ids[ids]])
        rows = law.new_zeros(len(tokens), proposer.vocabulary.t2d.numel())
        rows[0] = proposer.vocabulary.scatter(law)
        places = torch.arange(len(tokens))
        return DraftTree((places > 0).long() - 1, tokens, (places == 1) & (drawn not in suggested), rows)
        yield  # a generator, like all policies


FLAWED: dict[str, TreePolicy] = {
    "recorded with the placed token": Tampered(SampledChain(2), claim_the_law_with_the_placed_token),
    "merged with what was drawn": PlacedInsteadOfDrawn(),
    "in place of an unlikely draw": Tampered(SampledChain(2), prune_an_unlikely_token),
}


@pytest.mark.parametrize("name", FLAWED)
@pytest.mark.parametrize("verifier", ["hsd", "tokenwise"])
def test_flawed_scaffolds_are_caught(name, verifier):
    assert policy_error(FLAWED[name], WARM, IDS, SIZE, 2, SCAFFOLDS["beside"], verifier) > CAUGHT
