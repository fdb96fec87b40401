"""Types of weights by the names that options, files and messages have for them."""

import torch


def dtype_name(dtype: torch.dtype) -> str:
    """As `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def named_dtype(name: str | None) -> torch.dtype | None:
    """The type of one of `eagle.options.DTYPES`; None stays None."""
    return None if name is None else getattr(torch, name)
