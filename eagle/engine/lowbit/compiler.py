"""The kernel, compiled on the machine that runs it at first use, and kept in the user's cache."""

import hashlib
import platform
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eagle.files import cache_dir

SOURCE = Path(__file__).with_name("kernel.cpp")
NAME = "eagle_hsd_lowbit"
FLAGS = ("-O3", "-march=native", "-fopenmp")
_lock = threading.Lock()


def kernel() -> Any:
    """The product x (.., K), numbers, scales, lows, bias -> (.., N); see `eagle.engine.lowbit.storage`.

    Built once a machine, which takes some seconds and is said on stderr. Raises ValueError where it cannot be built.
    """
    with _lock:
        if not hasattr(getattr(torch.ops, NAME), "linear"):
            _build()
            torch.library.register_fake(f"{NAME}::linear", _shape)
        return getattr(torch.ops, NAME).linear


def _build() -> None:
    from torch.utils import cpp_extension  # slow to import

    folder = cache_dir() / "kernels" / _machine()
    if not (folder / f"{NAME}.so").is_file():
        print("building the kernel for low-bit weights, once a machine ..", file=sys.stderr, flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        cpp_extension.load(
            NAME, [str(SOURCE)], extra_cflags=list(FLAGS), build_directory=str(folder), is_python_module=False
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the kernel for low-bit weights cannot be built ({str(error).strip().splitlines()[0]}): install a C++ "
            "compiler and ninja (apt install g++, pip install 'eagle-hsd[fast]'), or leave --quantization out"
        ) from error


def _machine() -> str:
    """What the compiled kernel depends on: the processor, torch, the source."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")][:1] if info.is_file() else []
    parts = (platform.machine(), platform.python_version(), torch.__version__, flags, FLAGS, SOURCE.read_text())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _shape(x: Tensor, numbers: Tensor, scales: Tensor, lows: Tensor, bias: Tensor | None) -> Tensor:
    """For torch.compile, which calls nothing."""
    return x.new_empty(*x.shape[:-1], numbers.shape[0] * scales.shape[-1])
