"""Where a target's weights lie: on one device, spread over several, on disk, or in parts held by several processes.

on one device          a parameter is what it seems
a device map           every module has its own device; hooks of accelerate bring inputs there. What does not fit
                       beside an accelerator, or lies on disk, is a parameter on `meta` until its module runs
parts (DTensor)        each process holds a slice; the whole is gathered by all processes together
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

OFFLOADED = ("cpu", "disk")  # places of a device map that compute on the first accelerator, where it names one


def home_of(model: Any) -> torch.device:
    """The device that token ids are put on and results are gathered on."""
    first: torch.device = next(model.parameters()).device
    places: Mapping[str, Any] = getattr(model, "hf_device_map", None) or {}
    if first.type != "meta" or not places:
        return first
    computing = [place for place in places.values() if place not in OFFLOADED]
    return torch.device(computing[0] if computing else "cpu")


def is_divided(tensor: Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def local_part(tensor: Any) -> Tensor:
    """What this process holds of a tensor."""
    part: Tensor = tensor.to_local() if is_divided(tensor) else tensor
    return part


@torch.no_grad()
def whole_weight(module: Any, name: str = "weight") -> Tensor:
    """A weight of a module wherever it lies. Of one that is divided: called by all processes together."""
    weight: Any = getattr(module, name).detach()
    if is_divided(weight):
        whole: Tensor = weight.full_tensor()
        return whole
    if weight.device.type != "meta" or not hasattr(module, "_hf_hook"):
        return weight
    from accelerate.utils import align_module_device  # it placed the weight, so it is installed

    with align_module_device(module):
        return getattr(module, name).detach().clone()


def whole_module(module: nn.Module) -> nn.Module:
    """The module itself, or where its weight is divided a copy with all of it, for use by one process alone."""
    if not is_divided(module.weight):  # type: ignore[arg-type]
        return module
    alone = copy.copy(module)
    alone._parameters = {**module._parameters, "weight": nn.Parameter(whole_weight(module), requires_grad=False)}
    alone._forward_pre_hooks = OrderedDict(module._forward_pre_hooks)  # later ones are for the divided module
    alone.__dict__.pop("forward", None)  # the one that asks the other processes
    return alone
