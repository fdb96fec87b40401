"""Attention of low-bit targets: a query's result depends on the keys that it sees, not on the queries beside it.

Stock kernels sum in an order that depends on the shape of the pass. Elsewhere that is the last bit of a number; here
inputs are rounded to 8 bits next, and one that goes to its other neighbour changes all that follows by as much as
rounding itself does.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from eagle.kernels.compiler import kernels

NAME = "eagle_by_rows"
OTHER_TERMS = ("softcap", "s_aux", "position_bias")  # of scores, which the kernel has not


def attend_by_rows(model: nn.Module) -> None:
    """Let a CPU model attend so, where it attends as `sdpa` does; another kind that the user chose stays."""
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    if text._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, by_rows)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    text._attn_implementation = NAME


def by_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: query (B, heads, M, d), key and value (B, key heads, T, d) -> (B, M, heads, d)."""
    is_plain = len(query) == 1 and all(others.get(name) is None for name in OTHER_TERMS)
    is_known = attention_mask is None or (attention_mask.is_floating_point() and attention_mask.shape[1] == 1)
    if not is_plain or not is_known or others.get("is_causal") is False:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    product: Tensor = kernels().attention(query, key, value, attention_mask, scale)
    return product, None
