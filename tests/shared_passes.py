"""How many rows share each pass of the target."""

import pytest

from eagle.engine.requests import TreeScore


def counted_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the rows of every shared pass from now on."""
    sizes: list[int] = []
    together = TreeScore.together

    def counting(_cls: type[TreeScore], asked: list[TreeScore]) -> object:
        sizes.append(len(asked))
        return together(asked)

    monkeypatch.setattr(TreeScore, "together", classmethod(counting))
    return sizes
