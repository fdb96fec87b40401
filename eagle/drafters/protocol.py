"""What the decode loop knows of a drafter.

Letters: A newly known tokens, Ht target hidden size.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from eagle.chance import Chance
from eagle.coroutines import Requests
from hsd_verify import DraftTree


class Drafter(Protocol):
    """Proposes a tree a round. It owns its state; one drafter serves one sequence at a time."""

    @property
    def num_known(self) -> int:
        """Known tokens."""
        ...

    @property
    def verifier(self) -> str:
        """The verifier that its trees are made for."""
        ...

    def observe(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """Newly known tokens (A,), on the host, and features (.., 3Ht), the next ones of the text; None: no new ones.

        In total at least one more token is known than features; more where what reads the text has not read its end.
        """
        ...

    def propose(self, chance: Chance, max_depth: int) -> DraftTree:
        """A tree whose root is the newest known token. Does not change what is known."""
        ...

    def truncate(self, num_tokens: int) -> None:
        """Forget all but the first `num_tokens` known tokens and the first `num_tokens - 1` known features."""
        ...


@runtime_checkable
class AskingDrafter(Drafter, Protocol):
    """One whose passes may be made together with those of others."""

    def observing(self, tokens: Tensor, features: Tensor | None = None) -> Requests[None]:
        """`observe` as work that asks for its passes."""
        ...

    def proposing(self, chance: Chance, max_depth: int) -> Requests[DraftTree]:
        """`propose` as work that asks for its passes."""
        ...


def observing(drafter: Drafter, tokens: Tensor, features: Tensor | None = None) -> Requests[None]:
    """A drafter is told what became known; whoever cannot ask for passes makes them by itself."""
    if isinstance(drafter, AskingDrafter):
        yield from drafter.observing(tokens, features)
    else:
        drafter.observe(tokens, features)


def proposing(drafter: Drafter, chance: Chance, max_depth: int) -> Requests[DraftTree]:
    """A drafter's tree, in the same way."""
    if isinstance(drafter, AskingDrafter):
        return (yield from drafter.proposing(chance, max_depth))
    return drafter.propose(chance, max_depth)


def check_truncation(num_tokens: int, num_known: int) -> None:
    """Raises ValueError where a drafter cannot be taken back to so many known tokens."""
    if not 0 <= num_tokens <= num_known:
        raise ValueError(f"cannot truncate {num_known} known tokens to {num_tokens}")


def num_kept(tree: DraftTree, tokens: Sequence[int]) -> int:
    """How many tokens of a tree the verdict kept, from those that were added: the kept ones and one more."""
    node, kept = 0, 0
    edges = zip(tree.parent_list, tree.token_list, strict=True)
    children = {edge: child for child, edge in enumerate(edges)}
    for token in tokens[:-1]:
        if (node, token) not in children:
            break
        node, kept = children[node, token], kept + 1
    return kept
