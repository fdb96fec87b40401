"""A drafter made of a model and a drafter: a level of a hierarchy (arXiv 2510.19705, section 3).

    produce    while fewer than `buffer` tokens and no end of text: the drafter below proposes, the model reads, a
               verdict keeps a path and adds a token: all of them follow the model's own law
    hand up    a chain of those tokens, each with the law it was drawn from

The model's own law goes up, also with the token that a verdict adds: never that of the level below, never a residual.
With shared noise, or at temperature 0, a level takes the tokens that it expects above, and no law is handed up.

Letters: n tokens handed up, N tree nodes, V vocabulary of the target, Vl of the level's model.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from eagle.chance import Chance
from eagle.drafters.level_state import LevelState
from eagle.drafters.protocol import Drafter, check_truncation, num_kept
from eagle.engine.protocol import Engine
from eagle.judging import INDEPENDENT, Judge, judge_below
from eagle.sampling import Sampling
from eagle.trees.protocols import check_counts, lone_root
from hsd_verify import DraftTree
from hsd_verify.verifiers import find_rule


@dataclass
class LevelStats:
    """What a level did since it was made."""

    passes: int = 0
    milliseconds: float = 0.0  # of its passes, with their verdicts
    windows: int = 0  # chains handed up
    tokens: int = 0  # in them
    survival: list[int] = field(default_factory=list)  # entry a: windows of which at least a + 1 tokens were kept above

    @property
    def kept_share(self) -> float:
        """Of the tokens handed up, those that were kept."""
        return sum(self.survival) / max(self.tokens, 1)

    def kept(self, num_tokens: int) -> None:
        """The level above kept the first so many of a window."""
        self.survival += [0] * (num_tokens - len(self.survival))
        for place in range(num_tokens):
            self.survival[place] += 1


class LevelDrafter:
    """Drafts with a model of the target's tokenizer, which is drafted for in its turn; nests to any depth.

    Raises ValueError for a model that cannot score trees, a buffer below 1, an unknown verifier.
    """

    def __init__(
        self,
        model: Engine[Any],
        drafter: Drafter,
        buffer: int = 8,
        verifier: str = "hsd",
        sampling: Sampling | None = None,
        comb: bool = False,
        num_tokens: int | None = None,
        vocab_size: int | None = None,
        name: str = "level",
    ):
        """
        verifier: of what the drafter below proposes, where nothing is settled by shared noise or temperature 0.
        buffer: tokens to collect before they are handed up.
        sampling: of the level's own draws; None: that of above.
        comb: at temperature 0, second-best tokens of every row go up too, as leaves.
        num_tokens: entries of the tokenizer, the model's rows behind them are padding; None: all are tokens.
        vocab_size: V, where it differs from the model's own.
        name: in reports.
        """
        check_counts(buffer=(buffer, 1))
        find_rule(verifier)
        model.check_scores_trees()
        self.model, self.drafter, self.buffer, self.below = model, drafter, buffer, verifier
        self.sampling, self.comb, self.name, self.stats = sampling, comb, name, LevelStats()
        self._num_tokens, self._vocab_size = num_tokens, vocab_size
        self._state = LevelState(model, drafter)
        self._text: list[int] = []
        self._handed: DraftTree | None = None  # under verification above, behind `_text`

    @property
    def verifier(self) -> str:
        """Its chains carry their laws."""
        return INDEPENDENT

    @property
    def num_known(self) -> int:
        return len(self._text)

    def observe(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """See `Drafter.observe`. Features are those of another model, which this one has no use for."""
        new = tokens.tolist()
        if self._handed is not None and new:
            self.stats.kept(num_kept(self._handed, new))
            self._handed = None
        self._text += new

    def truncate(self, num_tokens: int) -> None:
        check_truncation(num_tokens, self.num_known)
        self._text, self._handed = self._text[:num_tokens], None

    @torch.inference_mode()
    def propose(self, chance: Chance, max_depth: int) -> DraftTree:
        """See `Drafter.propose`. Raises ValueError before the first `observe`."""
        if not self._text:
            raise ValueError("nothing observed yet: call observe(tokens) with the prompt first")
        window = _Window(self._text[-1], judge_below(chance, self.sampling, self.below))
        if len(self._text) < self._state.cache.limit:
            self._state.catch_up(self._text)
            while self._goes_on(window, max_depth):
                self._round(window, max_depth)
        tree = window.tree(max_depth, self._vocab_size, self.comb, self.model.device)
        self._handed = tree
        self.stats.windows += 1
        self.stats.tokens += min(len(window.tokens), max_depth)
        return tree

    def _goes_on(self, window: "_Window", max_depth: int) -> bool:
        ended = not self.model.end_token_ids.isdisjoint(window.tokens)
        full = len(window.tokens) >= min(self.buffer, max_depth)
        return not ended and not full and self._state.cache.max_depth >= self._state.num_unread

    def _round(self, window: "_Window", max_depth: int) -> None:
        """One verdict of this level. The drafter below is never asked for more than the window can take."""
        position = len(self._text) + len(window.tokens)
        room = self._state.cache.max_depth + 1 - self._state.num_unread
        depth = min(max_depth - len(window.tokens) - 1, room)
        if depth > 0 and self._state.can_draft:
            tree = self.drafter.propose(window.judge.chance(position), depth)
        else:
            tree = lone_root((window.tokens or self._text)[-1], self.model.device)
        begin = time.perf_counter()
        logits = self._masked(self._state.score(tree))  # (N, Vl)
        verdict = window.judge.verdict(tree, logits, position)
        path = verdict.path.tolist()
        window.add(self._state.advance(tree, path, verdict.next_token), logits[[0, *path]])
        self.stats.passes += 1
        self.stats.milliseconds += 1000 * (time.perf_counter() - begin)  # the new tokens are on the host: it waited

    def _masked(self, logits: Tensor) -> Tensor:
        """Logits (N, Vl) without the rows that stand for no token."""
        if self._num_tokens is not None and self._num_tokens < logits.shape[-1]:
            logits[:, self._num_tokens :] = -torch.inf
        return logits


class _Window:
    """What a level collects: tokens, and the logits that each was decided from."""

    def __init__(self, root_token: int, judge: Judge):
        self.root_token, self.judge = root_token, judge
        self.tokens: list[int] = []
        self._logits: list[Tensor] = []

    def add(self, tokens: list[int], logits: Tensor) -> None:
        """Tokens (n) and the logits (n, Vl) before each."""
        self.tokens += tokens
        self._logits.append(logits)

    def tree(self, depth: int, vocab_size: int | None, comb: bool, device: torch.device) -> DraftTree:
        """The first `depth` tokens as a chain: to stop behind any number of them is a stopping time."""
        num = min(len(self.tokens), depth)
        tokens, parents = torch.tensor([self.root_token, *self.tokens[:num]]), torch.arange(-1, num)
        if not num:
            return DraftTree(parents, tokens, device=device)
        logits = torch.cat(self._logits)[:num]  # (n, Vl)
        laws = self.judge.laws(logits)
        if laws is None:
            if comb and self.judge.sampling.greedy:
                parents, tokens = _with_seconds(parents, tokens, logits)
            return DraftTree(parents, tokens, device=device)
        width = laws.shape[-1] if vocab_size is None else vocab_size
        laws = pad(laws, (0, width - laws.shape[-1], 0, 1))  # (n + 1, V): cut, or filled with zeros
        return DraftTree(parents, tokens, torch.arange(num + 1) > 0, laws, device=device)


def _with_seconds(parents: Tensor, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """A chain of best tokens with the second-best ones beside them, as leaves; all but the logits on the host."""
    best = logits.topk(2).indices.cpu()  # (n, 2)
    second = torch.where(best[:, 0] == tokens[1:], best[:, 1], best[:, 0])  # (n,) of equal ones the chain has the first
    return torch.cat([parents, torch.arange(len(second))]), torch.cat([tokens, second])
