"""Our own numbers on published claims, by exact enumeration. Run it to print what `hsd_verify/README.md` quotes:

    python -m tests.hsd_verify.claims

Letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hsd_verify.exact import enumerate as exact
from tests.hsd_verify.models import random_model
from tests.hsd_verify.test_negative_controls import capped, first_round_law, uncapped_last_acceptance

SEEDS = range(8)
VOCAB = 3


def models(seed: int):
    """Target and draft of one instance."""
    return random_model(VOCAB, seed), random_model(VOCAB, 100 + seed)


def mean_tau(make: Callable, verifier: str) -> float:
    """Expected accepted draft tokens of one round, averaged over the instances."""
    taus = [exact.expected_tau(make(draft), target, verifier) for target, draft in map(models, SEEDS)]
    return sum(taus) / len(taus)


def naive_tau() -> float:
    """Accepted draft tokens of naive HSD on chains of three, which emits a full block all the same."""
    from hsd_verify.published.naive import scan_law

    taus = []
    for target, draft in map(models, SEEDS):
        trees = exact.chain(draft, 3)(())
        taus.append(sum(prob * scan_law(tree, exact.target_rows(tree, target)).expected_tau for prob, tree in trees))
    return sum(taus) / len(taus)


def distance(rule) -> float:
    """Largest total variation from the target over the instances, chains of three, one round."""
    return max(
        exact.total_variation(first_round_law(exact.chain(draft, 3), target, rule, 3), exact.text_law(target, 3))
        for target, draft in map(models, SEEDS)
    )


TREES = {
    "chain of 3": (lambda d: exact.chain(d, 3), ("tokenwise", "block", "hsd_capped", "hsd")),
    "2 i.i.d. paths of 2": (lambda d: exact.paths(d, 2, 2), ("tokenwise", "hsd", "hsd_multidraft")),
    "3 i.i.d. paths of 2": (lambda d: exact.paths(d, 3, 2), ("tokenwise", "hsd", "hsd_multidraft")),
    "2 children each, without replacement, depth 2": (
        lambda d: exact.Drafting(d, [-1, 0, 0, 1, 1], [False] + [True] * 4),
        ("walk", "tokenwise", "traversal", "hsd"),
    ),
    "top-1 and 1 sampled child each, depth 2": (
        lambda d: exact.hybrid(d, 1, 1, 2),
        ("walk", "tokenwise", "hsd"),
    ),
    "top-2 each, depth 2": (lambda d: exact.deterministic(d, 2, 2), ("walk", "tokenwise", "hsd")),
}


def main() -> None:
    print(f"expected tau, mean over {len(SEEDS)} pairs of random laws, V = {VOCAB}")
    for name, (make, verifiers) in TREES.items():
        print(f"  {name}: " + "  ".join(f"{verifier} {mean_tau(make, verifier):.4f}" for verifier in verifiers))
    print(f"  chain of 3, naive HSD (resamples the rest of the block outside the tree): {naive_tau():.4f}")
    print("largest total variation from the target, chain of 3")
    print(f"  capped HSD {distance(capped):.1e}, last acceptance uncapped {distance(uncapped_last_acceptance):.4f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
