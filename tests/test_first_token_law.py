"""The first token of a round at temperature 1, by many draws: a check of the whole path that enumeration cannot make,
from the drafter's own generator to the verifier's."""

import pytest
import torch
from torch import Tensor

import hsd_verify
from eagle.chance import Chance
from eagle.engine.masks import ancestor_matrix
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, SampledChain
from eagle.trees.protocols import grown
from hsd_verify.draw import draw
from tests.counts import chi_square, chi_square_quantile
from tests.tiny import random_ids, tiny_drafter

RUNS, SAMPLING = 20_000, Sampling(temperature=1.0)


class Replay:
    """A proposer that asks the head once for every path and then answers from memory: 20,000 rounds are cheap."""

    def __init__(self, proposer, memory: dict):
        self._proposer, self._memory, self._tokens = proposer, memory, []
        self.vocabulary, self.root_token = proposer.vocabulary, proposer.root_token
        self.root_logits, self.scaffold = proposer.root_logits, proposer.scaffold

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        self._tokens.append(tuple(tokens.tolist()))
        key = tuple(self._tokens)
        if key not in self._memory:
            self._memory[key] = self._proposer.expand(tokens, parents)
        return self._memory[key]


class Rounds:
    """One round after a fixed prompt, drawn again and again; trees and their scores are remembered by their tokens."""

    verifier = "hsd"

    def __init__(self, target, policy):
        ids = random_ids(15)
        self.target, self.policy, self.cache = target, policy, target.new_cache()
        self.drafter = tiny_drafter(target, self)
        features = target.prefill(torch.tensor(ids[:-1]), self.cache).features
        self.drafter.observe(torch.tensor(ids), features)
        self.memory, self.laws = {}, {}
        self.law = SAMPLING.law(target.read(torch.tensor([ids]), logits_to_keep=1).logits[0, 0]).double()

    def grow(self, proposer, chance, max_depth):
        return grown(self.policy, Replay(proposer, self.memory), chance, max_depth)
        yield  # a generator, like all policies

    def verdict_law(self, tree) -> hsd_verify.Law:
        key = tree.token_list
        if key not in self.laws:
            output = self.target.forward_tree(tree.tokens, ancestor_matrix(tree.parent_list), self.cache)
            self.cache.keep(torch.empty(0, dtype=torch.int64))
            self.laws[key] = hsd_verify.law(tree, SAMPLING.law(output.logits), "hsd")
        return self.laws[key]

    def first_token(self, generator) -> int:
        tree = self.drafter.propose(Chance(SAMPLING, generator), 2)
        node, next_token = draw(self.verdict_law(tree), generator)  # what `verify` does, with the law remembered
        return int(tree.tokens[tree.path(node)[0]]) if node else next_token


@pytest.mark.parametrize("policy", [EagleTree(num_nodes=8, depth=2, top_k=3), SampledChain(2)], ids=["tree", "chain"])
def test_the_first_token_of_a_round_follows_the_targets_law(target, policy):
    """Chi-square against the exact law, at the 1 - 1e-5 quantile: a correct build fails once in 100,000 runs.

    The runs are seeded, so a build that passes passes always.
    """
    rounds, generator = Rounds(target, policy), seeded(0)
    draws = torch.tensor([rounds.first_token(generator) for _ in range(RUNS)])
    observed = torch.bincount(draws, minlength=len(rounds.law)).double()
    statistic, degrees = chi_square(observed, RUNS * rounds.law)
    assert degrees >= 5
    assert statistic < chi_square_quantile(degrees)


def test_the_check_would_notice_a_verifier_that_always_accepts(target):
    """The negative control: accepting every draft token of the sampled chain draws from the draft's law instead."""
    rounds, generator = Rounds(target, SampledChain(1)), seeded(0)
    drafted = [rounds.drafter.propose(Chance(SAMPLING, generator), 1).token_list[1] for _ in range(2_000)]
    observed = torch.bincount(torch.tensor(drafted), minlength=len(rounds.law)).double()
    statistic, degrees = chi_square(observed, 2_000 * rounds.law)
    assert statistic > chi_square_quantile(degrees)
