"""A number a request, repeated for each of its drafted tokens: temperature, top-k, top-p."""

from __future__ import annotations

from torch import Tensor


def expand_batch_to_tokens(
    x: Tensor, cu_num_tokens: Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> Tensor:
    """x (B,) -> (num_tokens,), request b up to place cu_num_tokens[b]; `replace_from` becomes `replace_to`.

    In place of vLLM's function of this name. Its CPU kernel (0.32.0) fills a converted copy of the result, as int64, so
    that every drafted token is judged by whatever the memory held (vllm#55005).
    """
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))  # (B,)
    return x.masked_fill(x == replace_from, replace_to).repeat_interleave(counts, output_size=num_tokens)
