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
from eagle.judging import COUPLED, VERIFIERS
from eagle.noise import NoiseField
from eagle.pairing import check_pair
from eagle.sampling import Sampling, seeded
from eagle.trees import (
    POLICIES,
    AutoTree,
    BudgetedTree,
    CostModel,
    CoupledTree,
    EagleTree,
    IidPaths,
    SampledChain,
    TreePolicy,
    ValuedTree,
    WithoutReplacement,
    hybrid,
    mixed,
    sampled,
)
from eagle.trees.automatic import partly_sampled
from eagle.trees.exact import TableProposer
from eagle.trees.scaffold import EMPTY, Scaffold
from eagle.trees.scaffolded import with_scaffold
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from hsd_verify.transfer import send
from tests.engine.pretend import DEVICE, moved, pretending
from tests.tiny import random_ids, tiny_head, tiny_target, tokens_of

GREEDY, WARM = Sampling(), Sampling(temperature=1.0)
NUM_TOKENS = 24


class Case(NamedTuple):
    """A drafter, how tokens are drawn, and who decides."""

    make: Callable[[Target], Drafter]
    sampling: Sampling
    verifier: str


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


COSTS = CostModel((1, 64), (20.0, 40.0), draft_step_ms=0.1)
NAMED: dict[str, TreePolicy] = {  # every name of `--tree`, at a size that a tiny model decodes in a moment
    "auto": AutoTree(8),
    "eagle": EagleTree(8, depth=3, top_k=3),
    "coupled": CoupledTree(8, depth=3, top_k=3),
    "chain": SampledChain(3),
    "iid": IidPaths(2, depth=2),
    "without_replacement": WithoutReplacement((2, 2)),
    "sampled": sampled(8, depth=4, max_sampled=3),
    "hybrid": hybrid(8, depth=4, max_placed=3),
    "mixed": mixed(8, depth=4, max_placed=3),
    "budgeted": BudgetedTree(ValuedTree(8, 0.005, depth=4, max_placed=3, max_sampled=3), COSTS),
}
EVERY = {"hsd", "walk", "tokenwise"}  # verify every tree; where a policy has a depth of one path or draws all, more do
FITTING = {name: EVERY | {COUPLED} for name in NAMED} | {
    "coupled": {COUPLED},
    "chain": EVERY | {COUPLED, "block", "hsd_capped", "hsd_multidraft", "traversal"},
    "iid": EVERY | {COUPLED, "hsd_multidraft"},
    "without_replacement": EVERY | {COUPLED, "traversal"},
    "sampled": EVERY | {COUPLED, "traversal"},
}
PAIRS = [(name, verifier) for name, fitting in FITTING.items() for verifier in sorted(fitting)]
MOST = 2  # of a round: one for the tree, one for the verdict
AT_THE_END = "_local_scalar_dense health.py"  # once an answer, and every 64 rounds: were all numbers finite?

CASES = {
    "EAGLE's tree, greedy": Case(drafts(EagleTree()), GREEDY, "auto"),
    "default tree, greedy": Case(drafts(AutoTree()), GREEDY, "auto"),
    "default tree, coupled": Case(drafts(AutoTree()), WARM, "coupled"),
    "default tree, hsd": Case(drafts(partly_sampled()), WARM, "hsd"),
    "lookup, greedy": Case(looks_up, GREEDY, "auto"),
    "lookup, coupled": Case(looks_up, WARM, "coupled"),
    "lookup, hsd": Case(looks_up, WARM, "hsd"),
    "default tree beside a lookup, coupled": Case(drafts(AutoTree(), lookup=True), WARM, "coupled"),
    "default tree beside a lookup, hsd": Case(drafts(partly_sampled(8), lookup=True), WARM, "hsd"),
    "chain beside a lookup, hsd": Case(drafts(SampledChain(3), lookup=True), WARM, "hsd"),
    "top-p, hsd": Case(drafts(partly_sampled(8)), Sampling(1.0, top_p=0.8), "hsd"),
}


@pytest.fixture(autouse=True)
def _generators_of_the_host(monkeypatch):
    """A device that is none has no generators."""
    monkeypatch.setattr("eagle.judging.seeded", lambda seed, device: seeded(seed))


@pytest.fixture
def as_there(monkeypatch):
    """What an accelerator does, on plain tensors: other numbers are drawn in another order than on a CPU."""

    def use(decode: Callable[[], list[int]]) -> list[int]:
        with monkeypatch.context() as patched:
            patched.setattr("eagle.trees.growth.leaves_out", lambda tensor: False)
            patched.setattr("hsd_verify.verifiers._is_on_cpu", lambda tree, target_probs: False)
            return decode()

    return use


def check_waits(case: Case, num_tokens: int, as_there) -> None:
    options = DecodeOptions(case.sampling, num_tokens, case.verifier)
    ids = random_ids(12) * 2  # repeats itself: there is something to look up
    target = tiny_target(attention="eager")
    expected = as_there(lambda: tokens_of(Session(target, case.make(target)).decode(ids, options, seeded(5))))
    waits, uploads, text, places, sent = [], [], [], Counter(), Counter()
    with pretending() as counted:
        moved(target.model)
        for step in Session(target, case.make(target)).decode(ids, options, seeded(5)):
            text += step.tokens
            if step.round is not None:
                waits.append(sum(times for place, times in counted.waits.items() if not place.startswith(AT_THE_END)))
                uploads.append(counted.num_uploads)
                places.update(counted.waits)
                sent.update(counted.uploads)
            counted.clear()
    print(f"\n{mean(waits):.1f} waits a round, at most {max(waits)}; {mean(uploads):.1f} uploads")
    for kind, seen in (("wait", places), ("upload", sent)):
        for place, times in seen.most_common():
            print(f"  {times / len(waits):5.2f} {kind} {place}")
    assert max(waits) <= MOST, places
    assert sum(places.values()) <= sum(waits) + 1
    assert text == expected


@pytest.mark.parametrize("name", CASES)
def test_a_round_waits_twice_and_writes_the_same_text(name, as_there):
    check_waits(CASES[name], NUM_TOKENS, as_there)


@pytest.mark.parametrize(("name", "verifier"), PAIRS)
def test_so_does_every_tree_with_every_verifier(name, verifier, as_there):
    check_waits(Case(drafts(NAMED[name]), WARM, verifier), NUM_TOKENS // 2, as_there)


def test_no_tree_and_no_verifier_is_left_out():
    assert NAMED.keys() == POLICIES.keys()
    assert {verifier for _, verifier in PAIRS} == set(VERIFIERS) - {"greedy", "naive"}  # for laws that are no draws
    for name, policy in NAMED.items():
        for verifier in set(VERIFIERS) - FITTING[name]:
            with pytest.raises(ValueError, match="does not fit this tree"):
                check_pair(policy, verifier, WARM)


PLACED = (EagleTree(12, depth=6, top_k=4), EagleTree(5, depth=4, top_k=3), CoupledTree(9, depth=6, top_k=5))
SCAFFOLD = Scaffold((3, 70, 4), (0.8, 0.9, 0.7))  # the second one is foreign to the draft


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("scaffold", [EMPTY, SCAFFOLD])
@pytest.mark.parametrize("policy", PLACED, ids=repr)
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
        larger = (numbers * 2 + 1)[send(torch.tensor([1, 2]), DEVICE)].cumsum(0)
        larger[:1] = 0.0
        assert (counted.num_waits, counted.num_uploads) == (0, 1)
        assert (float(larger.sum()), larger.tolist(), larger.cpu().tolist()) == (8.0, [0.0, 8.0], [0.0, 8.0])
        assert counted.num_waits == 3
        assert bool((larger > 0).any()) and len(larger[larger > 0]) == 1 and larger.nonzero().shape == (1, 1)
        assert counted.num_waits == 6
        for upload in (lambda: torch.tensor([1, 2], device=DEVICE), lambda: torch.tensor([1]).to(DEVICE)):
            counted.clear()
            assert upload().device == DEVICE and (counted.num_waits, counted.num_uploads) == (1, 0)
