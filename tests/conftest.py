"""Shared fixtures: tiny random targets and heads, and the real default model once per run."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from eagle.engine.target import Target
from eagle.loading import load_target
from tests.tiny import tiny_target

STAND_IN = "EAGLE_HSD_STAND_IN"  # a device on which tests for a GPU run all the same: `cpu` shows that they run


def needs_gpu(test: Callable[..., Any]) -> Any:
    """Marks a test `gpu` and skips it without one. It takes the fixture `accelerator`."""
    missing = not torch.cuda.is_available() and STAND_IN not in os.environ
    skip = pytest.mark.skipif(missing, reason="needs a GPU: no CUDA device on this machine")
    return pytest.mark.gpu(skip(test))


@pytest.fixture
def accelerator() -> torch.device:
    return torch.device(os.environ.get(STAND_IN, "cuda"))


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[1, 3], ids=["1-thread", "3-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests of kernels of our own: the whole suite gives one thread to a process."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def target() -> Target:
    """A random llama of nine layers."""
    return tiny_target()


@pytest.fixture(scope="session")
def smollm2() -> Target:
    """The embedded default in float32, for exact comparisons."""
    return load_target(dtype=torch.float32, device="cpu")
