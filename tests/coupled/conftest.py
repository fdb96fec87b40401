"""What every file of this room decodes with."""

import pytest

from eagle.engine.target import Target
from tests.tiny import tiny_target


@pytest.fixture(scope="module")
def exact_target() -> Target:
    """The tiny target in float64, so that a tree's pass and plain passes agree far below any near tie."""
    target = tiny_target()
    target.model.double()
    return target
