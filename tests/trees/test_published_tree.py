"""EAGLE-2's tree as published, written out: expand everything, re-rank once. Ours must be the same tree for less."""

from typing import Any

import pytest
import torch

from eagle.chance import Chance
from eagle.sampling import Sampling
from eagle.trees import EagleTree
from eagle.trees.exact import TableProposer
from eagle.trees.protocols import grown
from eagle.vocab import DraftVocabulary
from tests.trees.toy import logits_after

VOCAB_SIZE = 12


class CountingProposer(TableProposer):
    def __init__(self, seed: int):
        vocabulary = DraftVocabulary.first(VOCAB_SIZE, VOCAB_SIZE)
        super().__init__(vocabulary, lambda text: logits_after(text, VOCAB_SIZE, seed))
        self.num_expanded = 0

    def expand(self, tokens, parents):
        self.num_expanded += len(tokens)
        return super().expand(tokens, parents)


def published(proposer, num_nodes: int, depth: int, top_k: int) -> set[tuple[int, ...]]:
    """The kept paths. Python lists, no early end."""
    token_of = proposer.vocabulary.target_ids.tolist()
    frontier: list[tuple[Any, ...]] = [
        ((), 0, 0.0, proposer.root_logits)
    ]  # path, row, joint log probability, logits after it
    candidates, rows = [], 1
    for level in range(depth):
        children = []
        for path, row, score, logits in frontier:
            best = logits.float().log_softmax(-1).topk(top_k)
            children += [
                ((*path, token_of[i]), row, score + p) for p, i in zip(best.values.tolist(), best.indices, strict=True)
            ]
        candidates += children
        if level < depth - 1:
            chosen = sorted(children, key=lambda child: -child[2])[:top_k]
            tokens, parents = torch.tensor([c[0][-1] for c in chosen]), torch.tensor([c[1] for c in chosen])
            logits = proposer.expand(tokens, parents)
            frontier = [(c[0], rows + i, c[2], logits[i]) for i, c in enumerate(chosen)]
            rows += len(chosen)
    return {path for path, _, _ in sorted(candidates, key=lambda c: -c[2])[: num_nodes - 1]}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_nodes", "depth", "top_k"), [(2, 4, 3), (5, 4, 3), (9, 5, 4), (20, 3, 4), (200, 3, 4)])
def test_the_tree_is_the_published_one_and_reads_no_more_nodes(seed, num_nodes, depth, top_k):
    ours, theirs = (CountingProposer(seed) for _ in range(2))
    tree = grown(EagleTree(num_nodes, depth, top_k), ours, Chance(Sampling()), depth)
    paths = {tuple(tree.token_list[node] for node in tree.path(end)) for end in range(1, tree.num_nodes)}
    assert paths == published(theirs, num_nodes, depth, top_k)
    assert ours.num_expanded <= theirs.num_expanded
    if num_nodes == 2:  # the most probable token alone: nothing has to be read at all
        assert ours.num_expanded == 0
