"""Attention of the training-time test: causal over the first step, plus one diagonal term for every later step.

    query of step 2 at index t = 2        keys it may see
    step 0    k0[0]  k0[1]  k0[2]           its past, as the target's features tell it
    step 1                  k1[2]           its own guesses: one key a step, at the same index
    step 2                  k2[2]           (while drafting these stand behind each other, at positions t+1, t+2)

`reference_attention` writes the (T, T + j) scores out and is the definition. `StepAttention` calls a flash kernel for
the causal block and merges the j diagonal terms by their log-sum-exp, so its memory is linear in T. The merged output
and log-sum-exp are also what the kernel's backward needs: with them `P = exp(score - lse)` are the true weights and
`dS = P * (dP - rowsum(dO * O))` is exact for the causal block; the diagonal's gradients are four lines by hand.

Letters: B batch, T positions, d head size, S later steps (diagonal terms), G query heads a key-value head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
Gradients = tuple[Tensor, Tensor, Tensor]  # for query, key and value


class StepAttention:
    """The `attend` callable of one step: takes the keys and values of the steps before, holds them with its own after.

    `past`: keys of the earlier steps, then their values. `reference=True` takes the written-out definition.
    `segments`: lengths of the conversations that stand behind each other, each attends to itself alone; None: one.
    """

    def __init__(self, past: Sequence[Tensor] = (), reference: bool = False, segments: Sequence[int] | None = None):
        self.keys, self.values = (list(half) for half in _halves(past))  # (B, kv_heads, T, d) a step
        self._attention = reference_attention if reference else fast_attention
        self._segments = segments

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.keys.append(key)
        self.values.append(value)
        if self._segments is None:
            return self._attention(query, self.keys, self.values)
        lengths = list(filter(None, self._segments))
        parts = [torch.split(x, lengths, dim=2) for x in (query, *self.keys, *self.values)]
        attended = [self._attention(q, *_halves(rest)) for q, *rest in zip(*parts, strict=True)]
        return torch.cat(attended, dim=2)


def reference_attention(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """query (B, heads, T, d); keys and values of steps 0..S, each (B, kv_heads, T, d) -> (B, heads, T, d)."""
    group, scale = query.shape[1] // keys[0].shape[1], query.shape[-1] ** -0.5
    keys, values = ([x.repeat_interleave(group, 1) for x in steps] for steps in (keys, values))
    causal = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).tril()
    scores = [(query @ keys[0].mT).masked_fill(~causal, -torch.inf)]  # (B, heads, T, T)
    scores += [(query * key).sum(-1, keepdim=True) for key in keys[1:]]  # (B, heads, T, 1) each
    weights = (torch.cat(scores, -1) * scale).softmax(-1)  # (B, heads, T, T + S)
    past, own = weights[..., : query.shape[2]], weights[..., query.shape[2] :]
    output: Tensor = past @ values[0] + sum(own[..., i : i + 1] * value for i, value in enumerate(values[1:]))
    return output


def fast_attention(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """`reference_attention` in memory linear in T, values and gradients alike."""
    output: Tensor = _CausalPlusDiagonal.apply(query, *keys, *values)  # type: ignore[no-untyped-call]
    return output


class _CausalPlusDiagonal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, *keys_and_values: Tensor) -> Tensor:
        keys, values = _halves(keys_and_values)
        past, lse, extras = _causal_forward(query, _expand(keys[0], query), _expand(values[0], query))
        scores = [_rowdot(query, _expand(key, query)) * query.shape[-1] ** -0.5 for key in keys[1:]]  # (B, heads, T)
        merged = torch.logsumexp(torch.stack([lse, *scores]), 0) if scores else lse
        output = past * (lse - merged).exp()[..., None]
        for score, value in zip(scores, values[1:], strict=True):
            output = output + (score - merged).exp()[..., None] * _expand(value, query)
        output = output.to(query.dtype)
        ctx.save_for_backward(query, output, merged, *scores, *keys_and_values)
        ctx.extras, ctx.num_scores = extras, len(scores)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        query, output, merged, *rest = ctx.saved_tensors
        scores, (keys, values) = rest[: ctx.num_scores], _halves(rest[ctx.num_scores :])
        grad = grad.to(query.dtype)
        first = _expand(keys[0], query), _expand(values[0], query)
        grad_query, grad_key, grad_value = _causal_backward(grad, query, *first, output, merged, ctx.extras)
        grad_keys, grad_values = [_fold(grad_key, keys[0])], [_fold(grad_value, values[0])]
        total, scale = _rowdot(grad, output), query.shape[-1] ** -0.5  # (B, heads, T)
        for score, key, value in zip(scores, keys[1:], values[1:], strict=True):
            weight = (score - merged).exp()
            grad_score = weight * (_rowdot(grad, _expand(value, query)) - total) * scale
            grad_query = grad_query + grad_score[..., None] * _expand(key, query)
            grad_keys.append(_fold(grad_score[..., None] * query, key))
            grad_values.append(_fold(weight[..., None] * grad, value))
        return grad_query.to(query.dtype), *grad_keys, *grad_values


def _halves(keys_and_values: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    middle = len(keys_and_values) // 2
    return keys_and_values[:middle], keys_and_values[middle:]


def _expand(x: Tensor, query: Tensor) -> Tensor:
    """(B, kv_heads, T, d) -> (B, heads, T, d): the kernels want as many key heads as query heads."""
    return x.repeat_interleave(query.shape[1] // x.shape[1], 1)


def _fold(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient of `_expand`: (B, heads, T, d) -> (B, kv_heads, T, d)."""
    return torch.unflatten(grad, 1, (like.shape[1], -1)).sum(2).to(like.dtype)


def _rowdot(a: Tensor, b: Tensor) -> Tensor:
    """(..., d) and (..., d) -> (...), summed in float32 or better."""
    return (a * b).sum(-1, dtype=torch.promote_types(a.dtype, torch.float32))


def _causal_forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Causal attention -> output (B, heads, T, d), log-sum-exp (B, heads, T), what the backward wants besides.

    On an accelerator flash attention knows half precision only; other dtypes take the memory-efficient kernel.
    """
    if not query.is_cuda:
        output, lse = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)
        return output, lse, ()
    if query.dtype in (torch.float16, torch.bfloat16):
        output, lse, *extras = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)
        return output, lse[..., : query.shape[2]], tuple(extras[:6])
    output, lse, *extras = aten._scaled_dot_product_efficient_attention(query, key, value, None, True, 0.0, True)
    return output, lse[..., : query.shape[2]], tuple(extras)


def _causal_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    extras: tuple[Any, ...],
) -> Gradients:
    """Gradients of the causal block for query, key and value, given the merged output and log-sum-exp."""
    if not query.is_cuda:
        gradients: Gradients = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, output, lse, 0.0, True
        )
        return gradients
    lse = lse.contiguous()
    if query.dtype in (torch.float16, torch.bfloat16):
        cum_q, cum_k, max_q, max_k, seed, offset = extras
        gradients = aten._scaled_dot_product_flash_attention_backward(
            grad, query, key, value, output, lse, cum_q, cum_k, max_q, max_k, 0.0, True, seed, offset
        )
        return gradients
    padded = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32))  # the kernel's own row alignment
    needed = [True, True, True, False]
    grad_query, grad_key, grad_value, _ = aten._scaled_dot_product_efficient_attention_backward(
        grad, query, key, value, None, output, padded, *extras, 0.0, needed, True
    )
    return grad_query, grad_key, grad_value
