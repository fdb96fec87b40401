"""Norms of a target by what they compute: families name and store them differently.

    weight of the module w      x / rms(x) * w                 llama, qwen, mistral, olmo, glm
                                x / rms(x) * (1 + w)           gemma, qwen3_next: all zeros are an ordinary start
    norm before the MLP         post_attention_layernorm       llama, glm4
                                pre_feedforward_layernorm      gemma2, gemma3
                                none: outputs are normed       olmo2, exaone4

Letters: H hidden size.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from eagle.engine.placement import whole_module, whole_weight
from eagle.engine.target import Target

CLOSE = 0.02  # bf16 keeps 8 bits
PROBE = 8  # tokens
MLPS = ("mlp", "block_sparse_moe", "feed_forward")


@torch.no_grad()
def plain_weight(norm: nn.Module | None) -> Tensor | None:
    """What an RMS norm multiplies by (H,), its weight or one more; None for other norms (a mean is taken, a bias)."""
    if norm is None or getattr(norm, "weight", None) is None:
        return None
    norm = whole_module(norm)
    weight = whole_weight(norm)
    factors = norm(torch.ones_like(weight))  # of a constant the RMS is that constant, and what is left of it is w
    found = min((weight, weight + 1), key=lambda plain: float((factors - plain).abs().sum()))
    return found if torch.allclose(factors.float(), found.float(), rtol=CLOSE, atol=CLOSE) else None


@torch.no_grad()
def mlp_norm(target: Target) -> nn.Module | None:
    """The norm whose output is the input of the last layer's MLP, None where there is none."""
    layer = target.layers[-1]
    made: dict[nn.Module, object] = {}  # child of the layer -> its output
    read: list[object] = []  # by the MLP
    mlp = next((found for name in MLPS if (found := getattr(layer, name, None)) is not None), None)
    if mlp is None:
        return None
    with ExitStack() as hooks:
        for child in layer.children():
            hooks.enter_context(_hook(child, made))
        handle = mlp.register_forward_pre_hook(lambda _module, args: read.extend(args[:1]))
        hooks.callback(handle.remove)
        target.read(torch.arange(min(PROBE, target.vocab_size), device=target.device)[None])
    return next((norm for norm, output in made.items() if read and output is read[0]), None)


@contextmanager
def _hook(module: nn.Module, made: dict[nn.Module, object]) -> Iterator[None]:
    """Note the output of `module` in `made`."""
    handle = module.register_forward_hook(lambda this, _args, output: made.update({this: output}))
    try:
        yield
    finally:
        handle.remove()
