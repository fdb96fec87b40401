"""What a head is worth, measured against the target's law on held-out conversations at temperature 1.

For step j at one position, with p the target's law and q the head's:

    overlap    sum_x min(p, q)                       acceptance of one token sampled from q
    top1_agrees  argmax q = argmax p                 acceptance of one greedy token at temperature 0
    top1, top4 sum of p over q's best tokens         acceptance of 1 or 4 deterministic children
    coupled    argmax q + T g = argmax p + T g       (of logits) acceptance of one child under noise that draft and
                                                     target share, at temperature T: a draw, the same for every head

Predicted tau (accepted draft tokens a round, without the bonus token), over runs of J consecutive positions:

    chain      sum_k prod_{j <= k} overlap_j         a sampled chain of J tokens
    tree       sum_k prod_{j <= k} m_j               m_j: mass of q's best w_j tokens, w = 4, 2, 1, 1, ..: the nine
                                                     nodes of the default tree dealt out by level

Both read the data's own continuation as the path, so they are estimates; decoding gives the truth.

Letters: P positions, C positions of a chunk, J steps, Vd draft vocabulary, B batch, T positions of a conversation.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eagle.training.loss import CHUNK_POSITIONS, Laws
from eagle.training.signals import Race, SharedNoise

TREE_WIDTHS = (4, 2, 1)  # the last one goes on
COUPLED_TEMPERATURES = (0.6, 1.0)
QUANTITIES = ("overlap", "top1_agrees", "top1", "top4", "tree", "covered", "coupled_06", "coupled_1")


class Measurements(NamedTuple):
    values: Tensor  # (P, J, len(QUANTITIES)) float32
    exists: Tensor  # (P, J) bool


@dataclass(frozen=True)
class Evaluation:
    """Means over held-out positions; one number a step where it says tuple."""

    overlap: tuple[float, ...]
    top1_agreement: tuple[float, ...]
    top1_mass: tuple[float, ...]
    top4_mass: tuple[float, ...]
    coupled_06: tuple[float, ...]  # top-1 agreement under shared noise, at temperature 0.6
    coupled_1: tuple[float, ...]
    covered_mass: float  # the target's mass on the draft vocabulary: no overlap can exceed it
    covered_tokens: float  # share of the answers' tokens that the draft vocabulary holds
    tau_chain: float
    tau_tree: float
    num_positions: int

    @property
    def mean_overlap(self) -> float:
        """Over the steps that predicted something: with answers of three tokens a fifth step has nothing to predict."""
        known = [value for value in self.overlap if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    def __str__(self) -> str:
        return (
            f"held-out overlap {_thousandths(self.overlap)}  top-1 agreement {_thousandths(self.top1_agreement)}  "
            f"under shared noise at 0.6 {_thousandths(self.coupled_06)}, at 1 {_thousandths(self.coupled_1)}  "
            f"predicted tau: chain {self.tau_chain:.2f}, tree {self.tau_tree:.2f}"
        )


def _thousandths(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


@torch.no_grad()
def measure_predictions(rows: Tensor, weight: Tensor, laws: Laws, exists: Tensor, noise: SharedNoise) -> Measurements:
    """rows (P, J, H) normed, exists (P, J) -> the quantities of every prediction."""
    matrix = weight.to(rows.dtype)
    values = []
    with torch.autocast(rows.device.type, enabled=False):
        for part in torch.split(torch.arange(rows.shape[0], device=rows.device), CHUNK_POSITIONS):
            chunk = slice(int(part[0]), int(part[-1]) + 1)
            hits = noise.draft_ids[None] == laws.states.best[chunk, None]  # (C, Vd)
            logits = rows[chunk] @ matrix.T
            plain = _measure_chunk(logits, laws.chunk(chunk), hits)
            values.append(torch.cat([plain, _coupled_agreement(logits, noise.race(chunk))], dim=-1))
    return Measurements(torch.cat(values), exists)


def _coupled_agreement(logits: Tensor, race: Race) -> Tensor:
    """logits (C, J, Vd) -> whether the perturbed best is the target's, (C, J, temperatures)."""
    agrees = []
    for temperature in COUPLED_TEMPERATURES:
        choice = race.won(race.gumbel.new_full(logits.shape[:1], temperature))
        best = (logits + choice.noise[:, None]).argmax(-1)  # (C, J)
        agrees.append((best == choice.best[:, None]).to(race.gumbel.dtype))
    return torch.stack(agrees, dim=-1)


def _measure_chunk(logits: Tensor, p: Tensor, hits: Tensor) -> Tensor:
    """logits (C, J, Vd), p (C, Vd), hits (C, Vd) bool: the target's best token -> (C, J, Q), without noise."""
    q = logits.softmax(-1, dtype=p.dtype)  # (C, J, Vd)
    p = p[:, None].expand_as(q)
    best = q.topk(min(4, q.shape[-1])).indices  # (C, J, 4)
    mass = p.gather(-1, best).cumsum(-1)  # (C, J, 4): on the best 1, 2, 3, 4
    agrees = hits.gather(-1, best[..., 0])  # (C, J)
    widths = [min(_tree_width(step), mass.shape[-1]) - 1 for step in range(q.shape[1])]
    tree = torch.stack([mass[:, step, width] for step, width in enumerate(widths)], dim=1)  # (C, J)
    overlap = torch.minimum(p, q).sum(-1)
    return torch.stack([overlap, agrees.to(q.dtype), mass[..., 0], mass[..., -1], tree, p.sum(-1)], dim=-1)


def _tree_width(step: int) -> int:
    return TREE_WIDTHS[min(step, len(TREE_WIDTHS) - 1)]


class EvaluationSums:
    """Collects measurements of batches and turns them to means."""

    def __init__(self, t2d: Tensor):
        self._t2d = t2d
        self._values: list[Tensor] = []  # (P, J, Q)
        self._exists: list[Tensor] = []  # (P, J)
        self._runs: list[Tensor] = []  # (R, J, Q): J consecutive positions, step j at the j-th of them
        self._covered_tokens = self._num_tokens = 0

    def add(self, measured: Measurements, at: Tensor, ids: Tensor, loss_mask: Tensor) -> None:
        """Measurements at `at` (B, T), the batch's ids and unshifted loss mask (B, T)."""
        self._values.append(measured.values)
        self._exists.append(measured.exists)
        self._runs.append(_runs(measured, at))
        self._covered_tokens += int(self._t2d[ids[loss_mask]].sum())
        self._num_tokens += int(loss_mask.sum())

    @property
    def are_finite(self) -> bool:
        """Whether all predictions are; steps and conversations without one do not count."""
        return all(bool(v[e].isfinite().all()) for v, e in zip(self._values, self._exists, strict=True))

    def result(self) -> Evaluation:
        values, exists, runs = torch.cat(self._values), torch.cat(self._exists), torch.cat(self._runs)
        means = (values * exists[..., None]).sum(0) / exists.sum(0)[:, None]  # (J, Q)
        steps = {name: tuple(means[:, i].tolist()) for i, name in enumerate(QUANTITIES)}
        return Evaluation(
            overlap=steps["overlap"],
            top1_agreement=steps["top1_agrees"],
            top1_mass=steps["top1"],
            top4_mass=steps["top4"],
            coupled_06=steps["coupled_06"],
            coupled_1=steps["coupled_1"],
            covered_mass=steps["covered"][0],
            covered_tokens=self._covered_tokens / max(self._num_tokens, 1),
            tau_chain=_tau(runs[..., QUANTITIES.index("overlap")]),
            tau_tree=_tau(runs[..., QUANTITIES.index("tree")]),
            num_positions=len(values),
        )


def _runs(measured: Measurements, at: Tensor) -> Tensor:
    """For every index t whose J predictions all exist, in order of steps: (R, J, Q)."""
    steps, width = measured.exists.shape[1], measured.values.shape[-1]
    dense = measured.values.new_zeros(*at.shape, steps, width)  # (B, T, J, Q)
    dense[at] = measured.values
    there = torch.zeros(*at.shape, steps, dtype=torch.bool, device=at.device)
    there[at] = measured.exists
    length = at.shape[1] - steps  # index t reads positions t + 1 .. t + J
    if length < 1:
        return dense.new_zeros(0, steps, width)
    shifted = torch.stack([dense[:, 1 + j : 1 + j + length, j] for j in range(steps)], dim=2)  # (B, length, J, Q)
    complete = torch.stack([there[:, 1 + j : 1 + j + length, j] for j in range(steps)], dim=2).all(-1)
    return shifted[complete]


def _tau(factors: Tensor) -> float:
    """factors (R, J) -> mean over runs of sum_k prod_{j <= k}; nan without a run."""
    return float(factors.cumprod(-1).sum(-1).mean())
