"""How often a round waits for an accelerator, counted on one that is pretended (`tests.engine.pretend`)."""

from collections import Counter
from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from eagle.batching import Batch, side_by_side
from eagle.chance import Chance, Noise
from eagle.decode import DecodeOptions, Session, Step
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.judging import VERIFIERS
from eagle.noise import NoiseField
from eagle.pairing import check_pair
from eagle.sampling import Sampling, seeded
from eagle.trees import (
    POLICIES,
    AutoTree,
    CoupledTree,
    EagleTree,
    SampledChain,
    TreePolicy,
)
from eagle.trees.automatic import partly_sampled
from eagle.trees.exact import TableProposer
from eagle.trees.protocols import grown
from eagle.trees.scaffold import EMPTY, Scaffold
from eagle.trees.scaffolded import with_scaffold
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from hsd_verify.transfer import send
from tests.engine.pretend import DEVICE, moved, pretending
from tests.pairs import FITTING, NAMED, PAIRS
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


@pytest.mark.parametrize("name", ["EAGLE's tree, greedy", "default tree, coupled", "default tree, hsd"])
def test_a_round_of_a_batch_waits_no_more_than_its_rows(name, as_there):
    """What rows share, they do not wait for: two waits a row, of which only the first finds work under way."""
    case, num_rows = CASES[name], 3
    options, prompts = DecodeOptions(case.sampling, NUM_TOKENS, case.verifier), [random_ids(n) for n in (12, 7, 19)]
    target = tiny_target(attention="eager")

    def works(on: Target):
        return [Session(on, case.make(on)).rounds(ids, options, seeded(5)) for ids in prompts]

    def texts(on: Target) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in prompts]
        for number, step in side_by_side(works(on), num_rows):
            found[number] += step.tokens
        return found

    expected, waits, text = as_there(lambda: texts(target)), [], [list[int]() for _ in prompts]
    with pretending() as counted:
        moved(target.model)
        assert target.why_not_together is None  # tried, which waits
        batch, numbers = Batch[Step](), {}
        for number, work in enumerate(works(target)):
            numbers[batch.add(work)] = number
        while len(batch):
            counted.clear()
            rows = batch.advance()
            is_round = all(row.told is not None and row.told.round is not None for row in rows)
            if is_round and len(rows) == num_rows:
                waits.append(sum(n for place, n in counted.waits.items() if not place.startswith(AT_THE_END)))
            for row in rows:
                text[numbers[row]] += row.told.tokens if row.told is not None else ()
    assert waits and max(waits) <= MOST * num_rows
    assert text == expected


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

    def tree_on(device: str | torch.device) -> tuple[DraftTree, list[int]]:
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
        return grown(policy, proposer, Chance(WARM, noise=noise), 6), reads

    expected, few = tree_on("cpu")
    with pretending(), torch.inference_mode():
        tree, many = tree_on(DEVICE)
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
