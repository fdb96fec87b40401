"""Laws that depend on the text before: lossless by enumeration, the same for tree and plain decoding, and refused."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import hsd_verify
from eagle.chance import Draw
from eagle.context import Context
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.judging import ChosenTokens, IndependentDraws
from eagle.noise import NoiseField
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, SampledChain, TreePolicy, WithoutReplacement, hybrid
from eagle.trees.coupled import CoupledTree
from eagle.trees.exact import TableProposer, all_trees
from eagle.trees.protocols import grown
from eagle.vocab import DraftVocabulary
from hsd_verify import Verdict
from tests.drafters.tables import TableDrafter, TableModel, Text, total_variation
from tests.tiny import random_ids, tiny_drafter, tokens_of

PROMPT = [0, 1, 2, 2]
EXACT = 1e-12  # sums of a few thousand products of float64 numbers


class NotTwice:
    """Forbids the last token, as a LogitsProcessor would: a law that every node of a tree has anew."""

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores.scatter(-1, ids[:, -1:], -torch.inf)


SHAPED = {
    "penalty and processor": Sampling(1.0, repetition_penalty=1.7, processors=(NotTwice(),)),
    "presence and frequency": Sampling(0.8, presence_penalty=0.9, frequency_penalty=0.7),
    "bad words, bias, cuts": Sampling(1.2, top_p=0.9, min_p=0.1, logit_bias={1: 0.8}, bad_words=[[0, 2], [1, 1]]),
}
TREES: dict[str, TreePolicy] = {
    "chain": SampledChain(2),
    "drawn": WithoutReplacement((2, 1)),
    "hybrid": hybrid(5, depth=2, max_placed=1),
    "placed": EagleTree(5, depth=2, top_k=2),
}


class TreeDrafter(TableDrafter):
    """Grows trees of a policy from a table."""

    def __init__(self, model: TableModel, policy: TreePolicy):
        super().__init__(model, length=0)
        self.policy = policy

    def propose(self, chance, max_depth):
        proposer = TableProposer(DraftVocabulary.first(3, 3), self.model.logits, tuple(self.text))
        return grown(self.policy, proposer, chance, max_depth)


@dataclass(frozen=True)
class Listed(IndependentDraws):
    """The real judge with its random numbers taken from a list of choices."""

    draw: Draw = None

    def token(self, logits, position, context=None):
        return int(self.draw(self.laws(logits[None], None if context is None else [context]), None))

    def chance(self, position):
        return replace(super().chance(position), draw=self.draw)


class PromptOnly(Listed):
    """Negative control: the law of the prompt and the answer before the round, whatever a node's path holds."""

    def verdict(self, tree, logits, position, context=None):
        blind = _Blind(context.ids, context.num_prompt)
        return super().verdict(tree, logits, position, blind)


class _Blind(Context):
    def after(self, tree, nodes):
        return [Context(self.ids, self.num_prompt) for _ in nodes]


def emitted_law(sampling, policy, verifier, num_tokens, patch, kind=Listed) -> dict[Text, float]:
    """The law of what a real session emits, every random choice listed."""

    def emitted(draw: Draw) -> Text:
        def verify(tree, form_laws, verifier, generator):
            law = hsd_verify.law(tree, form_laws(slice(None)), verifier)
            node = int(draw(law.stop[None], None))
            path = torch.tensor(tree.path(node), dtype=torch.int64)
            return Verdict(path, int(draw(law.residual(node)[None], None)))

        patch.setattr("hsd_verify.verify", verify)
        patch.setattr("eagle.decode.judge", lambda *_: kind(sampling, verifier, None, draw))
        session = Session(TableModel(3), TreeDrafter(TableModel(9), policy))
        return tuple(tokens_of(session.decode(PROMPT, DecodeOptions(sampling, num_tokens))))

    found: dict[Text, float] = {}
    for probability, text in all_trees(emitted):
        found[text] = found.get(text, 0.0) + probability
    return found


def plain_law(sampling: Sampling, num_tokens: int) -> dict[Text, float]:
    def continued(text: Text, probability: float) -> Iterator[tuple[Text, float]]:
        if len(text) == num_tokens:
            yield text, probability
            return
        ids = (*PROMPT, *text)
        law = sampling.laws(TableModel(3).logits(ids)[None], [Context.of(ids, len(PROMPT))])[0]
        for token, own in enumerate(law.tolist()):
            if own:
                yield from continued((*text, token), probability * own)

    return dict(continued((), 1.0))


@pytest.mark.parametrize("verifier", ["hsd", "tokenwise"])
@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("shaped", SHAPED)
def test_a_law_of_the_path_is_lossless(shaped, tree, verifier, monkeypatch):
    sampling, num_tokens = SHAPED[shaped], 3 if tree == "drawn" else 4
    found = emitted_law(sampling, TREES[tree], verifier, num_tokens, monkeypatch)
    assert total_variation(found, plain_law(sampling, num_tokens)) < EXACT


@pytest.mark.parametrize("tree", ["chain", "hybrid"])
@pytest.mark.parametrize("shaped", ["penalty and processor", "presence and frequency"])
def test_the_law_of_the_prompt_alone_is_caught(shaped, tree, monkeypatch):
    found = emitted_law(SHAPED[shaped], TREES[tree], "hsd", 4, monkeypatch, PromptOnly)
    assert total_variation(found, plain_law(SHAPED[shaped], 4)) > 1e-3


WIDE = {
    "penalties": Sampling(0.0, repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.3),
    "words": Sampling(0.0, bad_words=[[3], [5, 7]], logit_bias={11: 2.0, 12: -torch.inf}),
    "processor": Sampling(0.0, processors=(NotTwice(),)),
}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("shaped", WIDE)
def test_tree_and_plain_decoding_write_the_same_text(target, shaped, temperature):
    """At temperature 0 and, above it, with the answer's noise; the law is another one than without."""
    sampling, ids = replace(WIDE[shaped], temperature=temperature), random_ids(15)
    options, accepted = DecodeOptions(sampling, 40, "coupled"), 0
    for policy in (EagleTree(30, depth=4, top_k=8), CoupledTree(40)):
        steps = list(Session(target, tiny_drafter(target, policy)).decode(ids, options, seeded(2)))
        assert tokens_of(steps) == tokens_of(autoregressive(target, ids, options, seeded(2)))
        accepted += sum(step.num_accepted for step in steps)
    assert accepted
    bare = DecodeOptions(Sampling(temperature), 40, "coupled")
    assert tokens_of(autoregressive(target, ids, bare, seeded(2))) != tokens_of(steps)


@pytest.mark.parametrize("field", [None, NoiseField(4)], ids=["greedy", "noise"])
def test_the_way_along_the_path_and_the_pass_over_all_nodes_agree(field):
    sampling = Sampling(0.8 if field else 0.0, repetition_penalty=1.6, presence_penalty=0.4, processors=(NotTwice(),))
    judged, logits = ChosenTokens(sampling, field, None), 3 * torch.randn(9, 40, generator=seeded(1))
    parents = torch.tensor([-1, 0, 0, 1, 1, 2, 3, 3, 6])
    tree = hsd_verify.DraftTree(parents, torch.randint(40, (9,), generator=seeded(2)))
    context = Context.of([4, 8, 8, 15, int(tree.tokens[0])], 3)
    along, of_all = judged.along_path(tree, logits, 5, context), judged.of_all_nodes(tree, logits, 5, context)
    assert [along(node) for node in range(9)] == of_all.tolist()


def test_a_round_tells_its_own_laws(target):
    """Whoever measures sees the laws that decided, path by path."""
    sampling, ids = Sampling(1.0, frequency_penalty=1.0), random_ids(9)
    steps = Session(target, tiny_drafter(target, EagleTree(8))).decode(
        ids, DecodeOptions(sampling, 6, "hsd"), seeded(0)
    )
    text = list(ids)
    for step in steps:
        if step.round is not None:
            tree, node = step.round.tree, step.round.tree.num_nodes - 1
            context = Context.of([*text, *tree.path_tokens(node)], len(ids))
            expected = sampling.laws(step.round.logits[node][None], [context])[0]
            assert torch.equal(step.round.target_probs[node], expected)
        text += step.tokens
