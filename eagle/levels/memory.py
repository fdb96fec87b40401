"""Does a model fit? Estimated from its configuration before its weights are read, or fetched."""

from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from eagle.engine.packing import MAX_BYTES, is_available
from eagle.model_files import read_config
from eagle.packages import need

SPARE = 1.1  # caches, activations and what loading takes beside the weights
GIGA = 1e9


def weight_bytes(name: str, directory: str, bytes_each: float) -> int | None:
    """Of all weights of a model; None where its configuration alone does not say: loading will tell why.

    Raises FileNotFoundError and ValueError for a model that is not there.
    """
    config = read_config(name, directory)
    try:
        with torch.device("meta"):
            model: nn.Module = cast(Any, AutoModelForCausalLM).from_config(config)
    except (ValueError, KeyError, ImportError):  # no causal model, or code of its own
        return None
    return round(bytes_each * sum(weight.numel() for weight in model.parameters()))  # tied ones once


def with_packed(needed: int | None, dtype: torch.dtype, device: torch.device) -> int | None:
    """Bytes of weights and of the copy in a CPU's own order that `eagle.engine.packing` makes of them."""
    is_packed = dtype == torch.bfloat16 and device.type == "cpu" and is_available()
    return 2 * needed if needed is not None and is_packed and needed <= MAX_BYTES else needed


def free_bytes(device: torch.device) -> int:
    """What a device has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(need("psutil").virtual_memory().available)


def check_memory(name: str, needed: int | None, device: torch.device) -> None:
    """Raises ValueError where weights of so many bytes do not fit into what is free; None: not known."""
    free = free_bytes(device)
    if needed is not None and SPARE * needed > free:
        raise ValueError(
            f"level '{name}' needs about {SPARE * needed / GIGA:.1f} GB for its weights, {free / GIGA:.1f} GB are free "
            f"on {device}: take a smaller model, --dtype bfloat16 or a copy in lower precision, or leave the level out"
        )
