"""Losses between the target's law and the head's, for all steps at once and without large tensors.

    p       the target's law, normalised over the whole vocabulary V, known on the draft vocabulary only
    p_hat   p renormalised on the draft vocabulary
    q       the head's law
    a       overlap = sum_x min(p, q): the probability that one sampled draft token is accepted

    cross_entropy      -sum p_hat log q                 EAGLE-3 (arXiv 2503.01840)
    kl                 cross_entropy - entropy(p_hat)   same gradient, but zero is perfect
    total_variation    1 - a                            acceptance itself; weak gradient where q is far from p
    log_overlap        -log a                           acceptance again, strong where it is small ("LK" losses)
    coupled            -log softmax(z_q + T g)[x*]      coupled decoding: under noise g that draft and target share, the
                                                        target chooses x* = argmax z_p + T g; z_q the head's logits

`coupled` draws g for every position and T for every conversation, uniform on [0, 1]; at T = 0 it is cross-entropy at
the target's best token. Where the draft vocabulary lacks x*, nothing the head says is right: there it adds nothing.

The laws of all J steps at one position share the target's law, and (P, V) floats of all positions need not live
together: `fused_loss` walks over chunks of positions and forms the gradient beside the value, as in fused
cross-entropy kernels. `reference_loss` is the same by autograd, and the definition.

Letters: J steps, P positions with a loss, C positions of a chunk, K of a block, H hidden size, V vocabulary, Vd draft
vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eagle.options import check_options
from eagle.training.signals import Choice, LawStates, SharedNoise
from eagle.training.target_snapshot import OutputLayer

SMALLEST_OVERLAP = 1e-6  # -log a and its gradient stay finite
CHUNK_POSITIONS = 64  # a chunk of the usual sizes then stays in the second-level cache
BLOCK_POSITIONS = 256  # whose gradients are multiplied together: the sum in the weight is read and written once for all


@dataclass(frozen=True)
class LossWeights:
    """How much of each loss; at least one must be larger than 0."""

    cross_entropy: float = 1.0
    kl: float = 0.0
    total_variation: float = 0.0
    log_overlap: float = 0.0
    coupled: float = 0.0

    def __post_init__(self) -> None:
        check_options(self)
        values = vars(self)
        if min(values.values()) < 0 or max(values.values()) == 0:
            raise ValueError(f"loss weights are {values}: none may be negative, one must be larger than 0")


class StepLosses(NamedTuple):
    """A batch's loss, to be divided by the number of loss positions, and sums over positions for the log."""

    total: Tensor  # () sum over positions and steps of decay^j * loss
    loss: Tensor  # (J,) sum over positions
    overlap: Tensor  # (J,) sum over positions
    agreement: Tensor  # (J,) positions where the head's best is the target's under shared noise; 0 without `coupled`
    positions: Tensor  # (J,) how many had a prediction


Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # the fields of `StepLosses`, as autograd hands them on


class Coupling(NamedTuple):
    """What the term `coupled` needs."""

    noise: SharedNoise
    temperature: Tensor  # (P,)

    def chunk(self, rows: slice) -> Choice:
        return self.noise.race(rows).won(self.temperature[rows])


class Laws(NamedTuple):
    """The target's laws at P positions; p is formed a chunk at a time."""

    states: LawStates
    output: OutputLayer  # restricted to the draft vocabulary
    coupling: Coupling | None = None

    def chunk(self, rows: slice) -> Tensor:
        """p on the draft vocabulary, normalised over the whole one: (C, Vd) float32 or better."""
        return self.states.law(self.output, rows)


def fused_loss(rows: Tensor, weight: Tensor, laws: Laws, scale: Tensor, terms: LossWeights) -> StepLosses:
    """The losses of every step, memory bounded by a chunk.

    rows (P, J, H): normed hidden states, in the dtype to multiply in; weight (Vd, H) of the draft's output layer;
    scale (P, J): decay^j, 0 where a step has no prediction.
    """
    return StepLosses(*_FusedLoss.apply(rows, weight, laws, scale, terms))  # type: ignore[no-untyped-call]


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, laws: Laws, scale: Tensor, terms: LossWeights) -> Sums:
        with torch.autocast(rows.device.type, enabled=False):
            sums, *gradients = _walk(rows, weight, laws, scale, terms)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*sums[1:])
        return sums

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_rows, grad_weight = ctx.saved_tensors
        return grad_rows * grad_total.to(grad_rows.dtype), grad_weight * grad_total, None, None, None


def _walk(rows: Tensor, weight: Tensor, laws: Laws, scale: Tensor, terms: LossWeights) -> tuple[Sums, Tensor, Tensor]:
    """Sums over positions, and the gradients of the total for rows and weight."""
    matrix = weight.to(rows.dtype)  # (Vd, H)
    grad_rows, grad_weight = torch.empty_like(rows), torch.zeros_like(weight)
    loss, overlap, agreement = (scale.new_zeros(scale.shape) for _ in range(3))  # (P, J)
    for block in _slices(0, rows.shape[0], BLOCK_POSITIONS):
        grad = rows.new_empty(*scale[block].shape, matrix.shape[0])  # (K, J, Vd), K positions of a block
        for part in _slices(block.start, block.stop, CHUNK_POSITIONS):
            x = rows[part].flatten(0, 1)  # (C J, H): two dimensions, or matmul copies the matrix for every row
            logits = torch.unflatten(x @ matrix.T, 0, scale[part].shape)  # (C, J, Vd)
            (loss[part], overlap[part]), of_chunk = _chunk(logits, laws.chunk(part), scale[part], terms)
            if laws.coupling is not None:
                choice = laws.coupling.chunk(part)
                coupled, agreement[part] = _coupled_chunk(logits, choice, of_chunk, scale[part], terms)
                loss[part] += coupled
            grad[part.start - block.start : part.stop - block.start] = of_chunk
        torch.mm(grad.flatten(0, 1), matrix, out=grad_rows[block].flatten(0, 1))
        grad_weight += grad.flatten(0, 1).T @ rows[block].flatten(0, 1)
    return _sums(loss, overlap, agreement, scale), grad_rows, grad_weight


def _sums(loss: Tensor, overlap: Tensor, agreement: Tensor, scale: Tensor) -> Sums:
    """Over positions, of values (P, J)."""
    exists = scale > 0
    loss_sum, overlap_sum, agreement_sum = ((values * exists).sum(0) for values in (loss, overlap, agreement))
    return (loss * scale).sum(), loss_sum, overlap_sum, agreement_sum, exists.sum(0)


def _parts(count: int) -> list[slice]:
    """The chunks of `count` positions, as `_walk` meets them."""
    blocks = _slices(0, count, BLOCK_POSITIONS)
    return [part for block in blocks for part in _slices(block.start, block.stop, CHUNK_POSITIONS)]


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    return (slice(at, min(at + size, stop)) for at in range(start, stop, size))


def _chunk(logits: Tensor, p: Tensor, scale: Tensor, terms: LossWeights) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """logits (C, J, Vd), p (C, Vd), scale (C, J) -> (loss, overlap) (C, J) and scale * d loss / d logits.

    With m = [q < p]:  d a / d logits = q (m - sum m q)  and  d cross_entropy / d logits = q - p_hat.
    """
    log_q = logits.log_softmax(-1, dtype=p.dtype)  # (C, J, Vd)
    p_hat = p / p.sum(-1, keepdim=True)
    cross_entropy = -torch.einsum("cjv,cv->cj", log_q, p_hat)
    q = log_q.exp_()
    overlap = torch.minimum(q, p[:, None]).sum(-1).clamp_min(SMALLEST_OVERLAP)  # (C, J)
    loss = _combine(cross_entropy, p_hat, overlap, terms)
    likelihood = terms.cross_entropy + terms.kl
    acceptance = -(terms.total_variation + terms.log_overlap / overlap)  # (C, J), d loss / d a
    below = (q < p[:, None]).to(q.dtype)  # (C, J, Vd)
    mean_below = torch.linalg.vecdot(below, q)  # (C, J)
    slope, offset = acceptance * scale, (likelihood - acceptance * mean_below) * scale
    grad = below.mul_(slope[..., None]).add_(offset[..., None]).mul_(q)
    if likelihood:
        grad.addcmul_(p_hat[:, None], (likelihood * scale)[..., None], value=-1)
    return (loss, overlap), grad


def _coupled_chunk(
    logits: Tensor, choice: Choice, grad: Tensor, scale: Tensor, terms: LossWeights
) -> tuple[Tensor, Tensor]:
    """logits (C, J, Vd), scale (C, J) -> (loss, agreement) (C, J); adds scale * d loss / d logits to `grad`.

    With r = softmax(z_q + T g):  d cross_entropy / d logits = r - [x = x*].
    """
    log_r = (logits + choice.noise[:, None]).log_softmax(-1)  # (C, J, Vd)
    best = choice.best[:, None, None].expand(*scale.shape, 1)  # (C, J, 1)
    weight, index = terms.coupled * (best >= 0).to(log_r.dtype), best.clamp_min(0)
    loss = -weight * log_r.gather(-1, index)
    agreement = log_r.argmax(-1, keepdim=True) == best
    slope = weight * scale[..., None]  # (C, J, 1)
    grad.addcmul_(log_r.exp_(), slope).scatter_add_(-1, index, -slope)
    return loss[..., 0], agreement[..., 0].to(loss.dtype)


def _combine(cross_entropy: Tensor, p_hat: Tensor, overlap: Tensor, terms: LossWeights) -> Tensor:
    loss = terms.cross_entropy * cross_entropy + terms.total_variation * (1 - overlap)
    if terms.log_overlap:
        loss = loss - terms.log_overlap * overlap.log()
    if terms.kl:
        loss = loss + terms.kl * (cross_entropy - torch.special.entr(p_hat).sum(-1, keepdim=True))
    return loss


def reference_loss(rows: Tensor, weight: Tensor, laws: Laws, scale: Tensor, terms: LossWeights) -> StepLosses:
    """`fused_loss` written out and left to autograd."""
    p = laws.chunk(slice(None))[:, None]  # (P, 1, Vd)
    p_hat = p / p.sum(-1, keepdim=True)
    logits = rows @ weight.to(rows.dtype).T  # (P, J, Vd)
    log_q = logits.log_softmax(-1, dtype=p.dtype)
    overlap = torch.minimum(log_q.exp(), p).sum(-1).clamp_min(SMALLEST_OVERLAP)  # (P, J)
    loss, agreement = _combine(-(p_hat * log_q).sum(-1), p_hat[:, 0], overlap, terms), torch.zeros_like(scale)
    if laws.coupling is not None:
        coupled, agreement = _reference_coupled(logits, laws.coupling)
        loss = loss + terms.coupled * coupled
    return StepLosses(*_sums(loss, overlap, agreement, scale))


def _reference_coupled(logits: Tensor, coupling: Coupling) -> tuple[Tensor, Tensor]:
    """logits (P, J, Vd) -> cross-entropy and agreement, (P, J)."""
    chunks = [coupling.chunk(part) for part in _parts(len(logits))]
    noise, best = (torch.cat(values) for values in zip(*chunks, strict=True))
    perturbed = (logits + noise[:, None]).movedim(-1, 1)  # (P, Vd, J)
    best = best[:, None].expand(-1, logits.shape[1])
    loss = torch.nn.functional.cross_entropy(perturbed, best, reduction="none", ignore_index=-1)
    return loss, (perturbed.argmax(1) == best).to(loss.dtype)
