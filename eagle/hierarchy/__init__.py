"""Hierarchies of drafters: which levels and buffers pay. No torch inside.

    candidates        models and proposers with their costs, acceptances of pairs
    profiles          all that was measured
    renewal           exact latency of a hierarchy
    shortest_path     the best one in polynomial time, by a reduction
    refinement        hierarchies ranked by their exact latency
    planning, plans   the choice, with what it predicts and what would change it
    watch             predicted against measured, while it runs
    computed_table    the planner on published numbers

Not to be mixed up with the verifier `hsd`: two papers call themselves HSD (docs/hierarchy.md).
"""

from eagle.hierarchy.candidates import Acceptance, Model, Proposer
from eagle.hierarchy.planning import plan
from eagle.hierarchy.plans import Plan
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Level, evaluate

__all__ = ["Acceptance", "Level", "Model", "Plan", "Profile", "Proposer", "evaluate", "plan"]
