"""Random profiles: costs and acceptances as real families have them, and some that are wilder."""

import itertools
import random

from eagle.hierarchy.candidates import Acceptance, Model, Proposer
from eagle.hierarchy.curves import CostCurve
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Hierarchy, Level

MAX_BUFFER = 8


def random_profile(seed: int, num_models: int = 4, num_proposers: int = 0, longest: int = MAX_BUFFER) -> Profile:
    """Models that get dearer, and curves of every pair, higher where the two are nearer to each other."""
    draws = random.Random(seed)
    costs = sorted(draws.uniform(0.01, 0.6) for _ in range(num_models - 1)) + [1.0]
    slope = draws.choice((0.001, 0.01, 0.05))
    models = tuple(Model(f"m{i}", ms, CostCurve((0, 64), (ms, ms * (1 + 64 * slope)))) for i, ms in enumerate(costs))
    proposers = tuple(
        Proposer(f"p{i}", CostCurve((1, 8), (ms := draws.uniform(0, 0.02), ms * draws.uniform(1, 8))))
        for i in range(num_proposers)
    )
    names = [*(one.name for one in proposers), *(one.name for one in models)]
    pairs = [
        Acceptance(reader, source, assumed=random_curve(draws, longest, draws.uniform(0.3, 0.95)))
        for source, reader in itertools.combinations(names, 2)
        if reader.startswith("m")
    ]
    return Profile(models, tuple(pairs), proposers)


def random_curve(draws: random.Random, longest: int, alpha: float) -> tuple[float, ...]:
    """Later tokens are rather safer than the first."""
    survived, reached = 1.0, []
    for _ in range(longest):
        survived *= min(1.0, alpha + draws.uniform(-0.1, 0.1))
        alpha += 0.3 * (1 - alpha) * draws.random()
        reached.append(survived)
    return tuple(reached)


def all_hierarchies(profile: Profile, max_buffer: int = MAX_BUFFER) -> list[Hierarchy]:
    """Plain decoding, and every choice of candidates and buffers."""
    models = [model.name for model in profile.models[:-1]]
    bottoms = [()] + [(proposer.name,) for proposer in profile.proposers]
    subsets = [names for k in range(len(models) + 1) for names in itertools.combinations(models, k)]
    sequences = [(*bottom, *names) for bottom in bottoms for names in subsets]
    return [
        tuple(Level(name, n) for name, n in zip(names, buffers, strict=True))
        for names in sequences
        for buffers in itertools.product(range(1, max_buffer + 1), repeat=len(names))
    ]
