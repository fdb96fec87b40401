"""What policies promise besides losslessness: budgets, depth, names, seeds, and slots that are decided before draws."""

import dataclasses

import pytest
import torch

from eagle.chance import Chance, Noise, draw_rows
from eagle.decode import DecodeOptions, Session
from eagle.noise import NoiseField
from eagle.sampling import Sampling, seeded
from eagle.trees import (
    POLICIES,
    Acceptance,
    AutoTree,
    BudgetedTree,
    CostModel,
    EagleTree,
    IidPaths,
    SampledChain,
    ValuedTree,
    WithoutReplacement,
    hybrid,
    make_policy,
    mixed,
    parse_policy,
    sampled,
)
from eagle.trees.exact import TableProposer, all_trees
from eagle.trees.protocols import grown
from eagle.vocab import DraftVocabulary
from tests.tiny import random_ids, tiny_drafter
from tests.trees.toy import policy_error, toy_proposer

COSTS = CostModel((1, 64), (20.0, 40.0), draft_step_ms=3.0)
NAMED = {name: make_policy(name, **({"cost": COSTS} if name == "budgeted" else {})) for name in POLICIES}
SAMPLED = {name: policy for name, policy in NAMED.items() if name not in ("eagle", "coupled")}
WARM = Sampling(1.0)


def proposer(seed=2, size=12, prefix=()):
    return toy_proposer(list(range(size)), size, seed, prefix)


def unchanging():
    """The same law everywhere."""
    return TableProposer(DraftVocabulary.first(3, 3), lambda _text: torch.tensor([0.8, 0.1, 0.1]).log())


def test_drawn_rows_follow_their_weights():
    """20,000 draws: a frequency is off by more than 0.02 with probability below 1e-7 (Hoeffding), three times."""
    weights = torch.tensor([0.5, 0.0, 1.0, 0.5]).expand(20_000, 4)
    counts = draw_rows(weights, seeded(0)).bincount(minlength=4) / 20_000
    assert counts[1] == 0
    assert (counts - torch.tensor([0.25, 0.0, 0.5, 0.25])).abs().max() < 0.02


def test_a_row_draws_the_same_whatever_follows_it():
    weights = torch.rand(5, 30, generator=seeded(1))
    assert draw_rows(weights, seeded(3))[:2].tolist() == draw_rows(weights[:2], seeded(3)).tolist()


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("max_depth", [0, 1, 3])
def test_trees_stay_within_the_depth(name, max_depth):
    chance = Chance(WARM, seeded(0), noise=Noise(NoiseField(1), position=5))
    tree = grown(NAMED[name], proposer(), chance, max_depth)
    assert max(tree.depth) <= max_depth
    assert (tree.num_nodes == 1) == (max_depth == 0)


@pytest.mark.parametrize("make", [hybrid, mixed, sampled, AutoTree])
@pytest.mark.parametrize("num_nodes", [1, 2, 9, 33])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_budgets_are_kept_and_used(make, num_nodes, temperature):
    sizes = [
        grown(make(num_nodes), proposer(seed), Chance(Sampling(temperature), seeded(0)), 8).num_nodes
        for seed in range(5)
    ]
    assert max(sizes) <= num_nodes
    if temperature and num_nodes > 2:  # without draws the placed slots of a toy vocabulary may run out
        assert sum(sizes) / 5 > 0.7 * num_nodes


def narrowed(policy):
    """The policy with room for three nodes below the root where it takes a budget."""
    if isinstance(policy, AutoTree):
        return AutoTree(4)
    if isinstance(policy, BudgetedTree):
        return dataclasses.replace(policy, valued=dataclasses.replace(policy.valued, num_nodes=4, max_placed=1))
    return dataclasses.replace(policy, num_nodes=4) if isinstance(policy, ValuedTree) else policy


@pytest.mark.parametrize("name", SAMPLED)
def test_slots_of_a_family_do_not_depend_on_what_is_drawn(name):
    """All branches of the first level: the same nodes below the root, sampled alike, whatever tokens they drew."""
    policy = narrowed(SAMPLED[name])
    trees = [tree for _, tree in all_trees(lambda draw: grown(policy, proposer(size=6), Chance(WARM, draw=draw), 1))]
    assert len({(tree.parent_list, tree.sampled_list) for tree in trees}) == 1
    assert len({tree.token_list for tree in trees}) == len(trees) > 1


def test_hybrid_has_one_sampled_child_and_mixed_several():
    trees = {make: grown(make(33), proposer(size=30), Chance(WARM, seeded(0)), 4) for make in (hybrid, mixed, sampled)}
    most = {make: max(len(tree.sampled_children(v)) for v in range(tree.num_nodes)) for make, tree in trees.items()}
    assert most[hybrid] == 1 and most[mixed] > 1 and most[sampled] > 1
    assert any(trees[hybrid].placed_children(v) for v in range(33))
    assert all(trees[sampled].sampled_list[1:])


def test_rows_are_formed_only_for_nodes_that_draw():
    tree = grown(hybrid(17), proposer(size=30), Chance(WARM, seeded(0)), 4)
    for node in range(tree.num_nodes):
        assert float(tree.draft_probs[node].sum()) == pytest.approx(float(bool(tree.sampled_children(node))))
        placed = [tree.token_list[child] for child in tree.placed_children(node)]
        assert not tree.draft_probs[node, placed].any()
    assert grown(EagleTree(9), proposer(), Chance(WARM), 4).draft_probs is None


def test_nothing_is_sampled_where_the_target_is_greedy():
    for make in (hybrid, mixed, AutoTree):
        tree = grown(make(17), proposer(size=30), Chance(Sampling(0.0), seeded(0)), 4)
        assert not any(tree.sampled_list) and tree.num_nodes > 5


@pytest.mark.parametrize("num_nodes", [2, 4, 8, 16])
def test_the_last_node_of_a_budget_is_spent(num_nodes):
    """It was not: a slot with the descendants that may follow it asked for more room than one node."""
    trees = [grown(AutoTree(num_nodes), proposer(size=30), Chance(WARM, seeded(seed)), 8) for seed in range(20)]
    assert max(tree.num_nodes for tree in trees) == num_nodes


def test_auto_takes_the_tree_for_the_temperature():
    assert isinstance(AutoTree(12).choose(Sampling(0.0)), EagleTree)
    assert isinstance(AutoTree(12).choose(Sampling(0.3)), EagleTree)
    assert isinstance(AutoTree(12).choose(Sampling(0.6)), EagleTree)  # sampled trees win nothing there: docs/trees.md
    assert isinstance(AutoTree(12).choose(Sampling(0.8)), ValuedTree)
    assert isinstance(AutoTree(12).choose(WARM), ValuedTree)


def test_auto_is_lossless_at_small_budgets():
    assert policy_error(AutoTree(6), WARM, [0, 1, 2], 3, depth=3) < 1e-12


def test_values_are_read_at_temperature_1_and_drawn_at_the_samplings():
    """A cold target's draft places what it would place at temperature 1: its own cold law would be too sure."""
    cold, warm = (
        grown(ValuedTree(9, 0.05, max_sampled=0), proposer(size=30), Chance(Sampling(t)), 2) for t in (0.4, 1.0)
    )
    sure = grown(ValuedTree(9, 0.05, max_sampled=0, value_temperature=0.4), proposer(size=30), Chance(Sampling(0.4)), 2)
    assert cold.token_list == warm.token_list != sure.token_list
    tree = grown(ValuedTree(9, max_placed=0), proposer(size=30), Chance(Sampling(0.4), seeded(0)), 1)
    law = Sampling(0.4).law(proposer(size=30).root_logits[None])[0]
    assert torch.allclose(tree.draft_probs[0], law, atol=1e-7)  # rounding of float32


def test_values_are_honest_about_sampled_slots():
    """A level whose sampled slots are never accepted gets none, and its placed ones stay."""
    hopeless = Acceptance(sampled=(((0.6,),), ((1e-6,),)))
    tree = grown(ValuedTree(33, acceptance=hopeless), proposer(size=30), Chance(WARM, seeded(0)), 4)
    levels = {tree.depth[node] for node in range(1, tree.num_nodes) if tree.sampled_list[node]}
    assert levels == {1} and max(tree.depth) > 1


def test_a_confident_node_gets_fewer_siblings():
    """Slots follow the largest probability of the node's law; every level has a row for each class."""
    acceptance = Acceptance(sampled=(((0.3, 0.2), (0.7, 0.01)), ((0.2, 0.1), (0.6, 0.3))), confidence=(0.5,))
    laws = torch.tensor([[0.4, 0.3, 0.3], [0.8, 0.1, 0.1]])
    assert torch.equal(acceptance.sampled_at(0, laws, 3), torch.tensor([[0.3, 0.2, 0.2], [0.7, 0.01, 0.01]]))
    assert torch.equal(acceptance.sampled_at(5, laws, 1), torch.tensor([[0.2], [0.6]]))
    with pytest.raises(ValueError, match="makes 2 classes, sampled has \\[1\\] by level"):
        Acceptance(confidence=(0.5,))


def test_budgeted_grows_as_long_as_it_pays():
    free = CostModel((1, 64), (20.0, 20.1), draft_step_ms=0.01)
    dear = CostModel((1, 64), (20.0, 2000.0), draft_step_ms=0.01)
    slow_head = CostModel((1, 64), (20.0, 20.1), draft_step_ms=100.0)
    trees = [
        grown(BudgetedTree(cost=cost), proposer(size=30), Chance(WARM, seeded(0)), 8)
        for cost in (free, dear, slow_head)
    ]
    assert trees[0].num_nodes > 20 > 3 > trees[1].num_nodes
    assert max(trees[0].depth) > 2 and max(trees[2].depth) == 1


def test_faster_decoding_asks_more_of_a_node():
    """All rounds are grown for one rate; the higher it is, the more a millisecond must bring."""
    cost = CostModel((1, 64), (20.0, 50.0), draft_step_ms=1.0)
    sizes = [
        grown(BudgetedTree(cost=cost, rate=rate), proposer(size=30), Chance(WARM, seeded(0)), 8).num_nodes
        for rate in (0.02, 0.1, 0.5)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_node_is_taken_for_its_value_and_not_for_what_the_round_has_gained():
    """Values of one placed chain, .8 .64 .512: a rate that one node is worth, whatever came before it."""
    valued = ValuedTree(9, 0.01, max_placed=1, max_sampled=0, covered=0.0, acceptance=Acceptance(placed=(1.0,)))
    for rate, depth in ((0.63, 2), (0.65, 1), (0.81, 0)):
        policy = BudgetedTree(valued, CostModel((1, 64), (10.0, 73.0), draft_step_ms=0.0), rate)
        assert grown(policy, unchanging(), Chance(WARM), 8).num_nodes == 1 + depth


def test_costs_are_linear_between_measurements_and_beyond():
    cost = CostModel((1, 8, 16), (10.0, 10.0, 26.0))
    assert cost.target_at(torch.tensor([1, 4, 8, 12, 16, 20])).tolist() == [10, 10, 10, 18, 26, 34]


def test_names_and_specs():
    assert make_policy("hybrid", num_nodes=20) == hybrid(20)
    assert parse_policy("without_replacement:branching=3+2+1") == WithoutReplacement((3, 2, 1))
    assert parse_policy("mixed:num_nodes=20,covered=0.8") == mixed(20, covered=0.8)
    assert parse_policy("iid:num_paths=2") == IidPaths(2)
    assert parse_policy("auto") == AutoTree()
    assert parse_policy("auto:sampled_from=0.5") == AutoTree(sampled_from=0.5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("oak", "unknown tree 'oak': choose one of auto, eagle"),
        ("chain:width=2", "tree 'chain' has no field width: known are depth"),
        ("auto:trees=3", "has no field trees: known are num_nodes, greedy_nodes, sampled_from"),
        ("chain:depth", "'depth' must be FIELD=VALUE"),
        ("chain:depth=deep", "'deep' is not a number"),
        ("chain:depth=-1", "depth is -1, it must be at least 0"),
        ("hybrid:threshold=2", "threshold is 2, it must be at most 1"),
        ("hybrid:covered=1", "covered is 1, it must be smaller than 1"),
        ("eagle:num_nodes=0", "num_nodes is 0, it must be at least 1"),
        ("without_replacement:branching=3+0", r"branching\[1\] is 0"),
    ],
)
def test_refusals_say_what_would_do(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_policy(spec)


def test_refusals_of_tables():
    with pytest.raises(ValueError, match=r"placed is 0\.0, it must be larger than 0"):
        Acceptance(placed=(0.0,))
    with pytest.raises(ValueError, match="two lists of one length"):
        CostModel((1, 8), (10.0,))
    with pytest.raises(ValueError, match="valued has no threshold"):
        BudgetedTree(ValuedTree())


@pytest.mark.parametrize("name", POLICIES)
def test_decoding_with_every_policy_repeats_with_its_seed(target, name):
    """The real drafter: a head with a vocabulary of its own, a cache, several rounds."""
    options = DecodeOptions(WARM, max_new_tokens=12)
    session = Session(target, tiny_drafter(target, NAMED[name]))
    texts = []
    for seed in (3, 3, 4):
        texts.append([token for step in session.decode(random_ids(9), options, seeded(seed)) for token in step.tokens])
    assert texts[0] == texts[1] != texts[2]


def test_a_chain_is_the_simplest_sampled_tree():
    chain = grown(SampledChain(3), proposer(), Chance(WARM, seeded(5)), 3)
    assert chain.parent_list == (-1, 0, 1, 2) and chain.sampled_list == (False, True, True, True)
    assert chain.token_list == grown(WithoutReplacement((1, 1, 1)), proposer(), Chance(WARM, seeded(5)), 3).token_list


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eagle:num_nodes=1e9", "num_nodes is 1000000000.0, it must be a whole number"),
        ("eagle:num_nodes=1000000000", "num_nodes is 1000000000, it must be at most 4096"),
        ("eagle:depth=2.5", "depth is 2.5, it must be a whole number"),
        ("eagle:draft_temperature=nan", "'nan' is not a number"),
        ("chain:depth=1000000", "depth is 1000000, it must be at most 4096"),
        ("iid:num_paths=4000,depth=4000", r"num_paths \* depth is 16000000, it must be at most 4096"),
        ("without_replacement:branching=100+100+100", "nodes of level 2 is 10000, it must be at most 4096"),
        ("without_replacement:branching=0", r"branching\[0\] is 0, it must be at least 1"),
        ("mixed:max_sampled=1e3", "max_sampled is 1000.0, it must be a whole number"),
        ("mixed:covered=1e400", "covered is inf, it must be a finite number"),
        ("budgeted:rate=1e999", "rate is inf, it must be a finite number"),
        ("budgeted:cost.num_nodes=1+2,cost.target_ms=0+1", "target_ms is 0, it must be larger than 0"),
        ("budgeted:cost=3", r"cost is 3, give fields of it, such as cost\.num_nodes=16"),
        ("mixed:acceptance=3", "acceptance is 3, give fields of it"),
        ("auto:sampled_from=-1", "sampled_from is -1, it must be at least 0"),
        ("auto:num_nodes=0.5", "num_nodes is 0.5, it must be a whole number"),
    ],
)
def test_sizes_that_are_no_counts_are_refused(text, message):
    """A tree of a thousand million nodes was accepted and then hung."""
    with pytest.raises(ValueError, match=message):
        parse_policy(text)
