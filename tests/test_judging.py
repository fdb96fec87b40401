"""How an answer's tokens are decided: the judge of every verifier, and both ways to a verdict of settled tokens."""

import pytest
import torch

import hsd_verify
from eagle.chance import draw_rows
from eagle.judging import VERIFIERS, ChosenTokens, IndependentDraws, judge
from eagle.noise import NoiseField, answer_key
from eagle.sampling import Sampling, seeded
from hsd_verify import DraftTree
from tests.counts import ONE_IN_A_MILLION_EITHER_SIDE, sigmas

WARM = Sampling(1.0)
SAMPLINGS = {
    "warm": WARM,
    "cool": Sampling(0.3),
    "hot": Sampling(2.0),
    "top-k": Sampling(0.7, top_k=3),
    "top-p": Sampling(1.0, top_p=0.6),
    "freezing": Sampling(1e-20),
}


def random_tree(num_nodes: int, vocab_size: int, seed: int) -> DraftTree:
    """Any shape; siblings may hold one token twice, as independent paths do."""
    generator = seeded(seed)
    parents = [-1] + [int(torch.randint(node, (), generator=generator)) for node in range(1, num_nodes)]
    return DraftTree(torch.tensor(parents), torch.randint(vocab_size, (num_nodes,), generator=generator))


def agreeing_tree(decide, logits: torch.Tensor, position: int, seed: int) -> DraftTree:
    """A random tree in which every third node holds the very token that is decided after its parent."""
    tree = random_tree(len(logits), logits.shape[1], seed)
    tokens = tree.tokens.clone()
    for node in range(1, len(tokens), 3):
        parent = tree.parent_list[node]
        tokens[node] = decide(logits[parent], position + tree.depth[parent])
    return DraftTree(tree.parents, tokens)


def coupled(generator: torch.Generator) -> ChosenTokens:
    judged = judge(WARM, "coupled", generator)
    assert isinstance(judged, ChosenTokens)
    return judged


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_way_along_the_path_and_the_pass_over_all_nodes_agree(sampling, dtype):
    """On an accelerator all nodes are decided at once; the second way was never run where tests run."""
    accepted = 0
    for seed in range(15):
        logits = (3 * torch.randn(14, 97, generator=seeded(seed))).to(dtype)
        judged = ChosenTokens(SAMPLINGS[sampling], NoiseField(seed), None)
        tree = agreeing_tree(judged.token, logits, 40, seed)
        along, of_all = judged.along_path(tree, logits, 40), judged.of_all_nodes(tree, logits, 40)
        assert [along(node) for node in range(14)] == of_all.tolist()
        found, expected = judged.verdict(tree, logits, 40), hsd_verify.verify_chosen(tree, of_all)
        assert (found.path.tolist(), found.next_token) == (expected.path.tolist(), expected.next_token)
        accepted += found.num_accepted
    assert accepted > 5


@pytest.mark.parametrize("sampling", [*SAMPLINGS.values(), Sampling(0.0)])
def test_a_verdict_is_what_is_decided_token_by_token(sampling):
    """The accepted path and the token behind it are those of plain decoding at their positions in the sequence."""
    for seed in range(15):
        logits = 3 * torch.randn(14, 97, generator=seeded(seed))
        judged = judge(sampling, "coupled", seeded(seed))
        tree = agreeing_tree(judged.token, logits, 7, seed)
        verdict = judged.verdict(tree, logits, 7)
        path = [0, *verdict.path.tolist()]
        text = [*(tree.token_list[node] for node in path[1:]), verdict.next_token]
        assert text == [judged.token(logits[node], 7 + depth) for depth, node in enumerate(path)]
        assert not any(tree.token_list[child] == text[-1] for child in tree.children[path[-1]])


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_at_temperature_0_every_verifier_comes_to_the_targets_best(verifier):
    """Of equal logits the first; nothing is drawn, so the generator stays where it was."""
    generator = seeded(0)
    judged = judge(Sampling(0.0), verifier, generator)
    assert isinstance(judged, ChosenTokens) and judged.field is None and judged.chance(3).noise is None
    logits = torch.randn(4, 30).index_fill(1, torch.tensor([7, 21]), 9.0)
    tree = DraftTree(torch.tensor([-1, 0, 1, 0]), torch.tensor([0, 7, 7, 21]))
    verdict = judged.verdict(tree, logits, 5)
    assert (verdict.path.tolist(), verdict.next_token) == ([1, 2], 7) and judged.token(logits[0], 5) == 7
    assert torch.equal(generator.get_state(), seeded(0).get_state())


@pytest.mark.parametrize("verifier", [name for name in VERIFIERS if name not in ("coupled", "greedy")])
def test_no_rule_that_accepts_and_rejects_meets_the_noise(verifier):
    """Trap (a): what a draft has read must not decide about it."""
    judged = judge(WARM, verifier, seeded(0))
    assert isinstance(judged, IndependentDraws) and judged.chance(3).noise is None


def test_an_answer_takes_one_number_of_the_generator():
    generator, other = seeded(6), seeded(6)
    judged = coupled(generator)
    assert judged.field.key == answer_key(other)
    assert torch.equal(generator.get_state(), other.get_state())
    assert coupled(generator).field.key == answer_key(other) != judged.field.key


def test_a_draft_reads_the_noise_that_the_target_will():
    """By depth below the root there, by position in the sequence here."""
    judged, tokens = coupled(seeded(0)), torch.arange(0, 60, 3)
    for depth in range(4):
        assert torch.equal(judged.chance(50).noise.below(depth, tokens), judged.field.at(50 + depth, tokens).float())
    logits = torch.full((60,), -torch.inf).index_fill(0, tokens, 0.0)
    assert judged.token(logits, 52) == tokens[judged.chance(50).noise.below(2, tokens).argmax()]


def test_what_a_tree_draws_is_independent_of_the_noise():
    """Its generator begins with the key too: a draw agrees with the settled token in `sum p^2` of 1,500 answers.

    A right build is blamed once in a million.
    """
    logits, draws, hits = torch.tensor([0.0, 0.4, 0.8, 1.2]), 1_500, 0
    law, generator = WARM.law(logits), seeded(1)
    for _ in range(draws):
        judged = coupled(generator)
        hits += judged.token(logits, 9) == int(draw_rows(law[None], judged.chance(9).generator))
    assert abs(sigmas(hits, draws, float((law**2).sum()))) < ONE_IN_A_MILLION_EITHER_SIDE


def test_verifiers_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"unknown verifier 'copuled': choose one of .*hsd.*, coupled"):
        judge(WARM, "copuled", None)
