"""The EAGLE-3 drafter: a draft head with its own one-layer cache, and a policy that grows trees with it.

    known tokens    x0 x1 x2 x3     one more than the known features: the target has not read the newest token
    known features  g0 g1 g2
    head entries    (g0,x1) (g1,x2) (g2,x3)    committed; the last one predicts what follows x3, the tree's root

Where more tokens wait for their features (x4 too, g3 is missing), a round steps over them on the head's own states, as
inside a tree.

Letters: A newly known tokens, F nodes of a frontier, R expanded rows of this round with the root, H draft hidden size,
Ht target hidden size, T committed head entries, Vd draft vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from eagle.chance import Chance
from eagle.coroutines import Beside, Requests, answered_by, done_alone
from eagle.drafters.beside import LookupBeside
from eagle.drafters.head import DraftHead, Embed
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.protocol import check_truncation
from eagle.drafters.reader import HeadReader
from eagle.drafters.reading import HeadLogits, HeadRead
from eagle.engine.health import FiniteWatch
from eagle.engine.target import Target
from eagle.trees import Proposer, TreePolicy
from eagle.trees.automatic import AutoTree, settle
from eagle.trees.protocols import expanding, lone_root
from eagle.trees.scaffold import EMPTY
from eagle.trees.scaffolded import with_scaffold
from eagle.trees.undrafted import Undrafted
from hsd_verify import DraftTree
from hsd_verify.transfer import send

PIECE = 1024  # tokens of a prompt that are read at a time
BAD_HEAD = (
    "the draft head's states are not finite numbers: check its weights, or load it in another precision "
    "(--dtype float32); --plain decodes without it"
)


class EagleDrafter:
    """Drafts with an EAGLE-3 head. `embed` maps token ids to the target's embeddings.

    With a `lookup`, of its own, trees also hold what followed the end of the text before. Raises ValueError where
    `embed` is the method of a target that hands out the features of other layers.
    """

    def __init__(self, head: DraftHead, embed: Embed, policy: TreePolicy, lookup: LookupDrafter | None = None):
        self.head, self.policy = head, policy
        self._beside = None if lookup is None else LookupBeside(lookup)
        self._target = getattr(embed, "__self__", None)
        self._check_layers()
        self._reader = HeadReader(head, embed)
        if lookup is not None:
            self._reader.read_vocabulary()
        self.num_known = 0
        self._root_token = -1
        self._waiting = torch.empty(0, dtype=torch.int64)  # known tokens, but the first of all, without an entry
        self._unread: list[Tensor] = []  # features of the first of those, (A, 3Ht) each
        self._root_hidden: Tensor | None = None  # (1, H), the head's output at the newest committed entry
        self._is_crowded = isinstance(policy, AutoTree) and bool(policy.crowded)
        self._may_rest = isinstance(policy, AutoTree) and policy.may_be_plain
        self._watch = FiniteWatch(lambda: BAD_HEAD)

    @property
    def verifier(self) -> str:
        return self.policy.verifier

    def observe(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """See `Drafter.observe`. Raises ValueError as `observing` does."""
        done_alone(self.observing(tokens, features))

    @torch.inference_mode()
    def observing(self, tokens: Tensor, features: Tensor | None = None) -> Requests[None]:
        """See `AskingDrafter`. Raises ValueError for features of another width, or more than tokens to go with."""
        if features is None:
            features = torch.empty(0, 3 * self.head.config.target_hidden_size)
        self._check(tokens, features)
        tokens = tokens.cpu()
        own = tokens if self.num_known else tokens[1:]  # x0 has no feature before it, so no head entry of its own
        self._waiting, self.num_known = torch.cat([self._waiting, own]), self.num_known + len(tokens)
        if len(features):
            self._unread.append(features)
        if self._beside is not None:
            self._beside.observe(tokens.tolist())
        if len(tokens):
            self._root_token = int(tokens[-1])
        if not self._may_rest or self._num_unread > PIECE:
            yield from self._reading()

    @property
    def _num_unread(self) -> int:
        return sum(map(len, self._unread))

    def _reading(self) -> Requests[None]:
        """Make entries of all features. What plain decoding observes waits here until there is a piece of it."""
        if not self._unread:
            return
        features, self._unread = torch.cat(self._unread), []
        tokens, self._waiting = self._waiting[: len(features)], self._waiting[len(features) :]
        for piece, part in zip(tokens.split(PIECE), features.split(PIECE), strict=True):  # a mask of (PIECE, T) entries
            self._root_hidden = (yield self._piece(send(piece, part.device), part))[-1:]
        if self._root_hidden is not None:
            self._watch.look(self._root_hidden)

    def _piece(self, tokens: Tensor, features: Tensor) -> HeadRead:
        """Entries (A, H) of tokens (A,), to be appended behind what the head has read."""
        hidden, start = self._reader.fuse(features), self._reader.length  # (A, H)
        positions = torch.arange(start, start + len(tokens), device=tokens.device)
        later = hidden.new_full((len(tokens), len(tokens)), torch.finfo(hidden.dtype).min).triu_(1)
        mask = None if len(tokens) == 1 else _behind(later, start)
        return HeadRead(self._reader, hidden, tokens, positions, mask)

    def propose(self, chance: Chance, max_depth: int) -> DraftTree:
        """See `Drafter.propose`. Raises ValueError before the first `observe`."""
        return done_alone(self.proposing(chance, max_depth))

    @torch.inference_mode()
    def proposing(self, chance: Chance, max_depth: int) -> Requests[DraftTree]:
        """See `AskingDrafter`. Raises ValueError before the first `observe`."""
        coupled = chance.noise is not None
        # elsewhere a text follows from its trees, and would follow from its neighbours
        rows = (yield Beside()) if self._is_crowded and (coupled or chance.sampling.greedy) else 1
        policy = settle(self.policy, chance.sampling, coupled, self.num_known, rows)
        if isinstance(policy, Undrafted) and self.num_known:
            return lone_root(self._root_token, next(self.head.parameters()).device)
        root_hidden = yield from self._caught_up()
        committed = self._reader.length
        try:
            proposer = yield from self._opening(root_hidden)
            growing = policy.grow(proposer, chance, max_depth)
            return (yield from answered_by(growing, partial(expanding, proposer)))
        finally:
            self._reader.rewind(committed)

    @contextmanager
    def open_round(self) -> Iterator[Proposer]:
        """Draft laws below the newest known token, for as long as the round is open.

        What is read meanwhile is a guess and forgotten at the end: the next `observe` knows better. Raises ValueError
        before the first `observe`.
        """
        root_hidden = done_alone(self._caught_up())
        committed = self._reader.length
        try:
            yield done_alone(self._opening(root_hidden))
        finally:
            self._reader.rewind(committed)

    def _caught_up(self) -> Requests[Tensor]:
        """Reads what is unread; the state (1, H) at the newest entry."""
        yield from self._reading()
        if self._root_hidden is None:
            raise ValueError("nothing observed yet: call observe(tokens, features) with the prompt first")
        return self._root_hidden

    def _opening(self, root_hidden: Tensor) -> Requests[Proposer]:
        hidden = yield from self._stepping_over(root_hidden)
        proposer: Proposer = HeadRound(
            self._reader, self._root_token, hidden, (yield HeadLogits(self._reader, hidden))[0]
        )
        return proposer if self._beside is None else with_scaffold(proposer, self._beside.scaffold())

    def _stepping_over(self, hidden: Tensor) -> Requests[Tensor]:
        """The state (1, H) at the newest token, one step a waiting token from the state at the newest entry."""
        for known in self._waiting[:, None]:
            token = known.to(hidden.device)
            hidden = yield HeadRead(self._reader, hidden, token, torch.full_like(token, self._reader.length), None)
        return hidden

    def truncate(self, num_tokens: int) -> None:
        """See `Drafter.truncate`. Where entries are forgotten, a feature must be observed before the next round."""
        check_truncation(num_tokens, self.num_known)
        self.num_known = num_tokens
        if self._beside is not None:
            self._beside.truncate(num_tokens)
        entries = min(self._reader.length, max(num_tokens - 1, 0))
        if entries < self._reader.length:
            self._root_hidden = None
        self._reader.rewind(entries)
        features = torch.cat(self._unread)[: max(num_tokens - 1 - entries, 0)] if self._unread else None
        self._unread = [] if features is None or not len(features) else [features]
        self._waiting = self._waiting[: max(num_tokens - 1 - entries, 0)]

    def _check_layers(self) -> None:
        wanted, target = self.head.config.feature_layers, self._target
        if isinstance(target, Target) and target.feature_layers != wanted:
            raise ValueError(
                f"the head reads the inputs of layers {wanted}, {target.name} hands out those of "
                f"{target.feature_layers}: call target.read_layers({wanted}), as load_head(source, target) does"
            )

    def _check(self, tokens: Tensor, features: Tensor) -> None:
        self._check_layers()  # again: another head may have been loaded for this target meanwhile
        most = len(self._waiting) - self._num_unread + len(tokens) - (self.num_known == 0)
        width = 3 * self.head.config.target_hidden_size
        if features.dim() != 2 or features.shape[1] != width or len(features) > max(most, 0):
            raise ValueError(
                f"{len(tokens)} new tokens go with at most {max(most, 0)} features of width {width}, got "
                f"{tuple(features.shape)}: is this head made for another target?"
            )


class HeadRound:
    """The `Proposer` of one round: expands nodes below the root with the head.

    Row 0 is the root, which is a committed entry, and whose law follows from the pass that observed it: the first level
    of a tree costs no pass of its own. The entries of rows 1, 2, .. stand behind it in the cache.
    """

    scaffold = EMPTY

    def __init__(self, reader: HeadReader, root_token: int, root_hidden: Tensor, root_logits: Tensor):
        """root_hidden: the state (1, H) at the root, which `root_logits` (Vd,) are those of."""
        self._reader = reader
        self._committed = reader.length
        position = torch.full((1,), self._committed - 1, device=root_hidden.device)
        self._rows = _Rows(root_hidden, position, root_hidden.new_zeros(1, 0))
        self._newest: _Rows | None = None  # of the last pass; joined when another one asks for them
        self.vocabulary = reader.vocabulary
        self.root_token = root_token
        self.root_logits = root_logits

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        return done_alone(self.expanding(tokens, parents))

    def expanding(self, tokens: Tensor, parents: Tensor) -> Requests[Tensor]:
        """See `AskingProposer`."""
        if self._newest is not None:
            self._rows = self._rows.followed_by(self._newest)
        rows, own = self._rows, _alone(len(tokens), self._rows.hidden.dtype, tokens.device)
        positions, mask = rows.positions[parents] + 1, torch.cat([rows.mask[parents], own], dim=1)  # (F, R - 1 + F)
        behind = _behind(mask, self._committed)
        hidden = yield HeadRead(self._reader, rows.hidden[parents], tokens, positions, behind)  # (F, H)
        self._newest = _Rows(hidden, positions, mask)
        return (yield HeadLogits(self._reader, hidden))  # (F, Vd)


class _Rows(NamedTuple):
    """Rows of a round."""

    hidden: Tensor  # (R, H)
    positions: Tensor  # (R,)
    mask: Tensor  # (R, K) additive, over the entries behind the committed ones; those after the last column are unseen

    def followed_by(self, newer: "_Rows") -> "_Rows":
        unseen = newer.mask.shape[1] - self.mask.shape[1]
        mask = pad(self.mask, (0, unseen), value=torch.finfo(self.mask.dtype).min)
        hidden, positions = torch.cat([self.hidden, newer.hidden]), torch.cat([self.positions, newer.positions])
        return _Rows(hidden, positions, torch.cat([mask, newer.mask]))


@lru_cache(maxsize=64)
def _alone(num: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The additive mask (n, n) of entries that see themselves and not each other."""
    return torch.full((num, num), torch.finfo(dtype).min, dtype=dtype, device=device).fill_diagonal_(0)


def _behind(mask: Tensor, prefix_length: int) -> Tensor:
    """An additive mask (F, K) behind a fully visible prefix: (1, 1, F, prefix_length + K)."""
    return pad(mask, (prefix_length, 0))[None, None]
