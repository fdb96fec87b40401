"""Which tree policy and which verifier a method's name means."""

from dataclasses import dataclass

import hsd_verify
from eagle.trees import TreePolicy, parse_policy


@dataclass(frozen=True)
class Drafting:
    """How a method drafts and verifies."""

    policy: TreePolicy
    verifier: str  # a name in hsd_verify.METHODS


def parse_drafting(spec: str) -> Drafting:
    """`TREE+VERIFIER`, such as `eagle:num_nodes=16+walk`; the tree as `eagle.trees.parse_policy` reads it."""
    tree, _, verifier = spec.rpartition("+")  # the tree may hold a `+` of its own
    if not tree or verifier not in hsd_verify.METHODS:
        raise ValueError(f"drafting '{spec}': write TREE+VERIFIER, verifiers are {', '.join(hsd_verify.METHODS)}")
    return Drafting(parse_policy(tree), verifier)
