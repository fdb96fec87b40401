"""The training-time test: several draft steps at once, at all positions, on the head's own outputs.

    index t            0      1      2      3                  conversation  x0 x1 x2 x3 x4 x5
    step 0   reads     g0,x1  g1,x2  g2,x3  g3,x4              g_t: the target's feature at token x_t
             predicts  x2     x3     x4     x5                 law: the target's logits at position t + 1
    step 1   reads     a0,x2  a1,x3  a2,x4  a3,x5              a_t: the output of step 0 at the same index
             predicts  x3     x4     x5     .                  law: logits at t + 2; rotary position t + 1
    step j   reads     previous output, token t + 1 + j        law: logits at t + 1 + j; rotary position t + j

An index keeps its place, so a step's output is exactly what drafting would have there: the step-0 keys up to t, then
one own key a step (see `eagle.training.attention`). Only the tokens and the laws move, by one a step.

Letters: B batch, T positions, H hidden size, Ht target hidden size, J steps, P positions with a loss.
"""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eagle.data.batches import Segments
from eagle.drafters.head import DraftHead
from eagle.training.attention import StepAttention


def unroll(
    head: DraftHead,
    features: Tensor,
    embeddings: Tensor,
    num_steps: int,
    reference: bool = False,
    gradient_checkpointing: bool = False,
    segments: Segments = None,
) -> list[Tensor]:
    """The outputs of every step, before `norm`: J tensors (B, T, H).

    features (B, T, 3Ht) and embeddings (B, T, H) of the same tokens, unshifted: shifting happens here and only here.
    In a packed row (`segments`) the last tokens of a conversation read the first embeddings of the next one; what they
    predict lies behind their conversation, where `rows_for` asks for nothing.
    """
    hidden = head.fuse(features)  # (B, T, H)
    place = torch.arange(hidden.shape[1], device=hidden.device)
    positions = (place - starts(segments, place)).expand(hidden.shape[:2])  # (B, T)
    take_step = partial(_step, head, reference, segments)
    past: tuple[Tensor, ...] = ()
    outputs = []
    for step in range(num_steps):
        inputs = hidden, ahead(embeddings, step + 1), positions + step, *past
        results = checkpoint(take_step, *inputs, use_reentrant=False) if gradient_checkpointing else take_step(*inputs)
        hidden, past = results[0], results[1:]
        outputs.append(hidden)
    return outputs


def ahead(x: Tensor, distance: int) -> Tensor:
    """Entry t is x[:, t + distance], zero beyond the end: (B, T, H)."""
    return torch.cat([x[:, distance:], torch.zeros_like(x[:, :distance])], dim=1)


def law_positions(loss_mask: Tensor) -> Tensor:
    """Where the target's law is a training target: t is, when the token after it carries a loss. (B, T) bool

    loss_mask (B, T) bool belongs to the tokens themselves, unshifted: this is the one place where it moves.
    """
    return torch.cat([loss_mask[:, 1:], torch.zeros_like(loss_mask[:, :1])], dim=1)


def choose_positions(loss_mask: Tensor, fraction: float, seed: int) -> Tensor:
    """The positions of the target's laws that get a loss, (B, T) bool: all, or a random `fraction` of them."""
    at = law_positions(loss_mask)
    if fraction < 1:
        kept = torch.rand(at.shape, generator=torch.Generator().manual_seed(seed)) < fraction
        at = at & kept.to(at.device)
    return at


def starts(segments: Segments, place: Tensor) -> Tensor:
    """Where the conversation of every place (T,) of a row begins: (T,)."""
    if segments is None:
        return torch.zeros_like(place)
    lengths = torch.tensor(segments, device=place.device)
    return (lengths.cumsum(0) - lengths).repeat_interleave(lengths)


def conversation_at(at: Tensor, segments: Segments = None) -> tuple[Tensor, int]:
    """Which conversation of the batch every position of `at` (B, T) bool belongs to (P,), and how many there are."""
    batch, place = at.nonzero(as_tuple=True)  # (P,)
    if segments is None:
        return batch, at.shape[0]
    ends = torch.tensor(segments, device=at.device).cumsum(0)
    return torch.searchsorted(ends, place, right=True), len(segments)


def rows_for(outputs: list[Tensor], at: Tensor, segments: Segments = None) -> tuple[Tensor, Tensor]:
    """What each step says about the laws at `at` (B, T) bool: rows (P, J, H) and which of them exist (P, J) bool.

    Step j speaks about position t + 1 + j from index t, so position s is read at index s - 1 - j.
    """
    batch, place = at.nonzero(as_tuple=True)  # (P,)
    index = place[:, None] - 1 - torch.arange(len(outputs), device=at.device)  # (P, J)
    rows = [output[batch, index[:, step].clamp_min(0)] for step, output in enumerate(outputs)]
    begin = starts(segments, torch.arange(at.shape[1], device=at.device))[place]  # (P,)
    return torch.stack(rows, dim=1), index >= begin[:, None]


def _step(
    head: DraftHead,
    reference: bool,
    segments: Segments,
    hidden: Tensor,
    embedding: Tensor,
    positions: Tensor,
    *past: Tensor,
) -> tuple[Tensor, ...]:
    """The step's output (B, T, H), then the keys and the values of all steps so far."""
    attend = StepAttention(past, reference, segments)
    output = head(hidden, embedding.to(hidden.dtype), positions, attend)
    return output, *attend.keys, *attend.values
