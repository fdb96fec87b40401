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
The other 6 bits of a group's word say which of its tokens is the first.

Letters: V vocabulary, W tokens of a group, M groups, n tokens or groups asked for, P positions.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

OWN_BITS = 6
GROUP = 1 << OWN_BITS  # W
LIKELY_GROUPS = 8  # looked at first; the others only where that leaves them possible
KEPT_ROWS = 64  # positions whose numbers for the draft's tokens are kept: deeper than trees are
GAMMA = 0x9E3779B97F4A7C15  # of SplitMix64 (Steele, Lea, Flood 2014), as are the two multipliers
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
FIRSTS = 1 << 40  # where the words of groups stand, behind those of tokens
ALL_BITS = (1 << 64) - 1


class NoiseField:
    """The field of one answer. `key` is a number below 2^63; other keys, other independent fields."""

    def __init__(self, key: int, device: torch.device | str = "cpu"):
        self.key, self.device = key, torch.device(device)
        self._kept: OrderedDict[tuple[int, int], tuple[Tensor, Tensor]] = OrderedDict()

    def at(self, position: int, tokens: Tensor) -> Tensor:
        """Gumbel numbers of `tokens` (n,) at a position of the sequence, counted from its start: (n,) float64.

        Raises ValueError for numbers that are no tokens, such as the -1 of what a draft vocabulary lacks.
        """
        _check_tokens(tokens)
        return self._numbers(position, _split(tokens))

    def _numbers(self, position: int, asked: _Split) -> Tensor:
        row = _row(self.key, position)
        least, first = _groups(row, asked.groups)
        if asked.which is not None:
            least, first = least[asked.which], first[asked.which]
        others = _exponential(_words(row, asked.tokens)).masked_fill_(first == asked.places, 0.0)  # (n,)
        return others.add_(least).log_().neg_()

    def rows(self, positions: list[int], vocab_size: int) -> Tensor:
        """All numbers at P positions: (P, V) float64. Nothing is waited for on an accelerator."""
        groups = torch.arange(-(-vocab_size // GROUP), device=self.device)
        rows = [_row(self.key, position) for position in positions]
        races = [_races(row, groups, *_groups(row, groups)).flatten()[:vocab_size] for row in rows]
        return torch.stack(races).log_().neg_()

    def draft_row(self, position: int, tokens: Tensor) -> Tensor:
        """`at` for the draft's tokens (Vd,), in float32, remembered: the next round asks for many of them again.

        They are not checked, for which an accelerator would be waited for: a vocabulary holds tokens.
        """
        entry = self._kept.get((position, id(tokens)))
        if entry is None:
            entry = tokens, self._numbers(position, _kept_split(tokens)).float()
            self._kept[position, id(tokens)] = entry
            while len(self._kept) > KEPT_ROWS:
                self._kept.popitem(last=False)
        return entry[1]

    def best(self, scores: Tensor, position: int) -> Tensor:
        """The token of largest score + g, of scores (V,) = logits / temperature: a scalar on their device.

        Of equal ones the first, as everywhere.
        """
        if scores.is_cpu:
            return self.best_of_groups(scores, position)
        return self.best_of_row(scores, position)  # a pass over V costs less than to wait for which groups are likely

    def best_of_row(self, scores: Tensor, position: int) -> Tensor:
        """`best`, by all V numbers."""
        return (scores + self.rows([position], len(scores))[0]).argmax()

    def best_of_groups(self, scores: Tensor, position: int) -> Tensor:
        """`best`, by the numbers of those groups that can hold it."""
        groups, row = _grouped(scores), _row(self.key, position)  # (M, W)
        least, places = _groups(row, torch.arange(len(groups), device=scores.device))
        bounds = groups.amax(-1) - least.log()  # (M,) float64

        def best_among(chosen: Tensor) -> tuple[Tensor, Tensor]:
            """The largest score + g in groups (n,) that ascend, and its token."""
            found = (groups[chosen] - _races(row, chosen, least[chosen], places[chosen]).log_()).flatten().max(-1)
            return found.values, chosen[found.indices // GROUP] * GROUP + found.indices % GROUP

        likely = bounds.topk(min(LIKELY_GROUPS, len(groups))).indices.sort().values
        value, token = best_among(likely)
        possible = (bounds >= value).nonzero()[:, 0]
        return token if len(possible) <= len(likely) else best_among(possible)[1]


def answer_key(generator: torch.Generator | None) -> int:
    """The key of the next answer: one number of the generator, so that every answer has its own.

    Without a generator of torch's own on the CPU. A seed gives other keys on another device, as its generators do.
    """
    device = generator.device if generator is not None else "cpu"
    return int(torch.randint((1 << 63) - 1, (), generator=generator, device=device))


def _check_tokens(tokens: Tensor) -> None:
    lowest, highest = map(int, tokens.aminmax()) if len(tokens) else (0, 0)
    if lowest < 0 or highest >= FIRSTS:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"token {wrong} has no noise, tokens lie in 0..2^40 - 1: pass target ids, not draft ids")


class _Split(NamedTuple):
    """Tokens (n,) by the groups they stand in."""

    tokens: Tensor  # (n,) int64
    places: Tensor  # (n,) in their groups
    groups: Tensor  # (m,)
    which: Tensor | None  # (n,) index of each token's group; None: m is n


def _split(tokens: Tensor) -> _Split:
    """On a CPU the groups are few where tokens ascend; how many, an accelerator would have to tell the host."""
    tokens = tokens.long()
    groups, places = tokens >> OWN_BITS, tokens & (GROUP - 1)
    if not tokens.is_cpu:
        return _Split(tokens, places, groups, None)
    return _Split(tokens, places, *torch.unique_consecutive(groups, return_inverse=True))


_kept_split = lru_cache(maxsize=8)(_split)  # of vocabularies, which tensors stand for: one is equal to itself alone


def _row(key: int, position: int) -> int:
    """Where the stream of a position begins: far from all others, as hashes are."""
    return _mixed(_mixed(_mixed(key)) ^ _mixed(position))


def _groups(row: int, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Of groups (n,): E of their first tokens (n,) float64, and which token of the group that is (n,)."""
    words = _words(row, groups + FIRSTS)
    return _exponential(words).div_(GROUP), words & (GROUP - 1)


def _races(row: int, groups: Tensor, least: Tensor, places: Tensor) -> Tensor:
    """E of all tokens of groups (n,), whose first ones `_groups` gave: (n, W) float64."""
    own = torch.arange(GROUP, device=groups.device)
    waits = _exponential(_words(row, groups[:, None] * GROUP + own))  # (n, W)
    return waits.masked_fill_(places[:, None] == own, 0.0).add_(least[:, None])


def _grouped(scores: Tensor) -> Tensor:
    """Scores (V,) -> (M, W); tokens that fill up the last group never win."""
    missing = -len(scores) % GROUP
    if missing:
        scores = torch.cat([scores, scores.new_full((missing,), -torch.inf)])
    return scores.view(-1, GROUP)


def _exponential(words: Tensor) -> Tensor:
    """The upper 58 bits of random words -> standard exponential numbers, float64, never 0 and never infinite."""
    uniform = _shifted(words, OWN_BITS).double().add_(0.5).mul_(2.0**-58)
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
