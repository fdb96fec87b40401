"""The planner on published numbers says what the documentation has, and near to what was published."""

from pathlib import Path

import pytest

from eagle.hierarchy.computed_table import (
    DRAFT_BILLIONS,
    HEAD_DEPTH,
    HEAD_SPEEDUP,
    HEAD_TOKENS,
    all_rows,
    break_even_with_head,
    markdown,
    published_profile,
    row,
)
from eagle.hierarchy.renewal import mean, round_law

PAGE = Path(__file__).parent.parent.parent / "docs" / "hierarchy.md"


def test_the_head_is_as_published():
    profile = published_profile(70, 0.85)
    f = round_law(profile.survival("8B", "head"), (0.0,) * HEAD_DEPTH + (1.0,))
    assert mean(f) == pytest.approx(HEAD_TOKENS, abs=1e-6)
    cost = profile.draft_ms("head", HEAD_DEPTH) + profile.pass_ms("8B", "head", HEAD_DEPTH)
    assert DRAFT_BILLIONS / 70 / (cost / HEAD_TOKENS) == pytest.approx(HEAD_SPEEDUP)


def test_speedups_are_near_the_published_ones():
    """70B <- 8B <- head 4.6 to 5.0x, a loss against the head on the 70B below about 0.84; 405B 5.1x -> 6.2x."""
    assert [1 / row(70, alpha).hierarchy.ms for alpha in (0.87, 0.88)] == pytest.approx([4.6, 5.0], abs=0.1)
    assert break_even_with_head() == pytest.approx(0.84, abs=0.005)
    large = row(405, 0.875)
    assert (1 / large.single.ms, 1 / large.hierarchy.ms) == (pytest.approx(5.1, abs=0.1), pytest.approx(6.2, abs=0.15))
    assert [level.name for level in large.hierarchy.levels] == ["head", "8B"]


def test_the_documentation_has_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join(markdown(all_rows())) in text
    assert f"{break_even_with_head():.3f}" in text
