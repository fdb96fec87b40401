"""One tiny server for all tests that leave it as they found it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.running import Running, running, tiny_backend


@pytest.fixture(scope="package")
def served() -> Iterator[Running]:
    with running(tiny_backend()) as server:
        yield server


@pytest.fixture
def client(served) -> Any:
    return served.client()
