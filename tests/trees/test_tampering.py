"""The enumeration can fail: policies that let a drawn token decide what exists are found out, each by its own flaw."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from eagle.sampling import Sampling
from eagle.trees import Acceptance, EagleTree, SampledChain, TreePolicy, ValuedTree, WithoutReplacement
from eagle.trees.growth import Growth
from eagle.trees.protocols import Expansion
from eagle.trees.sapling import Children, Families
from hsd_verify import DraftTree
from tests.trees.toy import policy_error

HOPEFUL = Acceptance(sampled=(((0.6,),),), placed=(1.0,))  # sampled slots at every node, whatever the defaults
CAUGHT = 1e-3  # the flaws below are off by 4e-3 and more; a lossless policy by less than 1e-12


@dataclass(frozen=True)
class Tampered:
    """A policy whose finished trees go through `change`."""

    policy: TreePolicy
    change: Callable[[DraftTree], DraftTree]

    verifier = "hsd"

    def grow(self, *args, **draw):
        return self.change((yield from self.policy.grow(*args, **draw)))


def _select(tree: DraftTree, order: list[int]) -> DraftTree:
    """The nodes `order`, renumbered in this order; parents stand before their children."""
    number = {node: i for i, node in enumerate(order)}
    parents = torch.tensor([-1, *(number[tree.parent_list[node]] for node in order[1:])])
    rows = None if tree.draft_probs is None else tree.draft_probs[order]
    return DraftTree(parents, tree.tokens[order], tree.sampled[order], rows, tree.replacement)


def prune_an_unlikely_token(tree: DraftTree) -> DraftTree:
    """Re-ranking at the end by the drawn token's probability, as a deterministic tree may."""
    drop: set[int] = set()
    for node in range(1, tree.num_nodes):
        parent = tree.parent_list[node]
        unlikely = tree.sampled_list[node] and tree.draft_probs[parent, tree.tokens[node]] < 0.5
        if unlikely or parent in drop:
            drop.add(node)
    return _select(tree, [node for node in range(tree.num_nodes) if node not in drop])


def order_siblings_by_token(tree: DraftTree) -> DraftTree:
    """Sampled siblings tested by token id instead of in the order they were drawn."""
    by_depth = sorted(range(1, tree.num_nodes), key=lambda v: (tree.depth[v], tree.token_list[v]))
    return _select(tree, [0, *by_depth])


def claim_the_whole_law(tree: DraftTree) -> DraftTree:
    """A sampled child drawn without the placed tokens, recorded as drawn from a law that still holds them."""
    rows = tree.draft_probs.clone()
    for node in range(tree.num_nodes):
        if tree.sampled_children(node) and tree.placed_children(node):
            rows[node] *= 0.5
            rows[node, tree.tokens[tree.placed_children(node)[0]]] += 0.5
    return replace(tree, draft_probs=rows)


TAMPERINGS: dict[str, tuple[TreePolicy, Callable[[DraftTree], DraftTree]]] = {
    "pruned-hybrid": (
        ValuedTree(7, 0.05, max_placed=1, acceptance=HOPEFUL),
        prune_an_unlikely_token,
    ),
    "pruned-chain": (SampledChain(2), prune_an_unlikely_token),
    "reordered": (WithoutReplacement((2, 1)), order_siblings_by_token),
    "wrong-law": (ValuedTree(7, 0.05, max_placed=1, acceptance=HOPEFUL), claim_the_whole_law),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampered_policies_are_caught(name):
    assert policy_error(Tampered(*TAMPERINGS[name]), Sampling(1.0), [0, 1, 2], 3, depth=2) > CAUGHT


@dataclass(frozen=True)
class ValueOfTheToken(ValuedTree):
    """Grows the sampled child's slot only after a look at its token: an unlikely one is left out."""

    def grow(self, proposer, chance, max_depth):
        return _Peeking(self, proposer, chance).tree(min(self.depth, max_depth))


class _Peeking(Growth):
    def _fill(self, families: Families, frontier, sapling) -> Children:
        children = super()._fill(families, frontier, sapling)
        kept = ~children.sampled | (children.tokens > 0)  # a slot exists unless it drew token 0
        return Children(*(getattr(children, name)[kept] for name in ("tokens", "parents", "values", "sampled")))


def test_slot_that_depends_on_its_own_token_is_caught():
    policy = ValueOfTheToken(7, 0.05, max_placed=1, acceptance=HOPEFUL)
    assert policy_error(policy, Sampling(1.0), [0, 1, 2], 3, depth=2) > CAUGHT


@dataclass(frozen=True)
class LateSampledChild:
    """Best-first growth across levels: the root's sampled child exists only if what was drawn below its placed child
    left room for it. No token decides about itself, yet the output is off, since the late child is tested first."""

    verifier = "hsd"

    def grow(self, proposer, chance, max_depth):
        law = chance.sampling.law(proposer.root_logits)  # (V,)
        placed = int(law.argmax())
        below = chance.sampling.law((yield Expansion(torch.tensor([placed]), torch.tensor([0]))))  # (1, V)
        drawn = int(chance.draw(below, None))
        rest = law.clone().index_fill(0, torch.tensor([placed]), 0)
        if drawn == 0:
            rows = torch.stack([torch.zeros_like(law), below[0], torch.zeros_like(law)])
            return DraftTree(torch.tensor([-1, 0, 1]), torch.tensor([0, placed, drawn]), torch.arange(3) == 2, rows)
        late = int(chance.draw(rest[None], None))
        rows = torch.stack([rest / rest.sum(), below[0], torch.zeros_like(law), torch.zeros_like(law)])
        parents, tokens = torch.tensor([-1, 0, 1, 0]), torch.tensor([0, placed, drawn, late])
        return DraftTree(parents, tokens, torch.tensor([False, False, True, True]), rows)


def test_child_added_late_because_of_a_draw_elsewhere_is_caught():
    assert policy_error(LateSampledChild(), Sampling(1.0), [0, 1, 2], 3, depth=2) > CAUGHT


def test_deterministic_trees_may_be_pruned_by_token():
    """The counterpart: where nothing is drawn, any pruning keeps the law."""
    policy = Tampered(EagleTree(num_nodes=7, depth=2, top_k=2), lambda tree: _select(tree, [0, 1, 2]))
    assert policy_error(policy, Sampling(1.0), [0, 1, 2], 3, depth=2) < 1e-12
