"""Texts by the verifier `coupled`, with a drafter and without one."""

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.sampling import Sampling, seeded
from eagle.trees import TreePolicy
from eagle.trees.coupled import CoupledTree
from tests.tiny import tiny_drafter, tokens_of

WARM = Sampling(1.0)
TREE, WIDE = CoupledTree(16), CoupledTree(50, top_k=20)


def coupled(sampling: Sampling = WARM, num_tokens: int = 10, **fields) -> DecodeOptions:
    return DecodeOptions(sampling, num_tokens, "coupled", **fields)


def plain(target, ids, options, seed=0) -> list[int]:
    return tokens_of(autoregressive(target, ids, options, seeded(seed)))


def session(target, policy: TreePolicy = TREE) -> Session:
    return Session(target, tiny_drafter(target, policy))
