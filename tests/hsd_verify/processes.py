"""The drafting processes and pairs of laws that the exact tests share.

Letters: V vocabulary.
"""

from __future__ import annotations

from hsd_verify.exact import enumerate as exact
from tests.hsd_verify.models import fixed_model, random_model

PROCESSES = {
    "chain": lambda draft: exact.chain(draft, 3),
    "single": lambda draft: exact.chain(draft, 1),
    "iid": lambda draft: exact.Drafting(draft, [-1, 0, 0, 1, 1], [False] + [True] * 4, replacement=True),
    "paths": lambda draft: exact.paths(draft, 2, 2),
    "without-replacement": lambda draft: exact.Drafting(draft, [-1, 0, 0, 1, 1], [False] + [True] * 4),
    "deterministic": lambda draft: exact.deterministic(draft, 2, 3),
    "hybrid": lambda draft: exact.Drafting(draft, [-1, 0, 0, 1, 1, 2], [False, True, False, True, False, True]),
    "hybrid-two-sampled": lambda draft: exact.hybrid(draft, 1, 2, 1),
    "hybrid-two-iid": lambda draft: exact.hybrid(draft, 1, 2, 1, replacement=True),
    "random-shape": lambda draft: exact.Drafting(
        draft, [-1, 0, 0, 1, 1, 2, 3], [False, True, False, False, True, True, False]
    ),
    "placed-before-sampled": lambda draft: exact.Drafting(
        draft, [-1, 0, 0, 0, 1, 3], [False, False, True, True, True, False]
    ),
    "exhausted": lambda draft: exact.without_replacement(draft, 4, 1),
    "exhausted-placed": lambda draft: exact.deterministic(draft, 5, 1),
    "exhausted-hybrid": lambda draft: exact.hybrid(draft, 2, 3, 1),
}

CHAINS = {"chain", "single"}
# Processes a verifier verifies besides every chain; None: all of them.
APPLIES = {
    "greedy": set(),
    "walk": None,
    "tokenwise": None,
    "hsd": None,
    "block": CHAINS,
    "hsd_capped": CHAINS,
    "naive": CHAINS,
    "hsd_multidraft": CHAINS | {"paths"},
    "traversal": CHAINS | {"without-replacement", "exhausted"},
}

LAWS = {
    "random-3": (random_model(3, 1), random_model(3, 2)),
    "random-4": (random_model(4, 3), random_model(4, 4)),
    "peaked-3": (random_model(3, 5, 0.3), random_model(3, 6, 0.3)),
    "equal": (random_model(3, 7), random_model(3, 7)),
    "disjoint": (fixed_model(0.3, 0.7, 0, 0), fixed_model(0, 0, 0.4, 0.6)),
    "zero-mass": (fixed_model(0.2, 0, 0.5, 0.3), fixed_model(0.3, 0.4, 0, 0.3)),
    "one-hot-target": (fixed_model(0, 1, 0), random_model(3, 8)),
    "one-hot-both": (fixed_model(0, 1, 0), fixed_model(0, 1, 0)),
    "one-hot-draft": (random_model(3, 9), fixed_model(0, 0, 1)),
    "tiny": (fixed_model(1e-30, 0.6, 0.4), fixed_model(0.5, 1e-30, 0.5)),
    "tiny-both": (fixed_model(1e-30, 1, 1e-30), fixed_model(1, 1e-30, 1e-30)),
}
