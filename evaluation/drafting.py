"""Which tree policy and which verifier an arm's name means."""

from dataclasses import dataclass

import hsd_verify
from eagle.trees import TreePolicy, parse_policy


@dataclass(frozen=True)
class Drafting:
    """How an arm drafts and verifies."""

    policy: TreePolicy
    verifier: str  # a name in hsd_verify.VERIFIERS


def parse_drafting(spec: str) -> Drafting:
    """`TREE+VERIFIER`, such as `eagle:num_nodes=16+walk`; the tree as `eagle.trees.parse_policy` reads it."""
    tree, _, verifier = spec.rpartition("+")  # the tree may hold a `+` of its own
    if not tree or verifier not in hsd_verify.VERIFIERS:
        raise ValueError(f"drafting '{spec}': write TREE+VERIFIER, verifiers are {', '.join(hsd_verify.VERIFIERS)}")
    return Drafting(parse_policy(tree), verifier)
