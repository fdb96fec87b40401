"""Hierarchies of drafters: which levels and buffers pay. No torch inside.

    candidates        models and proposers with their costs, acceptances of pairs
    profiles          all that was measured
    renewal           exact latency of a hierarchy
    shortest_path     the best one in polynomial time, by a reduction
    refinement        hierarchies ranked by their exact latency
    planning, plans   the choice, with what it predicts and what would change it
    watch             predicted against measured, while it runs
    computed_table    the planner on published numbers

`profile`, which measures real models, is `eagle.levels.profiling`, and so is all else that needs them.

Not to be mixed up with the verifier `hsd`: two papers call themselves HSD (docs/hierarchy.md).
"""

from importlib import import_module
from typing import Any

from eagle.hierarchy.candidates import Acceptance, Model, Proposer
from eagle.hierarchy.planning import plan
from eagle.hierarchy.plans import Plan
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Level, evaluate

__all__ = ["Acceptance", "Level", "Model", "Plan", "Profile", "Proposer", "evaluate", "plan", "profile"]


def __getattr__(name: str) -> Any:
    """`profile`, which measures real models: torch is loaded when it is asked for."""
    if name == "profile":
        return import_module("eagle.levels.profiling").profile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
