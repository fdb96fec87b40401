"""The plug-in's decision on packed requests is that of `hsd_verify` on each of them alone. No engine is installed."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import hsd_verify
from eagle.integrations.vllm.expansion import expand_batch_to_tokens
from eagle.integrations.vllm.rejection import PLACEHOLDER, laws_of
from eagle.integrations.vllm.rejection_step import RejectionStep
from eagle.integrations.vllm.settings import HSD, TOKENWISE, PluginSettings
from hsd_verify.chains import Chains
from hsd_verify.draw import draw_at
from tests.integrations.vllm_metadata import Batch

DRAFTED, MIXED = [3, 0, 4, 1, 2], [1.0, 1.0, 0.0, 0.7, 0.0]
WARM = [1.0] * 5


def never(*args: object, **kwargs: object) -> torch.Tensor:
    raise AssertionError("vLLM's own rule was asked")


verify = RejectionStep(PluginSettings(HSD), never)


def seeded(batch: Batch) -> Batch:
    """The same with a generator for every request, whose seed is its place."""
    return replace(batch, generators={b: torch.Generator().manual_seed(b) for b in range(len(batch.num_drafted))})


def emitted(output: torch.Tensor) -> list[list[int]]:
    return [[token for token in row if token != PLACEHOLDER] for row in output.tolist()]


@pytest.mark.parametrize("placed", [False, True], ids=["drawn", "placed"])
def test_every_request_gets_the_verdict_of_its_tree(placed):
    """At the numbers of its generator: a node each and one for the token, as `hsd_verify.verify` takes them."""
    for seed in range(60):
        batch = seeded(Batch(DRAFTED, WARM, seed=seed, placed=placed))
        found = emitted(verify(*batch.arguments()))
        for b, length in enumerate(DRAFTED):
            tree, target = batch.tree(b)
            numbers = torch.rand(length + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(b))
            node, token = draw_at(hsd_verify.law(tree, target), numbers)
            assert found[b] == [*tree.path_tokens(node), token]


def test_laws_of_the_batch_are_those_of_hsd_verify():
    """Total variation of where a request stops, below 1e-12: float64 sums of eleven terms round to some 1e-16."""
    for seed in range(20):
        batch = Batch(DRAFTED, WARM, seed=seed)
        chains = Chains(batch.draft_tokens, batch.ends, max(DRAFTED), batch.draft_probs)
        laws = laws_of(chains, batch.logits)
        for b, length in enumerate(DRAFTED):
            expected = hsd_verify.law(*batch.tree(b))
            assert float((laws.stop[b, : length + 1] - expected.stop).abs().sum()) < 2e-12
            assert float(laws.expected_tau[b]) == pytest.approx(expected.expected_tau, abs=1e-12)


@pytest.mark.parametrize("temperatures", [MIXED, [0.0] * 5], ids=["mixed", "all greedy"])
def test_greedy_requests_follow_the_argmax_whatever_was_drafted(temperatures):
    for seed in range(40):
        batch = Batch(DRAFTED, temperatures, seed=seed)
        found = emitted(verify(*batch.arguments()))
        for b in (b for b, temperature in enumerate(temperatures) if temperature == 0):
            best, drafted = batch.logits[batch.rows(b)].argmax(-1).tolist(), batch.draft_tokens[batch.rows(b)].tolist()
            agree = next((i for i, pair in enumerate(zip(best, drafted, strict=True)) if pair[0] != pair[1]), len(best))
            assert found[b] == best[: agree + 1] + batch.bonus[b].tolist() * (agree == len(best))


def test_a_seeded_request_does_not_see_its_neighbours():
    """The second request's seed is in another place, beside other drafts of other lengths, and beside none."""
    alone = Batch([2], [1.0], seed=5)
    for seed in range(30):
        crowd = Batch([4, 2, 1], [1.0] * 3, seed=seed)
        rows = crowd.rows(1)
        crowd.draft_tokens[rows], crowd.logits[rows] = alone.draft_tokens, alone.logits
        crowd.draft_probs[rows], crowd.bonus[1] = alone.draft_probs, alone.bonus[0]
        alone.generators, crowd.generators = (
            {0: torch.Generator().manual_seed(seed)},
            {1: torch.Generator().manual_seed(seed)},
        )
        assert emitted(verify(*alone.arguments()))[0] == emitted(verify(*crowd.arguments()))[1]


def test_a_request_without_a_draft_takes_no_number_of_its_seed():
    batch = seeded(Batch([1, 0], [1.0, 1.0]))
    verify(*batch.arguments())
    fresh = torch.Generator().manual_seed(1)
    assert torch.equal(torch.rand(3, generator=batch.generators[1]), torch.rand(3, generator=fresh))


@pytest.mark.parametrize("verifier", [HSD, TOKENWISE])
def test_a_round_without_any_draft_emits_the_bonus_tokens(verifier, tmp_path):
    """The engine's last round of texts that end together: no chain had a token, which was refused."""
    batch = Batch([0, 0], [1.0, 0.0])
    rule = RejectionStep(PluginSettings(verifier, tmp_path), never)
    assert torch.equal(rule(*batch.arguments()), batch.bonus)


def test_padded_drafts_are_never_emitted():
    """vLLM pads drafts that a grammar refuses with -1; the token there is drawn from the target."""
    for temperatures in (WARM, [0.0] * 5):
        batch = Batch(DRAFTED, temperatures, seed=2)
        batch.draft_tokens[1] = -1
        output = verify(*batch.arguments())
        assert (output[0] != PLACEHOLDER).sum() <= 2
        assert output[output != PLACEHOLDER].min() >= 0


def test_the_token_wise_rule_is_vllms_own():
    asked = []

    def own(*args: object, **kwargs: object) -> torch.Tensor:
        asked.append(args)
        return torch.zeros(5, 5, dtype=torch.int32)

    batch = Batch(DRAFTED, WARM)
    assert torch.equal(RejectionStep(PluginSettings(TOKENWISE), own)(*batch.arguments()), torch.zeros(5, 5))
    assert len(asked) == 1 and asked[0][0] is batch.draft_tokens


def test_made_up_acceptance_stays_vllms():
    """`synthetic` accepts by given rates, to measure engines: it has no law to be right about."""
    calls = []
    rule = RejectionStep(PluginSettings(HSD), lambda *args, **kwargs: calls.append(args) or args[0])
    made_up: dict[str, Any] = {"synthetic_mode": True, "synthetic_conditional_rates": None}
    rule(*Batch(DRAFTED, WARM).arguments(), **made_up)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_numbers_of_requests_are_repeated_for_their_tokens(dtype):
    """The CPU kernel of 0.32.0 leaves these numbers as the memory held them, and so every sampled text is wrong."""
    x, ends = torch.tensor([7, 0, 3, 5], dtype=dtype), torch.tensor([2, 3, 3, 6], dtype=torch.int32)
    assert expand_batch_to_tokens(x, ends, 6).tolist() == [7, 7, 0, 5, 5, 5]
    assert expand_batch_to_tokens(x, ends, 6, replace_from=0, replace_to=1).tolist() == [7, 7, 1, 5, 5, 5]
    assert expand_batch_to_tokens(x, ends, 6).dtype == dtype
