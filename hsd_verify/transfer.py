"""Small tensors on their way between host and accelerator: few transfers, and only those down are waited for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

Nodes = Sequence[int] | Sequence[Sequence[int]]  # (n,) or (n, m)


def to_host(*tensors: Tensor) -> list[Tensor]:
    """The same tensors on the CPU, whatever their shapes and dtypes: one transfer of their bytes.

    All lie on one device; what lies on the CPU is handed back as it is.
    """
    if all(tensor.is_cpu for tensor in tensors):
        return list(tensors)
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())  # so that every part is aligned
    joined = torch.cat([tensors[i].flatten().view(torch.uint8) for i in order]).cpu()
    parts = torch.split(joined, [tensors[i].numel() * tensors[i].element_size() for i in order])
    found = {i: part.view(tensors[i].dtype).view(tensors[i].shape) for i, part in zip(order, parts, strict=True)}
    return [found[i] for i in range(len(tensors))]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From the host it is queued behind the work there, and nobody waits for that to be done.

    A copy from ordinary memory waits for the whole stream; only one from pinned memory, asked not to wait, does not.
    """
    if not tensor.is_cpu or device.type == "cpu" or not tensor.numel():
        return tensor.to(device)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def to_device(lists: Sequence[Nodes], device: torch.device) -> list[Tensor]:
    """Lists of integers, one or two deep, as int64 tensors on a device: one upload."""
    shapes = [(len(one), len(one[0])) if one and not isinstance(one[0], int) else (len(one),) for one in lists]
    rows = (one if len(shape) == 2 else [one] for one, shape in zip(lists, shapes, strict=True))
    flat = list(chain.from_iterable(chain.from_iterable(rows)))  # type: ignore[arg-type]
    joined = send(torch.tensor(flat, dtype=torch.int64), device)
    sizes = [shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in shapes]
    return [part.view(shape) for part, shape in zip(torch.split(joined, sizes), shapes, strict=True)]
