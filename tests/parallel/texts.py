"""What is decoded in one process and in two."""

from eagle.decode import DecodeOptions
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.sampling import Sampling
from eagle.trees import EagleTree, TreePolicy, sampled
from tests.tiny import random_ids, tiny_drafter

SEED = 11
IDS = random_ids(14)
LONGER = [*IDS, *random_ids(6, seed=1)]
GREEDY = DecodeOptions(max_new_tokens=16)
OPTIONS = {
    "greedy": GREEDY,
    "lookup": GREEDY,
    "coupled": DecodeOptions(Sampling(1.0), 16, "coupled"),
    "hsd": DecodeOptions(Sampling(0.8), 16, "hsd"),
}
POLICIES: dict[str, TreePolicy] = {
    "greedy": EagleTree(),
    "coupled": EagleTree(8, depth=4, top_k=3),
    "hsd": sampled(8, depth=4),
}


def drafter(name: str, target: Target) -> Drafter:
    """One for each of `OPTIONS`. Drafts of a random head are never right, looked up ones are."""
    if name == "lookup":
        return LookupDrafter(most=2, least=1, device=target.device)
    return tiny_drafter(target, POLICIES[name])
