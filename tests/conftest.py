"""Shared fixtures: tiny random targets and heads, and the real default model once per run."""

from collections.abc import Iterator

import pytest
import torch

from eagle.engine.target import Target
from eagle.loading import load_target
from tests.tiny import tiny_target

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: no CUDA device on this machine")


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
