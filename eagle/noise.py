"""The noise field of coupled decoding: a standard Gumbel number for every position and token of one answer.

    plain decoding    x_t = argmax_x z(x | x_<t) / T + g(key, t, x)     a draw from the target's law (Gumbel-max)
    drafting          reads the same g, so that it can guess the very token the target will choose

A number is a pure function of (key, position, token), by integer arithmetic that is the same on every device: nothing
is drawn in an order, so whoever asks for it, in whatever batch, tree or turn, gets the same. A field serves one answer
and this one purpose: an acceptance test or a residual drawn from noise that the draft has seen would be biased.

`g = -log E` with exponential numbers E, of which the smallest wins races. They are made in groups of 64 tokens:

    E of the group's first token      -log(1 - u) / 64       the least of 64; any token may be the first
    E of the group's other tokens     that + (-log(1 - u'))  what exceeds the least is exponential again

so one number bounds a whole group from above, and the winner of 49,152 tokens is found among a few groups. `u` has 58
random bits and float64 keeps its relative precision near 0, where races are won: tokens of probability 1e-18 can win.

Letters: V vocabulary, W tokens of a group, M groups, n tokens asked for, P positions.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

GROUP = 64  # W
LIKELY_GROUPS = 8  # looked at first; the others only where that leaves them possible
KEPT_ROWS = 64  # positions whose numbers for the draft's tokens are kept: deeper than trees are
GAMMA = 0x9E3779B97F4A7C15  # of SplitMix64 (Steele, Lea, Flood 2014), as are the two multipliers
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
FIRSTS, PLACES = 1 << 40, 1 << 41  # where the words of groups stand, behind those of tokens
ALL_BITS = (1 << 64) - 1


class NoiseField:
    """The field of one answer. `key` is a number below 2^63; other keys, other independent fields."""

    def __init__(self, key: int, device: torch.device | str = "cpu"):
        self.key, self.device = key, torch.device(device)
        self._kept: OrderedDict[tuple[int, int], tuple[Tensor, Tensor]] = OrderedDict()

    def at(self, position: int, tokens: Tensor) -> Tensor:
        """Gumbel numbers of `tokens` (n,) at a position of the sequence, counted from its start: (n,) float64."""
        return -self._races(self._row(position), tokens).log()

    def rows(self, positions: list[int], vocab_size: int) -> Tensor:
        """All numbers at P positions: (P, V) float64."""
        tokens = torch.arange(vocab_size, device=self.device)
        return torch.stack([self.at(position, tokens) for position in positions])

    def draft_row(self, position: int, tokens: Tensor) -> Tensor:
        """`at` for the draft's tokens (Vd,), in float32, remembered: the next round asks for many of them again."""
        entry = self._kept.get((position, id(tokens)))
        if entry is None:
            entry = tokens, self.at(position, tokens).float()
            self._kept[position, id(tokens)] = entry
            while len(self._kept) > KEPT_ROWS:
                self._kept.popitem(last=False)
        return entry[1]

    def best(self, scores: Tensor, position: int) -> Tensor:
        """The token of largest score + g, of scores (V,) = logits / temperature: a scalar on their device."""
        if not scores.is_cpu:  # where a pass over V costs less than to wait for what groups are likely
            return (scores + self.rows([position], len(scores))[0]).argmax()
        groups = _grouped(scores)  # (M, W)
        row = self._row(position)
        least, places = self._groups(row, torch.arange(len(groups)))
        bounds = groups.amax(-1) - least.log()  # (M,) float64
        likely = bounds.topk(min(LIKELY_GROUPS, len(groups))).indices
        value, token = self._best_of(row, groups, likely, least, places)
        possible = (bounds >= value).nonzero()[:, 0]
        if len(possible) > len(likely):
            value, token = self._best_of(row, groups, possible, least, places)
        return token

    def _best_of(
        self, row: int, groups: Tensor, chosen: Tensor, least: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Largest score + g among the groups `chosen`, and its token."""
        own = torch.arange(GROUP)
        tokens = chosen[:, None] * GROUP + own  # (n, W)
        waits = _exponential(_words(row, tokens)).masked_fill_(places[chosen][:, None] == own, 0.0)
        found = (groups[chosen] - (least[chosen][:, None] + waits).log()).flatten().max(-1)
        return found.values, tokens.flatten()[found.indices]

    def _races(self, row: int, tokens: Tensor) -> Tensor:
        """E of tokens (n,): (n,) float64."""
        least, places = self._groups(row, torch.arange(-(-int(tokens.max() + 1) // GROUP), device=tokens.device))
        group = tokens // GROUP
        is_first = places[group] == tokens % GROUP
        return least[group] + _exponential(_words(row, tokens)).masked_fill_(is_first, 0.0)

    def _groups(self, row: int, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Of groups (M,): E of their first tokens (M,) float64, and which token of the group that is (M,)."""
        return _exponential(_words(row, groups + FIRSTS)) / GROUP, _words(row, groups + PLACES) & (GROUP - 1)

    def _row(self, position: int) -> int:
        """Where the stream of a position begins: far from all others, as hashes are."""
        return _mixed(_mixed(self.key) ^ _mixed(position + FIRSTS))


def answer_key(generator: torch.Generator | None) -> int:
    """The key of the next answer: one number of the generator, so that every answer has its own."""
    device = generator.device if generator is not None else "cpu"
    return int(torch.randint((1 << 63) - 1, (), generator=generator, device=device))


def _grouped(scores: Tensor) -> Tensor:
    """Scores (V,) -> (M, W); tokens that fill up the last group never win."""
    missing = -len(scores) % GROUP
    if missing:
        scores = torch.cat([scores, scores.new_full((missing,), -torch.inf)])
    return scores.view(-1, GROUP)


def _exponential(words: Tensor) -> Tensor:
    """Random words -> standard exponential numbers, float64, never 0 and never infinite."""
    uniform = ((words >> 6) & ((1 << 58) - 1)).double().add_(0.5).mul_(2.0**-58)
    return uniform.clamp_(max=1 - 2.0**-53).neg_().log1p_().neg_()


def _words(row: int, index: Tensor) -> Tensor:
    """SplitMix64: the numbers of places `index` in the stream that begins at `row`, 64 random bits as int64."""
    x = index * _signed(GAMMA) + _signed(row)
    for shift, factor in ((30, FIRST), (27, SECOND)):
        x = (x ^ _shifted(x, shift)).mul_(_signed(factor))
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, with zeros: int64's own shift repeats the sign."""
    return (x >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mixed(x: int) -> int:
    """The same mixing of one Python number: 64 bits to 64 bits, one to one."""
    x = (x + GAMMA) & ALL_BITS
    for shift, factor in ((30, FIRST), (27, SECOND)):
        x = ((x ^ (x >> shift)) * factor) & ALL_BITS
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
