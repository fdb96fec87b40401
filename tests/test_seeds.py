"""Stable numbers: their values are part of what held-out sets and orders mean, so they are pinned."""

from eagle.seeds import stable_number


def test_the_values_stay_what_they_were():
    """Other values would hold out other conversations, and heads would be measured on what they were trained on."""
    assert stable_number("abc", "held out") == 6893928922340249988
    assert stable_number(0, "abc", "order") == 2126568820628482600


def test_every_part_counts_and_parts_do_not_run_together():
    numbers = [stable_number(*parts) for parts in ((0, 1), (1, 0), (0, 2), (0,), (0, 1, 0), ("01",), (0, "1", ""))]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**63 for number in numbers)
    assert stable_number(0, 1) == stable_number("0", "1")
