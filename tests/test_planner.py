"""Costs are measured once per machine, target and dtype, and a damaged file is measured again."""

import pytest

from eagle import planner
from eagle.trees import AutoTree, BudgetedTree, CostModel, parse_policy
from tests.tiny import tiny_head


@pytest.fixture
def measured(monkeypatch):
    """Counts measurements, which return fixed costs."""
    calls = []

    def measure(target, head=None):
        calls.append(target)
        return CostModel((1, 8), (10.0, 12.0), 1.5)

    monkeypatch.setattr(planner, "measure", measure)
    return calls


def test_a_machine_is_measured_once(target, measured, tmp_path):
    first = planner.load_costs(target, directory=tmp_path / "costs")
    assert planner.load_costs(target, directory=tmp_path / "costs") == first
    assert len(measured) == 1
    assert [path.suffix for path in (tmp_path / "costs").iterdir()] == [".json"]


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
    costs = planner.measure(target, tiny_head(target))
    assert costs.num_nodes == planner.NUM_NODES
    assert list(costs.target_ms) == sorted(costs.target_ms) and costs.target_ms[0] > 0
    assert costs.draft_step_ms >= 0


def test_the_best_budget_follows_the_costs():
    expected = {8: (1.0, 5), 16: (1.3, 5), 32: (1.5, 5)}
    assert planner.best_budget(CostModel((1, 64), (20.0, 20.0)), expected) == 32
    assert planner.best_budget(CostModel((1, 8, 16), (20.0, 20.0, 60.0)), expected) == 8
    assert planner.best_budget(CostModel((1, 64), (20.0, 20.0)), {8: (1.0, 5), 16: (1.01, 5), 32: (1.0, 5)}) == 8
    with pytest.raises(ValueError, match="expected is empty"):
        planner.best_budget(CostModel(), {})


def test_the_default_tree_takes_the_budgets_that_pay(target, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "EXPECTED_TAU", {8: (1.0, 1), 16: (9.0, 1)})
    monkeypatch.setattr(planner, "EXPECTED_GREEDY_TAU", {8: (1.0, 1), 16: (1.01, 1)})
    assert planner.tuned_tree(target, tiny_head(target), tmp_path) == AutoTree(16, 8)


def test_trees_by_name_take_the_numbers_of_the_machine(target, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "EXPECTED_TAU", {8: (1.0, 2), 4: (0.1, 2)})
    monkeypatch.setattr(planner, "EXPECTED_GREEDY_TAU", {4: (1.0, 1)})
    specs = [planner.tuned_spec(name, target, tiny_head(target), tmp_path) for name in ("auto", "budgeted")]
    auto, budgeted = map(parse_policy, specs)
    assert auto == AutoTree(8, 4)
    assert isinstance(budgeted, BudgetedTree) and budgeted.cost == CostModel((1, 8), (10.0, 12.0), 1.5)
    assert budgeted.rate == round((1 + 1.0) / (12.0 + 2 * 1.5), 4)
    assert planner.tuned_spec("chain:depth=3", target, tiny_head(target), tmp_path) == "chain:depth=3"
