"""An accelerator that is none, for machines without: tensors that claim another device and live on the CPU.

A host waits where it needs a number that an accelerator computes, and where it sends one without saying that it will
not wait (`non_blocking`): torch then synchronises the stream. Here every operation runs on the CPU's own tensor inside,
what would wait is counted by name and place, and so is what is sent without.

The device calls itself `lazy`: of torch's names it is the one that a build without accelerators neither lacks (as
`cuda`) nor gives a meaning of its own (as `meta`).
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("lazy")
WAITING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "masked_select",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
OUR_CODE = ("/eagle/", "/hsd_verify/")


class Pretended(Tensor):
    """Claims to lie on `DEVICE`; `on_host` is what it is."""

    on_host: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=DEVICE
        )
        made.on_host = inner
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        raise RuntimeError(f"{func} outside of `pretending`: run it inside")


class Waits:
    """What an accelerator would have been asked."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()  # name and place -> times
        self.uploads: Counter[str] = Counter()
        self.launches = 0  # operations

    def clear(self) -> None:
        self.waits.clear()
        self.uploads.clear()
        self.launches = 0

    @property
    def num_waits(self) -> int:
        return sum(self.waits.values())

    @property
    def num_uploads(self) -> int:
        return sum(self.uploads.values())


@contextmanager
def pretending() -> Iterator[Waits]:
    """Tensors made on `DEVICE` meanwhile are pretended ones, and what would wait is counted."""
    counted = Waits()
    with _Functions(counted), _Dispatch(counted):
        yield counted


class _Functions(TorchFunctionMode):
    """What reads or writes tensors without a dispatched operation of its own."""

    def __init__(self, counted: Waits):
        super().__init__()
        self._counted = counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_ours(kwargs.get("device")) and not _has_ours(args):
            self._counted.waits[f"{func.__name__} {_place()}"] += 1
            return Pretended(func(*args, **{**kwargs, "device": "cpu"}))
        if func is Tensor.new_tensor and _has_ours(args):
            self._counted.waits[f"new_tensor {_place()}"] += 1
            return Pretended(func(*_mapped(_inner, args), **kwargs))
        if func is Tensor.__getitem__ and _has_ours(args):
            return func(args[0], self._uploaded(args[1]))
        if func is Tensor.__setitem__ and _has_ours(args):
            self._counted.launches += 1
            index = self._uploaded(args[1])
            if any(one.dtype == torch.bool for one in _leaves(index) if isinstance(one, Tensor)):
                self._counted.waits[f"setitem by mask {_place()}"] += 1
            return func(_inner(args[0]), _mapped(_inner, index), _inner(args[2]))
        return func(*args, **kwargs)

    def _uploaded(self, index: Any) -> Any:
        """An index whose lists are tensors."""
        if isinstance(index, tuple):
            return tuple(self._uploaded(part) for part in index)
        if not isinstance(index, list):
            return index
        self._counted.waits[f"index by list {_place()}"] += 1
        return Pretended(torch.tensor(index) if index else torch.empty(0, dtype=torch.int64))


class _Dispatch(TorchDispatchMode):
    def __init__(self, counted: Waits):
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        leaves = list(_leaves((args, kwargs)))
        known: dict[int, Tensor] = {id(one.on_host): one for one in leaves if isinstance(one, Pretended)}
        asked = next((one for one in leaves if isinstance(one, torch.device)), None)
        ours = _is_ours(asked) or (bool(known) and asked is None)
        if known or ours:
            self._count(name, args, asked, _is_queued(name, args, kwargs), bool(known), ours)
        output = func(*_mapped(_inner, args), **_mapped(_inner, kwargs))
        if not ours or _fills_host(name, args):
            return output
        return _mapped(lambda one: _wrapped(one, known) if isinstance(one, Tensor) else one, output)

    def _count(self, name: str, args: Any, asked: Any, queued: bool, has_ours: bool, ours: bool) -> None:
        self._counted.launches += 1
        of_host = any(isinstance(one, Tensor) and not isinstance(one, Pretended) for one in _leaves(args))
        if (has_ours and not ours) or _fills_host(name, args):
            self._counted.waits[f"{name} to the host {_place()}"] += 1
        elif name in WAITING or (name == "repeat_interleave" and len(args) == 1):
            self._counted.waits[f"{name} {_place()}"] += 1
        elif name in INDEXING and any(isinstance(one, Tensor) and one.dtype == torch.bool for one in _leaves(args[1])):
            self._counted.waits[f"{name} by mask {_place()}"] += 1
        elif of_host and name in ("to", "_to_copy", "copy_", *INDEXING):
            told = self._counted.uploads if queued else self._counted.waits
            told[f"{name} from the host {_place()}"] += 1


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _has_ours(values: Any) -> bool:
    return any(isinstance(one, Pretended) for one in _leaves(values))


def _leaves(value: Any) -> Iterator[Any]:
    """What stands in nested lists, tuples and dictionaries: torch's own walk over trees takes most of these tests."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _mapped(change: Any, value: Any) -> Any:
    """The same nest with every leaf changed."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(change, part) for part in value])
    if isinstance(value, dict):
        return {name: _mapped(change, part) for name, part in value.items()}
    return change(value)


def _inner(value: Any) -> Any:
    if isinstance(value, torch.device) and _is_ours(value):
        return torch.device("cpu")
    return value.on_host if isinstance(value, Pretended) else value


def _fills_host(name: str, args: Any) -> bool:
    return name == "copy_" and not isinstance(args[0], Pretended)


def _is_queued(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a copy was asked not to wait."""
    return bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))


def _wrapped(output: Tensor, known: Mapping[int, Tensor]) -> Tensor:
    """Itself where an operation returned what it was given."""
    return known[id(output)] if id(output) in known else Pretended(output)


def _place() -> str:
    """The innermost two lines of our own code that led here."""
    frame, places = sys._getframe(1), []
    while frame is not None and len(places) < 2:
        name = frame.f_code.co_filename
        if "/tests/" not in name and any(part in name for part in OUR_CODE):
            places.append(f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(places)


@torch.inference_mode()
def moved(module: nn.Module) -> None:
    """Bring the parameters and buffers of a module to the device; shared ones stay shared."""
    known: dict[int, Tensor] = {}
    for part in module.modules():
        stores: Any = (part._parameters, part._buffers)
        for own in stores:
            for name, tensor in own.items():
                if tensor is not None and not isinstance(tensor, Pretended):
                    there = known.setdefault(id(tensor), Pretended(tensor.detach()))
                    own[name] = nn.Parameter(there, requires_grad=False) if own is part._parameters else there
