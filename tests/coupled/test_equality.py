"""Coupled decoding: the same seed gives the same text with any tree, budget or head, or none, token for token.

Why that is losslessness. For a fixed field the text is a function of the target alone: after every prefix the token of
largest `z / T + g` at its position. Plain decoding emits that text by definition, and a tree can only say how much of
it one pass finds: this room shows the equality, on whatever trees and turns. The law of the text over fields is then
that of plain decoding, one draw from the target's law at every position: by Gumbel-max, for numbers that are
independent between positions and tokens and exponential, which `test_noise_law.py` shows of the numbers as they are
made. So nothing about trees is left to be shown by enumeration or chi-square; `test_law.py` does it once anyway.

Models are in float64, where no two sums in another order part a near tie.
"""

import pytest
import torch

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.engine.suitability import HALF_TOLERANCE
from eagle.judging import VERIFIERS, ChosenTokens, judge
from eagle.sampling import Sampling, seeded
from eagle.trees import POLICIES, CostModel, TreePolicy, ValuedTree, make_policy
from tests.coupled.texts import WARM, WIDE, coupled, plain, session
from tests.tiny import random_ids, tiny_target, tokens_of

BUDGETS = [1, 2, 5, 16]
SAMPLINGS = {
    "greedy": Sampling(0.0),
    "cool": Sampling(0.3),
    "usual": Sampling(0.7),
    "warm": WARM,
    "hot": Sampling(2.0),
    "top-k": Sampling(1.0, top_k=4),
    "top-p": Sampling(0.7, top_p=0.8),
    "both": Sampling(2.0, top_k=20, top_p=0.9),
}
COST = CostModel((1, 64), (20.0, 40.0), draft_step_ms=1.0)
BRANCHING: dict[str, dict[int, dict]] = {  # for policies whose size is not a number of nodes
    "chain": {n: {"depth": n - 1} for n in BUDGETS},
    "iid": {n: {"num_paths": max(n // 4, 1), "depth": min(n - 1, 4)} for n in BUDGETS[1:]},
    "without_replacement": {2: {"branching": (1,)}, 5: {"branching": (2, 1)}, 16: {"branching": (3, 2, 1)}},
    "budgeted": {n: {"valued": ValuedTree(n, 0.01), "cost": COST} for n in BUDGETS},
}
SIZED = [(name, n) for name in POLICIES for n in BRANCHING.get(name, dict.fromkeys(BUDGETS))]


def policy_of(name: str, num_nodes: int) -> TreePolicy:
    return make_policy(name, **BRANCHING.get(name, {}).get(num_nodes, {"num_nodes": num_nodes}))


@pytest.mark.parametrize(("name", "num_nodes"), SIZED)
def test_every_tree_gives_the_text_of_plain_decoding(exact_target, name, num_nodes):
    """Trees that draw, that place, that read the noise; of one node and of many."""
    one, ids = session(exact_target, policy_of(name, num_nodes)), random_ids(9)
    assert tokens_of(one.decode(ids, coupled(), seeded(0))) == plain(exact_target, ids, coupled())


@pytest.mark.parametrize("name", ["coupled", "eagle", "mixed"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_sampling_gives_the_text_of_plain_decoding(exact_target, sampling, name):
    """Top-k and top-p of the target define the law; whether a draft heeds them (mixed) or not (coupled) is advice."""
    ids, options = random_ids(9, seed=1), coupled(SAMPLINGS[sampling])
    found = tokens_of(session(exact_target, policy_of(name, 16)).decode(ids, options, seeded(1)))
    assert found == plain(exact_target, ids, options, 1)


def test_texts_are_random_and_trees_are_accepted(exact_target):
    """Otherwise equality would show little: other seeds give other texts, and paths are entered."""
    ids, options = random_ids(9), coupled(Sampling(2.0), 30)
    steps = [list(session(exact_target, WIDE).decode(ids, options, seeded(seed))) for seed in range(3)]
    assert [tokens_of(run) for run in steps] == [plain(exact_target, ids, options, seed) for seed in range(3)]
    assert len({tuple(tokens_of(run)) for run in steps}) == 3
    assert sum(step.num_accepted for run in steps for step in run) >= 15


@pytest.mark.parametrize("seed", range(3))
def test_without_a_drafter_it_is_plain_decoding(exact_target, seed):
    ids = random_ids(9)
    found = tokens_of(Session(exact_target).decode(ids, coupled(), seeded(seed)))
    assert found == plain(exact_target, ids, coupled(), seed)


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("name", ["coupled", "eagle"])
def test_at_temperature_0_every_verifier_gives_the_greedy_text(exact_target, verifier, name):
    ids, options = random_ids(9), DecodeOptions(max_new_tokens=10, verifier=verifier)
    expected = tokens_of(autoregressive(exact_target, ids, DecodeOptions(max_new_tokens=10)))
    assert tokens_of(session(exact_target, policy_of(name, 16)).decode(ids, options)) == expected
    assert tokens_of(autoregressive(exact_target, ids, options)) == expected


def perturbed(target, ids: list[int], options: DecodeOptions, seed: int) -> torch.Tensor:
    """What is compared after ids, as logits and not over the temperature: z + T g (V,)."""
    judged = judge(options.sampling, "coupled", seeded(seed))
    assert isinstance(judged, ChosenTokens)
    scores = judged.sampling.scores(target.read(torch.tensor([ids]), logits_to_keep=1).logits[0, 0])
    return options.sampling.temperature * (scores + judged.field.rows([len(ids)], len(scores))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_differs_at_near_ties_only(dtype):
    """bfloat16 rounds the passes of a tree otherwise: texts part where two perturbed logits nearly tie, in some of 8.

    In float32 none does.
    """
    target, ids, options, apart = tiny_target(), random_ids(9), coupled(Sampling(0.3), 16), 0
    target.model.to(dtype)
    for seed in range(8):
        expected, found = plain(target, ids, options, seed), session(target, WIDE).decode(ids, options, seeded(seed))
        pairs = list(zip(expected, tokens_of(found), strict=True))
        first = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
        if first is not None:
            values, apart = perturbed(target, [*ids, *expected[:first]], options, seed), apart + 1
            assert abs(values[pairs[first][0]] - values[pairs[first][1]]) < 2 * HALF_TOLERANCE
    assert apart <= (6 if dtype == torch.bfloat16 else 0)
