"""The kernels, compiled on the machine that runs them at first use, and kept in the user's cache."""

import hashlib
import platform
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from eagle.files import cache_dir

SOURCES = tuple(Path(__file__).with_name(name) for name in ("linear.cpp", "attention.cpp"))
NAME = "eagle_hsd_lowbit"
FLAGS = ("-O3", "-march=native", "-fopenmp")
TORCHS_LOCK = "lock"
_lock = threading.Lock()


def kernels() -> Any:
    """The operators, as attributes:

    linear      x (.., K), numbers, scales, lows, bias -> (.., N); see `eagle.engine.lowbit.storage`
    attention   query (1, heads, M, d), key, value (1, key heads, T, d), mask (1, 1, M, T) or None, scale
                -> (1, M, heads, d)

    Built once a machine, which takes some seconds and is said on stderr. Raises ValueError where they cannot be built.
    """
    with _lock:
        if not hasattr(getattr(torch.ops, NAME), "attention"):
            _build()
            for name, shape in (("linear", _linear_shape), ("attention", _attention_shape)):
                torch.library.register_fake(f"{NAME}::{name}", shape)
        return getattr(torch.ops, NAME)


def _build() -> None:
    from torch.utils import cpp_extension  # slow to import

    folder = cache_dir() / "kernels" / _machine()
    if not (folder / f"{NAME}.so").is_file():
        print("building the kernels for low-bit weights, once a machine ..", file=sys.stderr, flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "building"):  # the system takes it from a process that was killed
            (folder / TORCHS_LOCK).unlink(missing_ok=True)  # which leaves torch's own behind, to be waited for for ever
            sources, flags = list(map(str, SOURCES)), list(FLAGS)
            cpp_extension.load(NAME, sources, extra_cflags=flags, build_directory=str(folder), is_python_module=False)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the kernels for low-bit weights cannot be built ({str(error).strip().splitlines()[0]}): install a C++ "
            "compiler and ninja (apt install g++, pip install 'eagle-hsd[fast]'), or leave --quantization out"
        ) from error


def _machine() -> str:
    """What the compiled kernel depends on: the processor, torch, the source."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")][:1] if info.is_file() else []
    parts = (
        platform.machine(),
        platform.python_version(),
        torch.__version__,
        flags,
        FLAGS,
        [source.read_text() for source in SOURCES],
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _linear_shape(x: Tensor, numbers: Tensor, scales: Tensor, lows: Tensor, bias: Tensor | None) -> Tensor:
    """For torch.compile, which calls nothing."""
    return x.new_empty(*x.shape[:-1], numbers.shape[0] * scales.shape[-1])


def _attention_shape(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    return query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
