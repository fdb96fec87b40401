"""Many drafted chains at once, packed one after another as serving engines hold them; nothing waits for the device.

Letters: B chains, M drafted tokens of all of them, K those of the longest, V vocabulary.

A chain is the tree of one path, node i its i-th token and 0 its root, and its law is that of `law(tree, .., "hsd")`:
with x the token drafted after node i, p_i and q_i the laws there, all chains go through one level at a time,

    w_0 = 1      w_(i+1) = min(1, w_i p_i(x) / q_i(x))      left_i = [w_i p_i - q_i]+

node i fires with `sum(left_i) / (sum(left_i) + 1 - w_i)`, the last node with its weight, and the deepest one that fires
ends the verdict (Block Verification, arXiv 2403.10444). What follows a chain that is accepted whole is left to the
caller: engines have drawn that token already, and no law of it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hsd_verify.draw import draw_indices

UNDECIDED = -1  # the token after a chain that was accepted whole


@dataclass(frozen=True, eq=False)
class Chains:
    """What was drafted. Raises `ValueError` by shapes alone: to look at values is to wait for an accelerator."""

    tokens: Tensor  # (M,) drafted tokens, chain by chain; from a negative one on, nothing of its chain was drafted
    ends: Tensor  # (B,) where each chain ends in `tokens`
    longest: int  # K
    draft_probs: Tensor | None = None  # (M, V) law each token was drawn from; None: all placed deterministically

    def __post_init__(self) -> None:
        if self.tokens.dim() != 1 or self.ends.dim() != 1 or self.longest < 1:
            shapes = f"tokens {tuple(self.tokens.shape)}, ends {tuple(self.ends.shape)}, longest {self.longest}"
            raise ValueError(f"{shapes}: pass (M,) tokens, (B,) ends, and a longest chain of at least one token")
        if self.draft_probs is not None and len(self.draft_probs) != len(self.tokens):
            raise ValueError(f"draft_probs has {len(self.draft_probs)} rows: pass one a token, {len(self.tokens)}")

    @cached_property
    def lengths(self) -> Tensor:
        """(B,) tokens of each chain."""
        return self.ends.diff(prepend=self.ends.new_zeros(1)).long()

    @cached_property
    def rows(self) -> Tensor:
        """(B, K) where the token after each node stands in `tokens`; 0 for nodes that are none of their chain."""
        places = (self.ends.long() - self.lengths)[:, None] + self._depths
        return torch.where(self._depths < self.lengths[:, None], places, 0)

    @cached_property
    def drafted(self) -> Tensor:
        """(B, K) bool: a token was drafted after this node."""
        there = (self._depths < self.lengths[:, None]) & (self.tokens[self.rows] >= 0)
        return there.cumprod(1).bool()

    @cached_property
    def next_tokens(self) -> Tensor:
        """(B, K) the token drafted after each node; 0 where there is none."""
        return torch.where(self.drafted, self.tokens[self.rows].long(), 0)

    @property
    def _depths(self) -> Tensor:
        return torch.arange(self.longest, device=self.tokens.device)

    def at_tokens(self, probs: Tensor) -> Tensor:
        """(B, K) float64 probabilities of the drafted tokens, from rows (M, V)."""
        return probs[self.rows, self.next_tokens].double()

    def proposed(self) -> Tensor:
        """(B, K) float64 probability with which each token was proposed; 1 for placed ones."""
        if self.draft_probs is None:
            return torch.ones(self.rows.shape, dtype=torch.float64, device=self.tokens.device)
        return self.at_tokens(self.draft_probs)


@dataclass(frozen=True, eq=False)
class ChainLaws:
    """The exact law of `hsd` on every chain."""

    chains: Chains
    target_probs: Tensor  # (M, V) as given
    stop: Tensor  # (B, K + 1) float64 probability that exactly i tokens are accepted; rows sum to 1
    weight: Tensor  # (B, K + 1) float64 with which node i is handed on

    @property
    def expected_tau(self) -> Tensor:
        """(B,) expected number of accepted tokens."""
        return self.stop @ torch.arange(self.stop.shape[1], dtype=self.stop.dtype, device=self.stop.device)

    def residual(self, nodes: Tensor) -> Tensor:
        """Laws (B, V), not normalised, of the token after a node (B,) of each chain that has such a row."""
        level = nodes.clamp(max=self.chains.longest - 1)[:, None]  # (B, 1)
        weight = self.weight.gather(1, level)[:, 0]  # (B,)
        return _left(self.chains, self.target_probs, level, weight)

    def draw(self, at_nodes: Tensor, at_token: Tensor) -> tuple[Tensor, Tensor]:
        """Number of accepted tokens (B,) and the token after them (B,), `UNDECIDED` behind chains accepted whole.

        at_nodes (B, K + 1), at_token (B,): numbers in [0, 1), used as `verify` uses those of one tree.
        """
        fires = at_nodes * self.stop.cumsum(1) < self.stop  # (B, K + 1)
        accepted = self.chains.longest - fires.flip(1).int().argmax(1)  # (B,) the deepest that fires
        token = draw_indices(self.residual(accepted), at_token)
        return accepted, torch.where(accepted < self.chains.lengths, token, UNDECIDED)


def chain_laws(chains: Chains, target_probs: Tensor) -> ChainLaws:
    """Laws of `hsd`; target_probs (M, V), row m the target's law where token m was drafted.

    Raises `ValueError` where the shapes do not fit. Whether rows are laws is not looked at.
    """
    _check_fit(chains, target_probs)
    wanted, offered = chains.at_tokens(target_probs), chains.proposed()  # (B, K)
    weight = torch.ones_like(wanted[:, 0])
    weights, fires = [weight], []
    for level in range(chains.longest):
        drafted, slack = chains.drafted[:, level], 1 - weight
        mass = _left(chains, target_probs, chains.rows.new_full((len(weight), 1), level), weight).sum(-1).double()
        fires.append(torch.where(drafted, _ratio(mass, mass + slack), weight))
        kept = _ratio(weight * wanted[:, level], offered[:, level]).clamp(max=1)
        kept = torch.where(mass + slack > 0, kept, 1.0)  # p = q: nothing else can follow
        weight = torch.where(drafted, kept, 0.0)
        weights.append(weight)
    fire = torch.stack([*fires, weight], dim=1)  # (B, K + 1)
    return ChainLaws(chains, target_probs, _stops(fire), torch.stack(weights, dim=1))


def tokenwise_stops(chains: Chains, target_probs: Tensor) -> Tensor:
    """(B, K + 1) float64: how many tokens token-wise rejection accepts, from the drafted tokens' probabilities alone.

    Up to the rounding of rows that are the proposal's own, `law(tree, .., "tokenwise").stop`. Errors as `chain_laws`.
    """
    _check_fit(chains, target_probs)
    kept = _ratio(chains.at_tokens(target_probs), chains.proposed()).clamp(max=1) * chains.drafted  # (B, K)
    reached = torch.cat([torch.ones_like(kept[:, :1]), kept.cumprod(1)], dim=1)  # (B, K + 1)
    return reached - torch.cat([reached[:, 1:], torch.zeros_like(kept[:, :1])], dim=1)


def walk_chains(chains: Chains, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """As `ChainLaws.draw` where the target has no choice: chosen (M,), the one token it takes where m was drafted."""
    taken = chosen[chains.rows]  # (B, K)
    accepted = ((taken == chains.next_tokens) & chains.drafted).cumprod(1).sum(1)  # (B,)
    token = taken.gather(1, accepted.clamp(max=chains.longest - 1)[:, None])[:, 0]
    return accepted, torch.where(accepted < chains.lengths, token, UNDECIDED)


def _check_fit(chains: Chains, target_probs: Tensor) -> None:
    if target_probs.dim() != 2 or len(target_probs) != len(chains.tokens):
        raise ValueError(f"target_probs has shape {tuple(target_probs.shape)}: pass ({len(chains.tokens)}, V)")
    if chains.draft_probs is not None and chains.draft_probs.shape != target_probs.shape:
        raise ValueError(
            f"draft_probs has shape {tuple(chains.draft_probs.shape)}, target_probs {tuple(target_probs.shape)}: "
            "scatter the draft's law into the target's vocabulary"
        )


def _left(chains: Chains, target_probs: Tensor, level: Tensor, weight: Tensor) -> Tensor:
    """[w p - q]+ (B, V) at a node (B, 1) of each chain; w p where nothing was drafted after it."""
    rows = chains.rows.gather(1, level)[:, 0]  # (B,)
    drafted = chains.drafted.gather(1, level)  # (B, 1)
    left = target_probs[rows] * weight[:, None].to(target_probs.dtype)  # (B, V)
    if chains.draft_probs is not None:
        left.sub_(chains.draft_probs[rows] * drafted)
    else:
        tokens = chains.next_tokens.gather(1, level)  # (B, 1)
        left.scatter_(1, tokens, left.gather(1, tokens) * ~drafted)
    return left.relu_()


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole with 0/0 = 0."""
    return part / whole.clamp(min=torch.finfo(torch.float64).tiny)


def _stops(fire: Tensor) -> Tensor:
    """Probability (B, K + 1) of ending at each node, the deepest being asked first."""
    passed = (1 - fire.flip(1)).cumprod(1).flip(1)  # (B, K + 1) that neither the node nor a deeper one fires
    deeper = torch.cat([passed[:, 1:], torch.ones_like(fire[:, :1])], dim=1)
    return fire * deeper
