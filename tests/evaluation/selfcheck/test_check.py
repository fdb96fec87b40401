"""The self-check passes what is lossless and catches what is not: planted verifiers, laws and cache faults."""

from dataclasses import dataclass, replace

import pytest
import torch

import hsd_verify
from eagle import judging
from eagle.context import Context
from eagle.drafters.beside import LookupBeside
from eagle.engine.cache import KeyValueCache
from eagle.sampling import Sampling
from eagle.trees import SampledChain, TreePolicy
from evaluation.arms import TreeAndVerifier, parse_drafting
from evaluation.selfcheck import counting
from evaluation.selfcheck.check import Check, check_lossless, refuse_failed
from evaluation.selfcheck.counting import check_by_chi_square, check_equality, chi_square_tail
from evaluation.selfcheck.enumeration import check_by_enumeration, scaffold_after, trees_after
from hsd_verify import DraftTree, Law, Verdict
from tests.trees.test_scaffold import PlacedInsteadOfDrawn


def over_accepting(tree: DraftTree, target_probs: torch.Tensor, totals: torch.Tensor) -> Law:
    """Accepts too much: the walk, but half of the probability goes to the deepest node."""
    law = hsd_verify.VERIFIERS["walk"](tree, target_probs, totals)
    deepest = max(range(tree.num_nodes), key=lambda node: tree.depth[node])
    stop = law.stop / 2
    stop[deepest] += 0.5
    return replace(law, stop=stop)


@pytest.fixture
def planted(monkeypatch) -> TreeAndVerifier:
    monkeypatch.setitem(hsd_verify.VERIFIERS, "over_accepting", over_accepting)
    monkeypatch.setattr(judging, "VERIFIERS", (*judging.VERIFIERS, "over_accepting"))
    return parse_drafting("eagle:num_nodes=4,depth=3,top_k=1+over_accepting")


@pytest.fixture
def fewer_texts(monkeypatch):
    monkeypatch.setattr(counting, "NUM_TEXTS", 120)


@pytest.fixture
def fewer_prompts(monkeypatch):
    monkeypatch.setattr(counting, "NUM_PROMPTS", 4)


BUDGETED = "budgeted:cost.num_nodes=1+64,cost.target_ms=20+40,cost.draft_step_ms=3+hsd"
SPECS = ["auto+hsd", "eagle+walk", "chain:depth=2+hsd", "without_replacement:branching=2+2+hsd", BUDGETED]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_lossless_arms_pass_the_enumeration(spec, temperature):
    passed, finding = check_by_enumeration(parse_drafting(spec), temperature)
    assert passed, finding


def test_a_verifier_that_over_accepts_is_caught_by_enumeration(planted):
    for temperature in (0.0, 1.0):
        passed, finding = check_by_enumeration(planted, temperature)
        assert passed is False and "total variation" in finding


def test_a_verifier_that_over_accepts_is_caught_by_counting(planted, fewer_texts):
    """The texts are a function of fixed seeds, so this test does not depend on chance."""
    passed, finding = check_by_chi_square(planted, 1.0)
    assert passed is False, finding


def test_a_lossless_arm_passes_the_counting(fewer_texts):
    """False alarms: one in a million, and none with these fixed seeds."""
    passed, finding = check_by_chi_square(parse_drafting("chain:depth=2+hsd"), 1.0)
    assert passed, finding


@dataclass(frozen=True)
class LyingChain:
    """Draws sharper than it says: the tree states the law at the sampling temperature."""

    verifier = "hsd"

    def grow(self, proposer, chance, max_depth):
        return SampledChain(2).grow(proposer, replace(chance, draw=lambda w, g: chance.draw(w**2, g)), max_depth)


def test_a_policy_that_states_other_laws_than_it_draws_from_is_caught():
    liar: TreePolicy = LyingChain()
    assert check_by_enumeration(TreeAndVerifier(liar, "hsd"), 1.0)[0] is False


def test_a_policy_with_too_many_trees_is_left_undecided():
    passed, finding = check_by_enumeration(parse_drafting("iid:num_paths=5,depth=2+hsd"), 1.0)
    assert passed is None and "more than" in finding


def test_greedy_equality_catches_a_cache_that_keeps_the_wrong_nodes(monkeypatch, fewer_prompts):
    """What the enumeration cannot see, because it has no cache."""
    drafting, keep = parse_drafting("eagle+walk"), KeyValueCache.keep
    assert check_equality(drafting, 0.0)[0]
    monkeypatch.setattr(KeyValueCache, "keep", lambda cache, nodes: keep(cache, torch.zeros_like(nodes)))
    assert check_equality(drafting, 0.0)[0] is False


@pytest.mark.parametrize(
    ("spec", "vocab_size", "count"), [("without_replacement", 2, 8), ("chain", 3, 9), ("eagle", 3, 1)]
)
def test_listed_trees_have_the_whole_probability(spec, vocab_size, count):
    """Two siblings of two tokens have two orders, at the root and below both: 8. A chain of two has 3 x 3 fillings."""
    trees = trees_after(parse_drafting(f"{spec}+hsd").policy, Sampling(1.0), vocab_size, 2, (1,))
    assert len(trees) == count and sum(prob for prob, _ in trees) == pytest.approx(1.0)


def test_a_failed_check_stops_before_measuring_and_an_undecided_one_does_not():
    def check(passed):
        return Check("oak+hsd", 1.0, "enumeration", passed, "total variation 0.1")

    refuse_failed([check(True), check(None)])
    with pytest.raises(ValueError, match=r"oak\+hsd at temperature 1, enumeration: total variation 0.1"):
        refuse_failed([check(True), check(False)])


def test_both_checks_are_made_of_an_arm(fewer_prompts):
    spec = "chain:depth=1+hsd"
    checks = check_lossless(spec, parse_drafting(spec), 0.0)
    assert [(c.name, c.passed) for c in checks] == [("enumeration", True), ("counting", True)]


def test_the_tail_of_chi_square_is_the_tabulated_one():
    assert chi_square_tail(3.841, 1) == pytest.approx(0.05, abs=1e-4)
    assert chi_square_tail(40.113, 27) == pytest.approx(0.05, abs=1e-4)


LOOKUP_SPECS = [f"{spec}+lookup" for spec in SPECS if spec != BUDGETED]


@pytest.mark.parametrize("spec", LOOKUP_SPECS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_arms_with_a_lookup_are_checked_with_it(spec, temperature):
    drafting = parse_drafting(spec)
    passed, finding = check_by_enumeration(drafting, temperature)
    assert passed, finding
    for prefix in ((), (1,), (1, 0), (0, 0, 1)):
        scaffold = scaffold_after(2, prefix)
        trees = trees_after(drafting.policy, Sampling(temperature), 2, 2, prefix, lookup=True)
        assert scaffold.tokens and all(
            any(not tree.sampled_list[v] and tree.token_list[v] == scaffold.tokens[0] for v in range(1, tree.num_nodes))
            for _, tree in trees
        )


def test_a_flaw_that_only_a_scaffold_shows_is_caught():
    policy: TreePolicy = PlacedInsteadOfDrawn()
    assert check_by_enumeration(TreeAndVerifier(policy, "hsd"), 1.0)[0] is True
    assert check_by_enumeration(TreeAndVerifier(policy, "hsd", lookup=True), 1.0)[0] is False


@pytest.mark.parametrize("spec", ["auto+coupled+lookup", "auto+hsd+lookup"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_sessions_with_a_lookup_are_checked_with_it(spec, temperature, monkeypatch, fewer_prompts, fewer_texts):
    suggested, scaffold = [], LookupBeside.scaffold

    def kept(beside):
        suggested.append(scaffold(beside))
        return suggested[-1]

    monkeypatch.setattr(LookupBeside, "scaffold", kept)
    check = check_equality if temperature == 0 or "coupled" in spec else check_by_chi_square
    passed, finding = check(parse_drafting(spec), temperature)
    assert passed, finding
    assert sum(len(one.tokens) > 0 for one in suggested) > len(suggested) / 4


COUPLED_SPECS = ["coupled:num_nodes=8,depth=4,top_k=2+coupled", "auto+coupled", "chain:depth=2+coupled"]


@pytest.mark.parametrize("spec", COUPLED_SPECS)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_coupled_arms_are_compared_with_plain_decoding_and_counted(spec, temperature, fewer_prompts, fewer_texts):
    checks = check_lossless(spec, parse_drafting(spec), temperature)
    assert [check.name for check in checks] == ["equality"] + ["counting"] * (temperature > 0)
    assert all(check.passed for check in checks) and "4 of 4 texts equal" in checks[0].finding


BROKEN_FIELDS = {
    "indexed by depth instead of position": lambda position: 1,
    "the bonus token has the noise of the one before it": lambda position: position - 1,
}


@pytest.mark.parametrize("broken", BROKEN_FIELDS)
def test_a_broken_field_is_caught(broken, monkeypatch, fewer_prompts):
    """Each round alone draws from the target's law: only the text as a whole shows it."""
    verdict, place = judging.ChosenTokens.verdict, BROKEN_FIELDS[broken]

    def misplaced(
        judged: judging.ChosenTokens, tree: DraftTree, logits: torch.Tensor, position: int, context: Context | None
    ) -> Verdict:
        return verdict(judged, tree, logits, place(position), context)

    monkeypatch.setattr(judging.ChosenTokens, "verdict", misplaced)
    outcome = check_equality(parse_drafting(COUPLED_SPECS[0]), 1.0)
    assert outcome[0] is False
    with pytest.raises(ValueError, match=r"temperature 1, equality: \d of 4 texts equal plain decoding"):
        refuse_failed([Check(COUPLED_SPECS[0], 1.0, "equality", *outcome)])


def test_one_key_for_all_answers_is_caught(monkeypatch, fewer_texts):
    """Every answer alone is plain decoding's: only many of them show it."""
    monkeypatch.setattr(judging, "answer_key", lambda _: 7)
    passed, finding = check_by_chi_square(parse_drafting(COUPLED_SPECS[0]), 1.0)
    assert passed is False, finding
