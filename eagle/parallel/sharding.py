"""A frozen target beside the head of a data-parallel run, its decoder layers divided among the processes (FSDP2).

Every process reads batches of its own with all of the target; of every layer it holds one part of n, and gathers the
others while the layer runs. Embedding, last norm and output layer stay whole: training reads them by themselves.
"""

import inspect

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from eagle.engine.layers import decoder_of
from eagle.engine.packing import unpack
from eagle.engine.placement import is_divided
from eagle.engine.target import Target


def shard_layers(target: Target, device: torch.device, num_processes: int) -> None:
    """Divide the layers and bring what stays whole to `device`. Called by all processes together.

    The passes of a divided target are made by all processes together, too, each with its own batch. Raises ValueError
    where there is one process, and for a torch that cannot leave parameters out.
    """
    if num_processes < 2:
        raise ValueError(
            "shard_target is set, and this is one process: start several (accelerate launch, torchrun), or unset it"
        )
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ValueError(f"shard_target needs torch 2.7 or newer, this is {torch.__version__}: upgrade, or unset it")
    unpack(target.model)
    target.model.requires_grad_(False)
    decoder, mesh = decoder_of(target.model), init_device_mesh(device.type, (num_processes,))
    for layer in target.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # one root for all layers: the next one is gathered while a layer runs
    fully_shard(decoder, mesh=mesh, ignored_params=_outside(target.layers, decoder))
    for module in target.model.modules():
        _bring(module, device)
    # buffers made in inference mode would be refused outside of it, those of this pass serve both
    target.read_states(torch.zeros(1, 1, dtype=torch.int64, device=device))


def _outside(layers: nn.ModuleList, decoder: nn.Module) -> set[nn.Parameter]:
    """The decoder's parameters that are no layer's."""
    inside = {id(weight) for weight in layers.parameters()}
    return {weight for weight in decoder.parameters() if id(weight) not in inside}


def _bring(module: nn.Module, device: torch.device) -> None:
    """What a module itself holds and does not share with others."""
    for weight in module.parameters(recurse=False):
        if not is_divided(weight):
            weight.data = weight.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = buffer.to(device)
