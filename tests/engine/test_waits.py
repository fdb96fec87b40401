"""How often a round waits for an accelerator, counted on one that is pretended (`tests.engine.pretend`)."""

from collections import Counter
from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import pytest
import torch

from eagle.decode import DecodeOptions, Session
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree, CoupledTree, EagleTree, TreePolicy
from eagle.trees.automatic import mixed, partly_sampled
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
    "EAGLE's tree, greedy": Case(drafts(EagleTree()), GREEDY, "auto", 13),
    "default tree, greedy": Case(drafts(AutoTree()), GREEDY, "auto", 16),
    "default tree, coupled": Case(drafts(AutoTree()), WARM, "coupled", 28),
    "coupled tree": Case(drafts(CoupledTree(8, depth=3, top_k=3)), WARM, "coupled", 20),
    "EAGLE's tree, coupled": Case(drafts(EagleTree()), WARM, "coupled", 13),
    "lookup, greedy": Case(looks_up, GREEDY, "auto", 10),
    "lookup, coupled": Case(looks_up, WARM, "coupled", 10),
    "default tree beside a lookup, coupled": Case(drafts(AutoTree(), lookup=True), WARM, "coupled", 40),
    "default tree, hsd": Case(drafts(partly_sampled()), WARM, "hsd", 83),
    "mixed tree, hsd": Case(drafts(mixed(8)), WARM, "hsd", 63),
    "EAGLE's tree, hsd": Case(drafts(EagleTree()), WARM, "hsd", 17),
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
    waits, uploads, text, places = [], [], [], Counter()
    with pretending() as counted:
        moved(target.model)
        for step in Session(target, case.make(target)).decode(ids, options, seeded(5)):
            text += step.tokens
            if step.round is not None:
                waits.append(counted.num_waits)
                uploads.append(counted.num_uploads)
                places.update(counted.waits)
            counted.clear()
    print(f"\n{name}: {mean(waits):.1f} waits a round, at most {max(waits)}; {mean(uploads):.1f} uploads")
    for place, times in places.most_common():
        print(f"  {times / len(waits):5.2f} {place}")
    assert max(waits) <= case.most, places
    assert text == expected


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
