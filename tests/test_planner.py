"""Costs are measured once per machine, target and dtype; with the numbers of a head they decide the tree."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from eagle import planner
from eagle.batching import side_by_side
from eagle.chance import Chance
from eagle.chat import Chat
from eagle.decode import DecodeOptions, Session
from eagle.drafters.eagle3 import EagleDrafter
from eagle.sampling import Sampling, seeded
from eagle.trees import (
    Acceptance,
    AutoTree,
    BudgetedTree,
    CostModel,
    CoupledTree,
    CoupledValues,
    SampledChain,
    ValuedTree,
)
from eagle.trees.automatic import partly_sampled, perturbed, placed
from eagle.trees.fitted import Expected, HeadFit
from eagle.trees.undrafted import Undrafted
from tests.files import read_only
from tests.shared_passes import counted_passes
from tests.tiny import random_ids, tiny_head, tiny_target


@pytest.fixture
def measured(monkeypatch):
    """Counts measurements, which return fixed costs."""
    calls = []

    def measure(target, head=None, rows=1):
        calls.append(target)
        return CostModel((1, 8), (10.0, 12.0), 1.5)

    monkeypatch.setattr(planner, "measure_costs", measure)
    return calls


def test_a_machine_is_measured_once(target, measured, tmp_path):
    first = planner.load_costs(target, directory=tmp_path / "costs")
    assert planner.load_costs(target, directory=tmp_path / "costs") == first
    assert len(measured) == 1
    assert [path.suffix for path in (tmp_path / "costs").iterdir()] == [".json"]


def test_what_was_measured_beside_other_work_is_not_kept(target, monkeypatch, tmp_path):
    """Costs of a busy minute stayed for good, and trees of the wrong size with them."""
    busy = CostModel((1, 8), (39.0, 58.0), 1.0, 1.0, 256, 2048, (21.0, 38.0))
    quiet = CostModel((1, 8), (18.0, 25.0), 1.0, 1.0, 256, 2048, (21.0, 38.0))
    for costs, kept in ((busy, 0), (quiet, 1)):
        monkeypatch.setattr(planner, "measure_costs", lambda *_, costs=costs: costs)
        assert planner.load_costs(target, directory=tmp_path) == costs
        assert len(list(tmp_path.iterdir())) == kept


def test_another_head_is_another_measurement(target, measured, tmp_path):
    planner.load_costs(target, directory=tmp_path)
    planner.load_costs(target, tiny_head(target), tmp_path)
    assert len(measured) == 2


@pytest.mark.parametrize("damage", ["", "{", '{"num_nodes": [1, 8]}', '{"num_nodes": [8, 1], "target_ms": [1, 2]}'])
def test_a_damaged_file_is_replaced(target, measured, tmp_path, damage):
    planner.load_costs(target, directory=tmp_path)
    next(tmp_path.iterdir()).write_text(damage)
    planner.load_costs(target, directory=tmp_path)
    planner.load_costs(target, directory=tmp_path)
    assert len(measured) == 2


def test_measuring_covers_target_and_head(target, monkeypatch):
    monkeypatch.setattr(planner, "MAX_SECONDS", 0.0)  # one run of each
    costs = planner.measure_costs(target, tiny_head(target))
    assert costs.num_nodes == planner.NUM_NODES
    assert list(costs.target_ms) == sorted(costs.target_ms) and costs.target_ms[0] > 0
    assert costs.draft_step_ms >= 0 and costs.round_ms > 0


def test_passes_are_measured_behind_a_long_text_too(monkeypatch):
    monkeypatch.setattr(planner, "MAX_SECONDS", 0.0)
    target = tiny_target(max_position_embeddings=1000)
    costs = planner.measure_costs(target)
    assert (costs.context, costs.long_context) == (256, 1000 - 64)
    assert len(costs.long_target_ms) == len(costs.num_nodes)
    monkeypatch.setattr(planner, "READING_SECONDS", 0.0)
    assert planner.measure_costs(target).long_context == 0


def test_the_best_budget_follows_the_costs():
    expected = {8: (1.0, 5), 16: (1.3, 5), 32: (1.5, 5)}
    assert planner.best_budget(CostModel((1, 64), (20.0, 20.0)), expected) == 32
    assert planner.best_budget(CostModel((1, 8, 16), (20.0, 20.0, 60.0)), expected) == 8
    assert planner.best_budget(CostModel((1, 64), (20.0, 20.0)), {8: (1.0, 5), 16: (1.01, 5), 32: (1.0, 5)}) == 8
    with pytest.raises(ValueError, match="expected is empty"):
        planner.best_budget(CostModel((1, 64), (20.0, 20.0)), {})


planned: Any = planner.plan  # what comes back has the type that went in
planned_reference: Any = planner.plan_reference
UNSURE = 0.2  # how far below its mean the interval of a sampled tree begins: two standard errors


def fit(**sizes) -> HeadFit:
    """Numbers of a head: `name_temperature=by_size`."""
    expected = []
    for name, by_size in sizes.items():
        tree, _, temperature = name.partition("_")
        taus, steps = zip(*by_size.values(), strict=True)
        least = tuple(tau - (UNSURE if tree == "mixed" else 0.0) for tau in taus)
        expected.append(Expected(float(temperature), tree, tuple(by_size), taus, least, steps))
    return HeadFit(Acceptance(placed=(0.9,)), tuple(expected), head="0" * 12)


def fitted_head(target, **sizes):
    head = tiny_head(target)
    head.fit = fit(**sizes)
    return head


def test_the_default_tree_takes_the_budgets_that_pay(target, measured, tmp_path):
    head = fitted_head(target, eagle_0={8: (1.0, 1), 16: (1.01, 1)}, eagle_1={8: (1.0, 1)}, mixed_1={16: (9.0, 1)})
    tree = planned(AutoTree(), target, head, tmp_path)
    assert tree.choose(Sampling(0.0)) == placed(8) == planned_reference(target, head, tmp_path)
    assert tree.choose(Sampling(0.9)) == partly_sampled(16, head.fit.acceptance)
    named = planned(AutoTree(num_nodes=12, greedy_nodes=5), target, head, tmp_path)
    assert [named.choose(Sampling(t)).num_nodes for t in (0.0, 1.0)] == [5, 12]


def test_a_tree_that_samples_must_be_faster_one_standard_error_below_its_mean(target, measured, tmp_path):
    for tau, kind in ((1.0, "eagle"), (1.09, "eagle"), (1.11, "mixed")):
        head = fitted_head(target, eagle_1={8: (1.0, 1)}, mixed_1={8: (tau, 1)})
        tree = planned(AutoTree(), target, head, tmp_path).choose(Sampling(1.0))
        assert tree == (placed(8) if kind == "eagle" else partly_sampled(8, head.fit.acceptance))


def test_under_shared_noise_the_faster_tree_is_taken(target, measured, tmp_path):
    """10 ms a pass of 1 node and 12 of 8, 1.5 ms a draft step: the deterministic tree makes 2 tokens in 13.5 ms."""
    values, slow = CoupledValues(1.1, 0.2), {8: (0.1, 9)}
    for tau, kind in ((0.99, "eagle"), (1.01, "coupled")):
        head = fitted_head(target, eagle_1={8: (1.0, 1)}, coupled_1={8: (tau, 1)}, mixed_1={8: (9.0, 1)})
        head.fit = replace(head.fit, coupled={"coupled": values})
        tree = planned(AutoTree(), target, head, tmp_path)
        assert tree.choose(Sampling(0.9), coupled=True) == (placed(8) if kind == "eagle" else perturbed(8, values))
        assert isinstance(tree.choose(Sampling(0.9)), ValuedTree)  # for draws of its own
    named = planned(AutoTree(num_nodes=5), target, head, tmp_path)
    assert named.choose(Sampling(1.0), coupled=True) == perturbed(5, values)
    head = fitted_head(target, eagle_1=slow, coupled_1={8: (1.0, 1)}, deep_1={8: (1.3, 3)})
    head.fit = replace(head.fit, coupled={"coupled": values, "deep": CoupledValues(1.6)})
    assert planned(AutoTree(), target, head, tmp_path).choose(Sampling(1.0), coupled=True) == perturbed(8, values)
    head = fitted_head(target, eagle_1=slow, coupled_1={8: (1.0, 1)}, deep_1={8: (1.5, 3)})
    head.fit = replace(head.fit, coupled={"coupled": values, "deep": CoupledValues(1.6)})
    deep = planned(AutoTree(), target, head, tmp_path).choose(Sampling(1.0), coupled=True)
    assert deep == perturbed(8, CoupledValues(1.6))
    assert planned(CoupledTree(9), target, head, tmp_path) == CoupledTree(9, values=values)
    by_hand = CoupledTree(9, values=CoupledValues(0.9))
    assert planned(by_hand, target, head, tmp_path) == by_hand
    old = planned(AutoTree(), target, fitted_head(target, eagle_1={8: (1.0, 1)}), tmp_path)
    assert old.choose(Sampling(1.0), coupled=True) == perturbed()  # measured before there were such trees


def test_a_temperature_to_sample_from_can_be_named(target, measured, tmp_path):
    head = fitted_head(target, eagle_1={8: (9.0, 1)}, mixed_1={8: (0.1, 1)})
    tree = planned(AutoTree(sampled_from=0.5), target, head, tmp_path).choose(Sampling(1.0))
    assert tree == partly_sampled(8, head.fit.acceptance)
    assert AutoTree(sampled_from=0.2).choose(Sampling(0.3)) == partly_sampled()


def test_plain_decoding_is_chosen_where_it_is_faster_and_no_size_is_named(target, measured, tmp_path):
    """10 ms a plain token; 12 ms a pass of 8 nodes and 1.5 ms a draft step: the tree needs 1.35 tokens a round."""
    for tau, kind in ((0.34, Undrafted()), (0.36, placed(8))):
        head = fitted_head(target, eagle_0={8: (tau, 1)}, coupled_0={8: (tau, 1)})
        head.fit = replace(head.fit, coupled={"coupled": CoupledValues(1.1, 0.2)})
        tree = planned(AutoTree(), target, head, tmp_path, may_be_plain=True)
        assert tree.choose(Sampling()) == kind
        assert isinstance(tree.choose(Sampling(1.0), coupled=True), type(kind))
        assert planned(AutoTree(), target, head, tmp_path).choose(Sampling()) == placed(8)
        named = planned(AutoTree(num_nodes=8), target, head, tmp_path, may_be_plain=True)
        assert named.choose(Sampling()) == placed(8)


def test_what_drafting_takes_whatever_the_tree_counts(target, monkeypatch, tmp_path):
    head = fitted_head(target, eagle_0={8: (1.0, 1)})
    for round_ms, kind in ((6.0, placed(8)), (7.0, Undrafted())):
        costs = CostModel((1, 8), (10.0, 12.0), 1.5, round_ms)
        monkeypatch.setattr(planner, "load_costs", lambda *_, costs=costs: costs)
        assert planned(AutoTree(), target, head, may_be_plain=True).choose(Sampling()) == kind


def test_costs_grow_with_the_text():
    costs = CostModel((1, 8), (10.0, 12.0), 1.5, 2.0, context=256, long_context=2048, long_target_ms=(20.0, 48.0))
    assert costs.behind(100) == costs.behind(256) == costs
    half = costs.behind((256 + 2048) // 2)
    assert half.target_ms == (15.0, 30.0) and (half.draft_step_ms, half.round_ms) == (1.5, 2.0)
    assert costs.behind(2 * 2048 - 256).target_ms == (30.0, 84.0)
    with pytest.raises(ValueError, match="context is 9, it must lie below long_context, which is 9"):
        CostModel((1, 8), (1.0, 2.0), context=9, long_context=9, long_target_ms=(1.0, 2.0))
    with pytest.raises(ValueError, match="long_target_ms"):
        CostModel((1, 8), (1.0, 2.0), long_context=9, long_target_ms=(1.0,))


def test_behind_a_long_text_trees_are_those_that_pay_there(monkeypatch):
    """Passes of 16 nodes cost little more behind a short text, and twice as much as those of 4 behind a long one."""
    target = tiny_target(max_position_embeddings=4096)
    head = fitted_head(target, eagle_0={4: (1.0, 1), 16: (1.5, 1)})
    costs = CostModel((1, 4, 16), (10.0, 10.0, 11.0), 1.0, 0.0, 256, 2048, (20.0, 20.0, 40.0))
    monkeypatch.setattr(planner, "load_costs", lambda *_: costs)
    tree = planned(AutoTree(), target, head)
    sizes = {length: tree.choose(Sampling(), length=length).num_nodes for length in (0, 300, 600, 1100, 2100)}
    assert sizes[0] == sizes[300] == 16 and sizes[2100] == 4
    assert [least for least, _ in tree.longer] == [512, 1024, 2048]
    drafter = EagleDrafter(head, target.embed, replace(tree, longer=((6, AutoTree(num_nodes=2)),)))
    for length, num_nodes in ((4, 16), (6, 2)):
        drafter.truncate(0)
        drafter.observe(torch.arange(length), torch.randn(length - 1, 3 * head.config.target_hidden_size))
        assert drafter.propose(Chance(Sampling()), 8).num_nodes == num_nodes


def test_a_head_without_numbers_keeps_neutral_trees_and_nothing_is_measured(target, measured, tmp_path):
    assert planned(AutoTree(), target, tiny_head(target), tmp_path) == AutoTree()
    assert planned_reference(target, tiny_head(target), tmp_path) == placed()
    assert not measured


def test_a_budgeted_tree_takes_the_numbers_of_the_machine_and_of_the_head(target, measured, tmp_path):
    head = fitted_head(target, eagle_1={4: (0.1, 2)}, mixed_1={8: (1.0, 2), 4: (0.1, 2)})
    tree = planned(BudgetedTree(), target, head, tmp_path)
    assert tree.cost == CostModel((1, 8), (10.0, 12.0), 1.5)
    assert tree.rate == (1 + 1.0) / (12.0 + 2 * 1.5)
    assert tree.valued.acceptance == head.fit.acceptance
    bare = planned(BudgetedTree(), target, tiny_head(target), tmp_path)
    assert bare.cost == tree.cost and bare.rate is None
    chain = SampledChain(3)
    assert planned(chain, target, head, tmp_path) is chain


def test_a_budgeted_tree_without_costs_says_where_they_come_from(target):
    with pytest.raises(ValueError, match=r"needs cost, the milliseconds of this machine: see eagle\.planner\.plan"):
        BudgetedTree().grow(None, Chance(Sampling(1.0)), 3)


def test_a_chat_drafts_with_the_planned_tree(target, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "cache_dir", lambda: tmp_path)
    head = fitted_head(target, eagle_0={6: (1.0, 1)})
    drafter: Any = Chat(target, head).session.drafter
    assert drafter.policy.choose(Sampling()) == placed(6)


@pytest.mark.parametrize("place", ["a directory", "a read-only folder"])
def test_costs_that_cannot_be_kept_are_used_and_told(target, tmp_path, monkeypatch, place):
    """A full or read-only cache ended chat and demo, which need no file."""
    if place == "a directory":
        (tmp_path / f"{planner._key(target, None, 1)}.json").mkdir()
    else:
        read_only(tmp_path / "costs", monkeypatch)
    with pytest.warns(UserWarning, match="costs cannot be kept at .*set EAGLE_HSD_CACHE"):
        costs = planner.load_costs(target, directory=tmp_path / ("" if place == "a directory" else "costs"))
    assert costs.num_nodes == planner.NUM_NODES


def test_costs_of_a_short_context_are_measured_where_it_reaches():
    assert planner.measure_costs(tiny_target(max_position_embeddings=40)).num_nodes == (1, 8, 16, 32)


def test_rows_of_a_batch_get_trees_of_their_own_number(target, monkeypatch, tmp_path):
    """Nodes that are nearly free for one row cost eight rows their time: trees shrink, and drafting ends.

    Milliseconds of 1, 2 and 8 nodes: one row 10, 10.3, 12; two rows, a seventh of the way to eight, 11.4, 12.5, 18.9;
    four rows 14.3, 16.9, 32.6; eight rows 20, 25.7, 60. So 2.5 tokens from 8 nodes or 1.5 from 2.
    """
    costs = {1: CostModel((1, 8), (10.0, 12.0)), 8: CostModel((1, 8), (20.0, 60.0))}
    monkeypatch.setattr(planner, "load_costs", lambda target, head, directory, rows=1: costs[rows])
    head = fitted_head(target, eagle_0={2: (0.5, 1), 8: (1.5, 1)})
    tree = planner.plan_crowded(AutoTree(), target, head, 8, tmp_path, may_be_plain=True)
    assert isinstance(tree, AutoTree) and [rows for rows, _ in tree.crowded] == [2, 4, 8]
    chosen = [tree.choose(Sampling(), rows=rows) for rows in (1, 3, 4, 7, 8, 99)]
    assert [getattr(one, "num_nodes", None) for one in chosen] == [8, 8, 2, 2, 2, 2]
    dear = {1: costs[1], 8: CostModel((1, 8), (20.0, 220.0))}
    monkeypatch.setattr(planner, "load_costs", lambda target, head, directory, rows=1: dear[rows])
    tree = planner.plan_crowded(AutoTree(), target, head, 8, tmp_path, may_be_plain=True)
    assert isinstance(tree, AutoTree) and isinstance(tree.choose(Sampling(), rows=8), Undrafted) and tree.may_be_plain
    assert tree.choose(Sampling(), rows=1) == placed(8)


def test_costs_of_shared_passes_are_measured_and_kept_apart(target, measured, tmp_path):
    for rows in (1, 4, 4):
        planner.load_costs(target, None, tmp_path, rows)
    assert len(measured) == 2 and len(list(tmp_path.iterdir())) == 2


def test_measuring_rows_shares_their_passes(target, monkeypatch):
    sizes = counted_passes(monkeypatch)
    monkeypatch.setattr(planner, "PREFIX_TOKENS", 16)
    costs = planner.measure_costs(target, tiny_head(target), rows=3)
    assert set(sizes) == {3} and costs.num_nodes == planner.NUM_NODES and costs.round_ms > 0


def test_a_drafter_asks_for_its_number_of_rows_only_where_texts_do_not_follow_from_trees(target):
    crowded = AutoTree(trees=((0.0, placed(8)),), coupled_trees=((1.0, placed(8)),))
    crowded = replace(crowded, crowded=((2, AutoTree(trees=((0.0, placed(3)),), coupled_trees=((1.0, placed(3)),))),))
    sizes = {}
    for name, sampling, verifier in (("greedy", 0.0, "hsd"), ("coupled", 1.0, "coupled"), ("hsd", 1.0, "hsd")):
        works = []
        for seed in range(2):
            session = Session(target, EagleDrafter(tiny_head(target), target.embed, crowded))
            options = DecodeOptions(Sampling(sampling), 12, verifier, ignore_end=True)
            works.append(session.rounds(random_ids(9, seed), options, seeded(seed)))
        trees = [step.round.tree.num_nodes for _, step in side_by_side(works, 2) if step.round is not None]
        sizes[name] = trees[:2]  # the first round, in which both rows are at work
    assert sizes == {"greedy": [3, 3], "coupled": [3, 3], "hsd": [8, 8]}
