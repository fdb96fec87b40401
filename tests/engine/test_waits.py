"""How often a round waits for an accelerator, counted on one that is pretended (`tests.engine.pretend`)."""

from collections import Counter
from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from eagle.chance import Chance, Noise
from eagle.decode import DecodeOptions, Session
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.noise import NoiseField
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree, CoupledTree, EagleTree, TreePolicy
from eagle.trees.automatic import mixed, partly_sampled
from eagle.trees.exact import TableProposer
from eagle.trees.scaffold import EMPTY, Scaffold
from eagle.trees.scaffolded import with_scaffold
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from tests.engine.pretend import DEVICE, moved, pretending
from tests.tiny import random_ids, tiny_head, tiny_target, tokens_of

GREEDY, WARM = Sampling(), Sampling(temperature=1.0)
NUM_TOKENS = 24


class Case(NamedTuple):
    """A drafter, how tokens are drawn, and the most waits of a round."""

    make: Callable[[Target], Drafter]
    sampling: Sampling
    verifier: str
    most: int


def drafts(policy: TreePolicy, lookup: bool = False) -> Callable[[Target], Drafter]:
    def make(target: Target) -> Drafter:
        own = LookupDrafter(most=2, least=1, device=target.device) if lookup else None
        head = tiny_head(tiny_target(attention="eager"))
        if not target.model.lm_head.weight.is_cpu:
            moved(head)
        return EagleDrafter(head, target.embed, policy, own)

    return make


def looks_up(target: Target) -> Drafter:
    return LookupDrafter(most=2, least=1, device=target.device)


CASES = {
    "EAGLE's tree, greedy": Case(drafts(EagleTree()), GREEDY, "auto", 2),
    "default tree, greedy": Case(drafts(AutoTree()), GREEDY, "auto", 2),
    "default tree, coupled": Case(drafts(AutoTree()), WARM, "coupled", 2),
    "coupled tree": Case(drafts(CoupledTree(8, depth=3, top_k=3)), WARM, "coupled", 2),
    "EAGLE's tree, coupled": Case(drafts(EagleTree()), WARM, "coupled", 2),
    "lookup, greedy": Case(looks_up, GREEDY, "auto", 2),
    "lookup, coupled": Case(looks_up, WARM, "coupled", 2),
    "default tree beside a lookup, coupled": Case(
        drafts(AutoTree(), lookup=True), WARM, "coupled", 3
    ),  # once a drafter for its vocabulary
    "default tree, hsd": Case(drafts(partly_sampled()), WARM, "hsd", 75),
    "mixed tree, hsd": Case(drafts(mixed(8)), WARM, "hsd", 55),
    "EAGLE's tree, hsd": Case(drafts(EagleTree()), WARM, "hsd", 7),
}


@pytest.fixture(autouse=True)
def _generators_of_the_host(monkeypatch):
    """A device that is none has no generators."""
    monkeypatch.setattr("eagle.judging.seeded", lambda seed, device: seeded(seed))


@pytest.mark.parametrize("name", CASES)
def test_a_round_waits_so_often_and_writes_the_same_text(name):
    case = CASES[name]
    options = DecodeOptions(case.sampling, NUM_TOKENS, case.verifier)
    ids = random_ids(12) * 2  # repeats itself: there is something to look up
    target = tiny_target(attention="eager")
    expected = tokens_of(Session(target, case.make(target)).decode(ids, options, seeded(5)))
    waits, uploads, text, places, sent = [], [], [], Counter(), Counter()
    with pretending() as counted:
        moved(target.model)
        for step in Session(target, case.make(target)).decode(ids, options, seeded(5)):
            text += step.tokens
            if step.round is not None:
                waits.append(counted.num_waits)
                uploads.append(counted.num_uploads)
                places.update(counted.waits)
                sent.update(counted.uploads)
            counted.clear()
    print(f"\n{name}: {mean(waits):.1f} waits a round, at most {max(waits)}; {mean(uploads):.1f} uploads")
    for kind, seen in (("wait", places), ("upload", sent)):
        for place, times in seen.most_common():
            print(f"  {times / len(waits):5.2f} {kind} {place}")
    assert max(waits) <= case.most, places
    assert text == expected


POLICIES = (EagleTree(12, depth=6, top_k=4), EagleTree(5, depth=4, top_k=3), CoupledTree(9, depth=6, top_k=5))
SCAFFOLD = Scaffold((3, 70, 4), (0.8, 0.9, 0.7))  # the second one is foreign to the draft


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("scaffold", [EMPTY, SCAFFOLD])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_an_accelerator_grows_the_same_tree_though_it_expands_more(policy, scaffold, seed):
    """Which candidates cannot enter any more is not asked there; none of them may enter."""

    def grown(device: str | torch.device) -> tuple[DraftTree, list[int]]:
        table = 3 * torch.randn(64, 20, generator=seeded(seed))  # a row a draft step's node, surer than flat
        reads: list[int] = []

        def logits(text: tuple[int, ...]) -> Tensor:
            reads.append(len(text))
            return table[hash(text) % 64].to(device)

        vocabulary = DraftVocabulary(
            torch.arange(20, device=device) * 2, torch.ones(97, dtype=torch.bool, device=device)
        )
        proposer = with_scaffold(TableProposer(vocabulary, logits, (7,)), scaffold)
        noise = Noise(NoiseField(seed, device), 5)
        return policy.grow(proposer, Chance(WARM, noise=noise), 6), reads

    expected, few = grown("cpu")
    with pretending(), torch.inference_mode():
        tree, many = grown(DEVICE)
        assert tree.parents.device == DEVICE and tree.tokens.tolist() == list(expected.token_list)
    assert (tree.parent_list, tree.token_list) == (expected.parent_list, expected.token_list)
    assert len(many) >= len(few)


def test_the_count_sees_what_waits_and_nothing_else():
    with pretending() as counted, torch.inference_mode():
        numbers = torch.arange(6.0, device=DEVICE)
        larger = (numbers * 2 + 1)[torch.tensor([1, 2], device=DEVICE)].cumsum(0)
        larger[:1] = 0.0
        assert (counted.num_waits, counted.num_uploads) == (0, 1)
        assert (float(larger.sum()), larger.tolist(), larger.cpu().tolist()) == (8.0, [0.0, 8.0], [0.0, 8.0])
        assert counted.num_waits == 3
        assert bool((larger > 0).any()) and len(larger[larger > 0]) == 1 and larger.nonzero().shape == (1, 1)
        assert counted.num_waits == 6
