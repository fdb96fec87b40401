"""Losslessness by exact enumeration: over all drafts and verdicts, the emitted text has the target's law.

The bound of 1e-12 in total variation is far above float64 rounding (about 1e-15 for these sums of a few thousand
products) and far below any real error: the lossy variants in `test_negative_controls.py` are off by 1e-3 and more.
"""

from __future__ import annotations

import pytest
import torch

from hsd_verify import VERIFIERS
from hsd_verify.exact import enumerate as exact
from tests.hsd_verify.models import fixed_model, random_model, warped_model
from tests.hsd_verify.processes import APPLIES, LAWS, PROCESSES

EXACT = 1e-12

PAIRS = [(m, p) for m in VERIFIERS for p in PROCESSES if APPLIES[m] is None or p in APPLIES[m]]
REFUSED = [(m, p) for m in VERIFIERS for p in PROCESSES if m != "greedy" and (m, p) not in PAIRS]


@pytest.mark.parametrize("laws", LAWS)
@pytest.mark.parametrize(("verifier", "process"), PAIRS)
def test_every_method_is_lossless_where_it_applies(verifier, process, laws):
    target, draft = LAWS[laws]
    law = exact.output_law(PROCESSES[process](draft), target, verifier, 2)
    assert exact.total_variation(law, exact.text_law(target, 2)) < EXACT


@pytest.mark.parametrize(("verifier", "process"), REFUSED)
def test_other_processes_are_refused_with_the_methods_that_apply(verifier, process):
    target, draft = LAWS["random-4"]
    with pytest.raises(ValueError, match=r"node \d.*'hsd', 'tokenwise' and 'walk' verify every tree|naive"):
        exact.output_law(PROCESSES[process](draft), target, verifier, 2)


@pytest.mark.parametrize("process", PROCESSES)
def test_greedy_emits_the_targets_own_greedy_text_on_every_tree(process):
    def target(text):
        return torch.eye(4, dtype=torch.float64)[(sum(text) + len(text)) % 4]

    law = exact.output_law(PROCESSES[process](random_model(4, 11)), target, "greedy", 3)
    wanted = exact.text_law(target, 3)
    assert torch.equal(law > 0, wanted > 0)  # no other text at all, not even with a tiny probability
    assert exact.total_variation(law, wanted) < EXACT


def test_greedy_refuses_a_softmax():
    target, draft = LAWS["random-3"]
    with pytest.raises(ValueError, match=r"node 0.*one-hot.*'walk' or 'hsd'"):
        exact.output_law(PROCESSES["chain"](draft), target, "greedy", 1)


@pytest.mark.parametrize("verifier", ["hsd", "tokenwise", "walk"])
@pytest.mark.parametrize(
    "parents", [[-1, 0, 0, 1, 1], [-1, 0, 1, 1, 2], [-1, 0, 1, 2, 0]], ids=lambda p: "".join(map(str, p[1:]))
)
@pytest.mark.parametrize("seed", range(4))
def test_random_shapes_and_mixtures(verifier, parents, seed):
    generator = torch.Generator().manual_seed(seed)
    sampled = [False, *(torch.rand(4, generator=generator) < 0.6).tolist()]
    drafting = exact.Drafting(random_model(3, 20 + seed), parents, sampled, replacement=seed % 2 == 0)
    target = random_model(3, 40 + seed)
    assert exact.total_variation(exact.output_law(drafting, target, verifier, 3), exact.text_law(target, 3)) < EXACT


@pytest.mark.parametrize("process", ["hybrid-two-sampled", "single"])
def test_five_tokens(process):
    target, draft = random_model(5, 30), random_model(5, 31)
    law = exact.output_law(PROCESSES[process](draft), target, "hsd", 3)
    assert exact.total_variation(law, exact.text_law(target, 3)) < EXACT


def _top_k(law, k=2):
    kept = law.where(law >= law.topk(k).values[-1], 0)
    return kept / kept.sum()


def _top_p(law, p=0.7):
    sorted_law, order = law.sort(descending=True)
    kept = torch.zeros_like(law).scatter(0, order, sorted_law.where(sorted_law.cumsum(0) - sorted_law < p, 0))
    return kept / kept.sum()


@pytest.mark.parametrize("warp", [_top_k, _top_p])
@pytest.mark.parametrize("process", ["chain", "hybrid", "without-replacement", "deterministic"])
def test_the_warped_target_is_what_comes_out(process, warp):
    """Warping leaves the draft with mass where the target has none: those tokens must never be emitted."""
    target, draft = warped_model(random_model(4, 12), warp), warped_model(random_model(4, 16), warp)
    assert ((draft(()) > 0) & (target(()) == 0)).any()
    law, wanted = exact.output_law(PROCESSES[process](draft), target, "hsd", 2), exact.text_law(target, 2)
    assert exact.total_variation(law, wanted) < EXACT
    assert (law[wanted == 0] == 0).all()


def test_an_unwarped_draft_serves_a_warped_target():
    target = warped_model(random_model(4, 14), _top_k)
    law = exact.output_law(PROCESSES["hybrid"](random_model(4, 15)), target, "hsd", 2)
    assert exact.total_variation(law, exact.text_law(target, 2)) < EXACT


def test_targets_may_be_tables():
    table = fixed_model(0.2, 0.3, 0.5)(())
    mapping = {(): table, (0,): table, (1,): table, (2,): table}
    drafting = PROCESSES["single"](fixed_model(0.5, 0.3, 0.2))
    expected = table[:, None] * table
    for target in (table, mapping):
        with_table = exact.output_law(exact.chain(drafting.draft, 1), target, "walk", 1)
        assert exact.total_variation(with_table, table) < EXACT
    assert exact.total_variation(exact.output_law(drafting, table, "hsd", 2), expected) < EXACT
