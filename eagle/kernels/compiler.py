"""The kernels, compiled on the machine that runs them at first use, and kept in the user's cache."""

import hashlib
import platform
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from eagle.files import cache_dir

SOURCES = tuple(Path(__file__).with_name(name) for name in ("low_bit.cpp", "attention.cpp", "product.cpp"))
HEADERS = (Path(__file__).with_name("lanes.h"),)
NAME = "eagle_hsd"
FLAGS = ("-O3", "-march=native", "-fopenmp")
TORCHS_LOCK = "lock"
FINISHED = "finished"  # an empty file: a build that was killed leaves none
INSTALL = "install a C++ compiler and ninja (apt install g++, pip install 'eagle-hsd[fast]')"
_lock = threading.Lock()


def kernels() -> Any:
    """The operators, as attributes:

    low_bit_linear   x (.., K), numbers, scales, lows, bias -> (.., N); see `eagle.engine.lowbit.storage`. Slow where
                     `has_low_bit` says no
    product          x (.., K), weight (N, K), bias -> (.., N), all bfloat16 or all float32; torch's own where
                     `has_product` says no
    attention        query (1, heads, M, d), key, value (1, key heads, T, d), mask (1, 1, M, T) or None, scale
                     -> (1, M, heads, d)
    attend_cache     query (1, heads, M, d), key, value (1, key heads, M, d), table (B, 3), sight (1, 1, M, 5 + E),
                     scale: the same over the caches of many sequences, into which key and value are written. Where
                     those lie the table says, by address, and who sees what the sight: see `eagle.compiled.sight`

    Built once a machine, which takes half a minute and is said on stderr. Raises ValueError where they cannot be built.
    """
    with _lock:
        if not hasattr(getattr(torch.ops, NAME), "attention"):
            _load()
            for name, shape in SHAPES.items():
                torch.library.register_fake(f"{NAME}::{name}", shape)
        return getattr(torch.ops, NAME)


def _load() -> None:
    folder = cache_dir() / "kernels" / machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "building"):  # the system takes it from a process that was killed
            if not (folder / FINISHED).is_file():
                _build(folder)
                (folder / FINISHED).touch()
            else:
                torch.ops.load_library(folder / f"{NAME}.so")
    except (OSError, RuntimeError) as error:
        told = str(error).strip().splitlines()[0]
        raise ValueError(f"the kernels for this CPU cannot be built ({told}): {INSTALL}") from error


def _build(folder: Path) -> None:
    from torch.utils import cpp_extension  # slow to import

    print("building the kernels for this CPU, once a machine ..", file=sys.stderr, flush=True)
    (folder / TORCHS_LOCK).unlink(missing_ok=True)  # a killed build leaves it behind, to be waited for for ever
    sources, flags = list(map(str, SOURCES)), list(FLAGS)
    cpp_extension.load(NAME, sources, extra_cflags=flags, build_directory=str(folder), is_python_module=False)


def machine() -> str:
    """What the compiled kernel depends on: the processor, torch, the source."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")][:1] if info.is_file() else []
    parts = (
        platform.machine(),
        platform.python_version(),
        torch.__version__,
        flags,
        FLAGS,
        [source.read_text() for source in (*SOURCES, *HEADERS)],
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _low_bit_linear(x: Tensor, numbers: Tensor, scales: Tensor, lows: Tensor, bias: Tensor | None) -> Tensor:
    """Shapes for torch.compile, which calls nothing."""
    return x.new_empty(*x.shape[:-1], numbers.shape[0] * scales.shape[-1])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


def _attend_cache(query: Tensor, key: Tensor, value: Tensor, table: Tensor, sight: Tensor, scale: float) -> Tensor:
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


SHAPES: dict[str, Callable[..., Any]] = {
    "low_bit_linear": _low_bit_linear,
    "product": _product,
    "attention": _attention,
    "attend_cache": _attend_cache,
}
