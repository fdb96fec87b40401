"""Lookup beside a head: what it believes of a text, and that texts stay plain decoding's where it is really used."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch

from eagle.chance import Chance, Draw
from eagle.decode import DecodeOptions, Session, Step, autoregressive
from eagle.drafters.beside import LONGEST, LookupBeside
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.level import LevelDrafter
from eagle.drafters.lookup import LookupDrafter
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import POLICIES, CostModel, EagleTree, SampledChain, TreePolicy, make_policy
from eagle.trees.automatic import partly_sampled
from eagle.trees.exact import all_trees
from eagle.trees.protocols import grown
from eagle.trees.scaffold import EMPTY, Scaffold
from eagle.trees.scaffolded import with_scaffold
from hsd_verify import DraftTree
from hsd_verify.exact import enumerate as exact
from tests.tiny import random_ids, tiny_head, tiny_target, tokens_of
from tests.trees.toy import table_model, toy_proposer

COST = CostModel((1, 64), (20.0, 40.0), draft_step_ms=1.0)
GREEDY, WARM = DecodeOptions(Sampling(), 60, "coupled"), DecodeOptions(Sampling(1.0), 60, "coupled")
TREE, PROMPT = EagleTree(16, depth=5, top_k=4), random_ids(12, seed=1)


def beside(text: list[int], **options) -> LookupBeside:
    one = LookupBeside(LookupDrafter(**options))
    one.observe(text)
    return one


def test_matches_are_believed_as_earlier_ones_came_true():
    """After a b the text went on with c three times and then otherwise: 8 counts of the prior, 1/2, and 2 of 3."""
    one = beside([1, 2, 3, 8, 1, 2, 3, 9, 1, 2, 3, 7, 1, 2, 5])
    assert one.acceptance(2) == pytest.approx((2 + 8 * 2 / 4) / (3 + 8))
    assert one.acceptance(9) == pytest.approx(9 / 11), "nothing counted"
    assert one.acceptance(LONGEST) == one.acceptance(LONGEST + 30) == pytest.approx(16 / 18)


@pytest.mark.parametrize("most", [4, LONGEST + 8])
def test_long_matches_count_as_one_kind_whatever_the_lookup_compares(most):
    one = beside([*range(30)] * 3, most=most)
    assert one.acceptance(LONGEST) > (16 + 40) / (18 + 40), "45 of 45 came true, beside the prior's 8"


def test_the_scaffold_is_the_continuation_and_every_step_has_the_match_that_it_makes():
    one = beside([4, 1, 2, 3, 5, 6, 9, 4, 1, 2])
    scaffold = one.scaffold()
    assert scaffold.tokens == (3, 5, 6, 9, 4, 1, 2)  # a match of three tokens; an eighth falls below the least value
    assert scaffold.acceptance == tuple(one.acceptance(3 + place) for place in range(7))
    assert beside([4, 1, 2, 3, 5, 6, 9, 4, 1, 2], length=2).scaffold().tokens == (3, 5)


def test_a_text_that_does_not_repeat_itself_pays_nothing():
    assert beside(list(range(50))).scaffold() == EMPTY == beside([]).scaffold()
    misleading = [token for number in range(10, 40) for token in (1, 2, number)] + [1, 2]
    assert beside(misleading[:5]).scaffold() != EMPTY, "at first it is believed"
    assert beside(misleading).acceptance(2) < 0.15
    assert len(beside(misleading).scaffold().tokens) <= 1


def test_steps_are_left_out_where_the_chain_is_hardly_believed():
    """A match of two tokens: 1/2, 3/5, 4/6, 5/7 and so on, until the product falls below 0.1."""
    scaffold = beside([1, 2, *range(10, 30), 1, 2], length=20).scaffold()
    product = torch.tensor(scaffold.acceptance).prod()
    assert 0.1 <= float(product) < 0.12 and 4 <= len(scaffold.tokens) < 20


@pytest.mark.parametrize("length", [0, 1, 7, 40, 60])
def test_truncating_equals_a_fresh_one(length):
    text = random_ids(60, vocab_size=4)
    used, fresh = beside(text), beside(text[:length])
    used.truncate(length)
    for one in (used, fresh):
        one.observe([1, 2, 1, 2, 3])
    assert used.scaffold() == fresh.scaffold()
    assert [used.acceptance(n) for n in range(1, 20)] == [fresh.acceptance(n) for n in range(1, 20)]


PAIRS = (0, 1, 2, 0, 2, 1, 0, 0, 1, 1, 2, 2, 0)  # a text that holds every pair of three tokens
ENUMERATED: dict[str, TreePolicy] = {
    "eagle": EagleTree(5, depth=2, top_k=2),
    "chain": SampledChain(2),
    "partly-sampled": partly_sampled(4),
}


@pytest.mark.parametrize("verifier", ["hsd", "tokenwise"])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("name", ENUMERATED)
def test_several_rounds_with_a_lookup_have_the_targets_law(name, top_p, verifier):
    """Every draw of every round listed: the scaffold of a round follows from what the rounds before it drew."""
    sampling, suggested = Sampling(1.0, top_p=top_p), []

    @cache
    def process(prefix: tuple[int, ...]) -> list[tuple[float, DraftTree]]:
        suggested.append(beside([*PAIRS, *prefix]).scaffold())

        def grow(draw: Draw) -> DraftTree:
            proposer = with_scaffold(toy_proposer([0, 2], 3, 2, prefix), suggested[-1])  # the draft does not know 1
            return grown(ENUMERATED[name], proposer, Chance(sampling, draw=draw), 2)

        return list(all_trees(grow))

    target = cache(table_model(3, 1, sampling))
    law = exact.output_law(process, target, verifier, 4)
    assert exact.total_variation(law, exact.text_law(target, 4)) < 1e-12  # of float64
    assert sum(len(one.tokens) > 0 for one in suggested) > len(suggested) / 2


def test_a_lookup_belongs_to_one_drafter(target):
    lookup = LookupDrafter()
    EagleDrafter(tiny_head(target), target.embed, TREE, lookup).observe(torch.tensor([1]))
    with pytest.raises(ValueError, match="the lookup knows 1 tokens of another text: give each drafter its own"):
        EagleDrafter(tiny_head(target), target.embed, TREE, lookup)


@dataclass
class Seen:
    """Scaffolds of a run, in the order of its rounds."""

    scaffolds: list[Scaffold] = field(default_factory=list)

    def accepted(self, steps: list[Step]) -> list[int]:
        """Tokens of scaffolds that a run accepted."""
        rounds = [step for step in steps if step.round is not None]
        assert len(self.scaffolds) >= len(rounds) - 1 > 0  # the last one may have room for no draft
        return [token for step, one in zip(rounds, self.scaffolds, strict=False) for token in _common(step, one)]


def _common(step: Step, scaffold: Scaffold) -> Iterator[int]:
    for token, suggested in zip(step.tokens[: step.num_accepted], scaffold.tokens, strict=False):
        if token != suggested:
            return
        yield token


@pytest.fixture
def seen(monkeypatch) -> Seen:
    record, scaffold = Seen(), LookupBeside.scaffold

    def kept(one: LookupBeside) -> Scaffold:
        record.scaffolds.append(scaffold(one))
        return record.scaffolds[-1]

    monkeypatch.setattr(LookupBeside, "scaffold", kept)
    return record


@pytest.fixture(scope="module")
def repeating() -> Target:
    """A target so sure of itself that behind `PROMPT` it repeats ten tokens over and over, at temperature 1, too."""
    target = tiny_target(seed=5, tie_word_embeddings=False)
    target.model.get_output_embeddings().weight.data.mul_(12)
    return target


def drafter(target: Target, policy: TreePolicy) -> EagleDrafter:
    return EagleDrafter(tiny_head(target), target.embed, policy, LookupDrafter())


def policy_of(name: str) -> TreePolicy:
    return make_policy(name, **({"cost": COST} if name == "budgeted" else {}))


@pytest.mark.parametrize("options", [GREEDY, WARM], ids=["greedy", "coupled"])
@pytest.mark.parametrize("name", POLICIES)
def test_texts_are_plain_decodings_and_lookups_are_accepted(repeating, name, options, seen):
    """Float32. Some of what is accepted lies outside the draft vocabulary, where no head could have drafted it."""
    one = drafter(repeating, policy_of(name))
    steps = list(Session(repeating, one).decode(PROMPT, options, seeded(3)))
    assert tokens_of(steps) == tokens_of(autoregressive(repeating, PROMPT, options, seeded(3)))
    accepted = seen.accepted(steps)
    assert len(accepted) >= 15
    assert not one.head.vocabulary.t2d[accepted].all()


def test_the_same_texts_are_slower_without_it(repeating):
    """The gain that the runs above rest on: the same tree with and without."""
    rounds = []
    for lookup in (None, LookupDrafter()):
        one = EagleDrafter(tiny_head(repeating), repeating.embed, TREE, lookup)
        rounds.append(len(list(Session(repeating, one).decode(PROMPT, GREEDY))))
    assert rounds[1] < 0.6 * rounds[0]


@pytest.mark.parametrize("options", [GREEDY, WARM], ids=["greedy", "coupled"])
def test_a_conversation_that_goes_on_or_is_cut_is_read_as_a_fresh_one(repeating, options):
    """Lookup and head forget together."""
    one = Session(repeating, drafter(repeating, TREE))
    first = tokens_of(one.decode(PROMPT, options, seeded(0)))
    for prompt in ([*PROMPT, *first, *PROMPT], [*PROMPT, *first][:20], random_ids(9, seed=4)):
        fresh = Session(repeating, drafter(repeating, TREE))
        runs = [list(session.decode(prompt, options, seeded(1))) for session in (one, fresh)]
        assert [step.tokens for step in runs[0]] == [step.tokens for step in runs[1]]


def test_it_works_below_a_level(repeating, seen):
    """A level takes its drafter back after every rejection above."""
    level = LevelDrafter(repeating, drafter(repeating, TREE), 4)
    found = tokens_of(Session(repeating, level).decode(PROMPT, GREEDY))
    assert found == tokens_of(autoregressive(repeating, PROMPT, GREEDY))
    assert any(scaffold.tokens for scaffold in seen.scaffolds)
