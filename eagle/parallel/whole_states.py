"""Weights and optimizers of a module that may be divided among processes, as files that say nothing of it.

A run that stopped on eight processes goes on in one, and the other way round: tensors are stored whole, by name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.bin"


def save_whole(directory: Path, module: nn.Module, optimizers: Sequence[Optimizer], writes: bool) -> None:
    """Called by all processes together; the one that `writes` gets everything and writes it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = get_state_dict(module, list(optimizers), options=options)
    if writes:
        tensors: dict[str, Any] = {**weights}
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, directory / WEIGHTS)
        torch.save(moments, directory / OPTIMIZER)


def load_whole(directory: Path, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Called by all processes together: each reads the files and keeps its part. Raises what torch and safetensors do
    for files that they cannot read."""
    weights: dict[str, Any] = dict(load_file(directory / WEIGHTS))
    set_state_dict(
        module,
        list(optimizers),
        model_state_dict=weights,
        optim_state_dict=torch.load(directory / OPTIMIZER, map_location="cpu", weights_only=True),
        options=StateDictOptions(full_state_dict=True),
    )
