"""The law of texts that were made in rounds, once, by counting."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from eagle.judging import ChosenTokens, judge
from eagle.sampling import Sampling, seeded
from eagle.trees import TreePolicy
from eagle.trees.coupled import CoupledTree
from eagle.trees.exact import TableProposer
from eagle.trees.protocols import grown
from eagle.vocab import DraftVocabulary
from hsd_verify.exact.enumerate import text_law
from hsd_verify.exact.processes import Text
from tests.counts import ONE_IN_A_MILLION, chi_square, chi_square_quantile
from tests.coupled.texts import WARM
from tests.trees.toy import logits_after, table_model


def logits_by(seed: int) -> Callable[[Text], torch.Tensor]:
    """Unrelated logits (3,) after every text, remembered."""
    return cache(lambda text: logits_after(text, 3, seed))


def round_text(policy: TreePolicy, judged: ChosenTokens, target, draft, length: int) -> Text:
    """A text of `length` tokens, in rounds on trees of a table draft; the target is another table."""
    text: Text = ()
    while len(text) < length:
        position = len(text) + 1
        proposer = TableProposer(DraftVocabulary.first(3, 3), draft, text)
        tree = grown(policy, proposer, judged.chance(position), 3)
        texts = [(*text, *(tree.token_list[v] for v in tree.path(node))) for node in range(tree.num_nodes)]
        verdict = judged.verdict(tree, torch.stack([target(known) for known in texts]), position)
        text = (*texts[verdict.node], verdict.next_token)
    return text[:length]


@pytest.mark.parametrize("sampling", [WARM, Sampling(0.9, top_p=0.8)], ids=["warm", "top-p"])
def test_texts_of_rounds_have_the_targets_law(sampling):
    """All 27 texts of three tokens, 600 fields, against the exact law; a right build is blamed once in a million."""
    draws, generator, policy = 600, seeded(0), CoupledTree(5, depth=3, top_k=2)
    law = text_law(table_model(3, 1, sampling), 3).flatten()
    target, draft, counts = logits_by(1), logits_by(2), torch.zeros(27).double()
    for _ in range(draws):
        judged = judge(sampling, "coupled", generator)
        assert isinstance(judged, ChosenTokens)
        first, second, third = round_text(policy, judged, target, draft, 3)
        counts[9 * first + 3 * second + third] += 1
    assert not counts[law == 0].any()
    statistic, degrees = chi_square(counts, draws * law)
    assert degrees >= 4
    assert statistic < chi_square_quantile(degrees, ONE_IN_A_MILLION)
