"""The largest of a row by groups equal `topk`'s."""

import pytest
import torch

from eagle.trees.best import GROUP, WORTH_GROUPING, largest

ENOUGH = WORTH_GROUPING // 6 // GROUP * GROUP + GROUP  # of each of six rows


@pytest.mark.parametrize("num", [5, ENOUGH - GROUP, ENOUGH, ENOUGH + 1, 3 * ENOUGH - 7])
@pytest.mark.parametrize("k", [1, 8, 16])
def test_they_are_those_of_topk(num, k):
    numbers = torch.randn(6, num, generator=torch.Generator().manual_seed(num + k), dtype=torch.float64)
    numbers[1, -1], numbers[2, 0], numbers[3, : GROUP // 2] = 9.0, 9.0, torch.arange(GROUP // 2)[:num] + 5.0
    numbers[4] = numbers[4].sort(descending=True).values  # all of them in the first groups
    values, places = largest(numbers, k)
    expected = numbers.topk(min(k, num))
    assert torch.equal(values, expected.values) and torch.equal(places, expected.indices)


def test_of_equal_ones_each_is_taken_once():
    numbers = torch.zeros(2, WORTH_GROUPING + 3)
    numbers[1, 5] = 1.0
    values, places = largest(numbers, 8)
    assert values.tolist() == [[0.0] * 8, [1.0] + [0.0] * 7] and places[1, 0] == 5
    assert all(len(set(row)) == 8 for row in places.tolist())


def test_what_is_ruled_out_comes_last():
    numbers = torch.full((1, WORTH_GROUPING), -torch.inf)
    numbers[0, [70, 4000]] = torch.tensor([1.0, 2.0])
    values, places = largest(numbers, 3)
    assert places[0, :2].tolist() == [4000, 70] and values[0, 2] == -torch.inf
