"""`eagle-hsd trees fit`: from held-out contexts to the numbers that the planner reads."""

import pytest

from eagle.trees import CoupledValues
from eagle.trees.automatic import partly_sampled, perturbed, placed
from evaluation.trees import fit_head
from evaluation.trees.comparison import TreeCell
from evaluation.trees.contexts import HELD_OUT, Context
from evaluation.trees.fit import CONFIDENCE
from evaluation.trees.shared import HeadSource
from tests.tiny import random_ids, tiny_head


def context(number: int, temperature: float) -> Context:
    name = f"{HELD_OUT}/q{number}/{temperature:g}/3"
    return Context(name, HELD_OUT, f"q{number}", temperature, tuple(random_ids(12, seed=number)))


def cell(tree: str, verifier: str, budget: int, **numbers) -> TreeCell:
    fields = dict.fromkeys(("tau_low", "tau_high", "gain", "gain_low", "gain_high", "bound", "gap"))
    values = {"nodes": float(budget), "depth": 2.5, "tau": 1.0, "contexts": 4, "draws": 1.0, **fields, **numbers}
    return TreeCell(source=HELD_OUT, sampling="0.6", tree=tree, verifier=verifier, budget=budget, **values)


def test_a_head_is_measured_at_every_size_and_temperature(target, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_head, "SIZES", (4, 6))
    monkeypatch.setattr(fit_head, "LABELS", ("0", "0.6", "1"))
    contexts = [context(n, t) for n in range(3) for t in (0.0, 0.6, 1.0)]
    source, told = HeadSource(tiny_head(target), target), []
    fit = fit_head.fit_head(target, source, contexts, "abc", tmp_path, 1, told.append)
    assert fit.head == "abc" and fit.temperatures == (0.0, 0.6, 1.0)
    assert [len(level) for level in fit.acceptance.sampled] == [len(CONFIDENCE) + 1]
    for rounds in fit.expected:
        assert rounds.num_nodes == (4, 6) and all(0 <= tau <= 5 for tau in rounds.tau) and min(rounds.steps) > 0
    assert {rounds.tree for rounds in fit.expected} == {"coupled", "deep", "eagle", "mixed"}
    assert fit.coupled["coupled"].sharpness < fit.coupled["deep"].sharpness
    assert fit.at(1.0)["eagle"].tau_low == fit.at(1.0)["eagle"].tau
    before = len(told)
    again = fit_head.fit_head(target, source, contexts, "abc", tmp_path, 1, told.append)
    assert again == fit and not any("trees:" in line for line in told[before:])  # the rows were there


def test_the_planner_makes_the_trees_that_were_measured(target):
    acceptance = partly_sampled(8).acceptance
    arms = {
        (arm.name, arm.budget): arm.policy
        for arm in fit_head.plan_of(acceptance, {"blunt": CoupledValues(1.1)}, 1).arms
    }
    assert arms["eagle", 12] == placed(12) and arms["mixed", 60] == partly_sampled(60, acceptance)
    assert arms["blunt", 16] == perturbed(16, CoupledValues(1.1))


def test_a_sampled_tree_counts_at_the_lower_end_of_its_gain():
    """Block efficiency 2.2 where the deterministic tree has 2.0: +10 %, from +5 % on, so at least 2.1."""
    cells = [
        cell("mixed", "hsd", 8, tau=1.2, gain=0.1, gain_low=0.05),
        cell("mixed", "walk", 8, tau=0.3),
        cell("eagle", "walk", 8, tau=1.0, gain=0.0, gain_low=0.0),
        cell("eagle", "hsd", 8, tau=9.0),
    ]
    found = {rounds.tree: rounds for rounds in fit_head.expected_rounds(cells)}
    assert found["mixed"].tau_low == (pytest.approx(1.1),) and found["mixed"].tau == (1.2,)
    assert found["eagle"].tau == found["eagle"].tau_low == (1.0,) and found["eagle"].steps == (2.5,)
