"""A drafter whose windows are counted: how many tokens were asked for, and how many of them were kept above.

A window is as long as was asked for, as `eagle.hierarchy.candidates.Acceptance` has it: where a proposer finds fewer
tokens, those it lacks were offered and not accepted. A level hands up as many as it has. An end of text that is kept
ends the window with it.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from eagle.chance import Chance
from eagle.drafters.level import LevelDrafter
from eagle.drafters.protocol import Drafter, num_kept
from hsd_verify import DraftTree

Heard = Callable[[int, int], None]
"""Tokens of a window, 1 or more, and how many of them were kept above."""


class CountedDrafter:
    """Passes everything on to `drafter`, which is asked for at most `depth` levels (None: any).

    `heard` None: nobody wants to know.
    """

    def __init__(
        self, drafter: Drafter, heard: Heard | None, depth: int | None = None, ends: frozenset[int] = frozenset()
    ):
        self.drafter, self.depth, self._heard, self._ends = drafter, depth, heard, ends
        self._tree: DraftTree | None = None  # under verification above
        self._window = 0

    @property
    def num_known(self) -> int:
        return self.drafter.num_known

    @property
    def verifier(self) -> str:
        return self.drafter.verifier

    def observe(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """See `Drafter.observe`."""
        if self._tree is not None and len(tokens):
            if self._heard is not None:
                self._count(self._tree, tokens.tolist(), self._heard)
            self._tree = None
        self.drafter.observe(tokens, features)

    def propose(self, chance: Chance, max_depth: int) -> DraftTree:
        """See `Drafter.propose`."""
        asked = max_depth if self.depth is None else min(self.depth, max_depth)
        self._tree = self.drafter.propose(chance, asked)
        self._window = max(self._tree.depth) if isinstance(self.drafter, LevelDrafter) else asked
        return self._tree

    def truncate(self, num_tokens: int) -> None:
        """See `Drafter.truncate`."""
        self._tree = None
        self.drafter.truncate(num_tokens)

    def _count(self, tree: DraftTree, tokens: Sequence[int], heard: Heard) -> None:
        kept = num_kept(tree, tokens)
        end = next((place for place, token in enumerate(tokens[:kept], 1) if token in self._ends), None)
        window, kept = (self._window, kept) if end is None else (end, end)
        if window:
            heard(window, kept)
