"""The kernels of attention against torch's own, and against each other bit for bit."""

import pytest
import torch
from torch import Tensor

from eagle.compiled.sight import attend_slowly, padded, sights
from eagle.engine.masks import ancestor_matrix, depths, tree_mask
from eagle.engine.shape import SLIDING, AttentionShape
from eagle.kernels.compiler import kernels
from eagle.sampling import seeded

pytestmark = pytest.mark.usefixtures("threads")

PARENTS = [-1, 0, 0, 1, 2, 2, 5, 0]
SIZES = [(6, 2, 64), (4, 4, 8), (3, 1, 40)]  # heads of queries and of keys, and their size: whole registers or not
WINDOWS = [None, 12]


def problem(sizes: tuple[int, int, int], length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the tree, and a cache with room for more entries than there are."""
    (heads, key_heads, size), draws, nodes = sizes, seeded(length), len(PARENTS)
    query = torch.randn(1, nodes, heads, size, generator=draws).transpose(1, 2)  # as models have it
    keys, values = (torch.randn(1, key_heads, length + nodes + 5, size, generator=draws) for _ in range(2))
    return query.to(dtype), keys.to(dtype), values.to(dtype)


def sight_of(ancestors: Tensor, length: int, window: int | None = None, chunk: int | None = None) -> Tensor:
    """Of layers that are all of one kind."""
    is_limited = window is not None or chunk is not None
    sight = sights(ancestors, length, AttentionShape(6, 2, 64, window, not is_limited, chunk))
    assert isinstance(sight, Tensor)
    return sight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", [1, 15, 40, 700])  # below a block, between blocks, beyond two runs
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_attention_over_the_filled_part_is_what_torch_computes_over_all(sizes, length, window, dtype):
    query, keys, values = problem(sizes, length, dtype)
    sight = sight_of(ancestor_matrix(PARENTS), length, window)
    expected = attend_slowly(query.float(), keys.float(), values.float(), sight, 0.3)
    found = kernels().attend_cache(query, keys, values, sight, 0.3)
    assert found.dtype == dtype
    # sums of some hundred numbers around 1 in another order; in bfloat16 weights and results are rounded, to 2^-9
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", [1, 15, 40, 700])
def test_both_ways_to_say_what_is_seen_give_the_same_bits(length, window, dtype):
    query, keys, values = problem(SIZES[0], length, dtype)
    ancestors, filled = ancestor_matrix(PARENTS), length + len(PARENTS)
    mask = tree_mask(ancestors, length, dtype, window)
    dense = kernels().attention(query, keys[:, :, :filled], values[:, :, :filled], mask, 0.3)
    sight = sight_of(ancestors, length, window)
    assert torch.equal(kernels().attend_cache(query, keys, values, sight, 0.3), dense)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 15, 40, 250, 700])
def test_a_node_gets_bit_for_bit_what_it_gets_behind_its_path_alone(length, dtype):
    """Plain decoding reads the path's entries as a part of its prefix, one query at a time."""
    query, keys, values = problem(SIZES[0], length, dtype)
    ancestors = ancestor_matrix(PARENTS)
    tree = kernels().attend_cache(query, keys, values, sight_of(ancestors, length), 0.3)
    for node, depth in enumerate(depths(ancestors).tolist()):
        kept = torch.cat([torch.arange(length), length + ancestors[node].nonzero()[:, 0]])
        own = query[:, :, node : node + 1]
        alone = kernels().attention(own, keys[:, :, kept], values[:, :, kept], None, 0.3)
        assert torch.equal(alone[0, 0], tree[0, node]), (node, depth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 40, 700])
def test_a_prefix_may_be_told_column_by_column(length, dtype):
    """As a draft head does, whose rows see some of the entries between the prefix and their own."""
    query, keys, values = problem(SIZES[0], length, dtype)
    sight = sight_of(ancestor_matrix(PARENTS), length)
    wanted = kernels().attend_cache(query, keys, values, sight, 0.3)
    told = torch.cat([sight[..., :1] * 0, sight[..., 1:2] * 0, torch.ones(1, 1, len(PARENTS), length).int()], dim=-1)
    told = torch.cat([told, sight[..., 2:]], dim=-1)
    assert torch.equal(kernels().attend_cache(query, keys, values, told, 0.3), wanted)
    new = torch.randn(2, *keys[:, :, : len(PARENTS)].shape, generator=seeded(1)).to(dtype)
    kernels().append_(keys, values, new[0], new[1], told)
    assert torch.equal(keys[:, :, length : length + len(PARENTS)], new[0])


def test_entries_are_written_behind_the_filled_ones():
    _, keys, values = problem(SIZES[0], 20, torch.float32)
    before, new = keys.clone(), torch.randn(2, 1, 2, len(PARENTS), 64)
    sight = sight_of(ancestor_matrix(PARENTS), 20)
    kernels().append_(keys, values, new[0], new[1], sight)
    assert torch.equal(keys[:, :, 20:28], new[0]) and torch.equal(values[:, :, 20:28], new[1])
    assert torch.equal(keys[:, :, :20], before[:, :, :20]) and torch.equal(keys[:, :, 28:], before[:, :, 28:])
    with pytest.raises(RuntimeError, match=r"20 . 8 entries, room for 26"):
        kernels().append_(keys[:, :, :26], values[:, :, :26], new[0], new[1], sight)
    with pytest.raises(RuntimeError, match="a query outside of the cache"):
        kernels().attend_cache(torch.zeros(1, 6, 8, 64), keys[:, :, :26], values[:, :, :26], sight, 1.0)


def test_sights_say_the_first_entry_the_filled_ones_and_the_nodes():
    """The drawing of `eagle.compiled.sight`, and the same tree under windows and in chunks of four."""
    ancestors = ancestor_matrix([-1, 0, 0, 1])
    nodes = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]
    full = sight_of(ancestors, 6)
    assert full[0, 0].tolist() == [[0, 6, *row] for row in nodes]
    both = sights(ancestors, 6, AttentionShape(4, 2, 8, 3, True))
    assert isinstance(both, dict) and both[SLIDING][0, 0, :, 0].tolist() == [4, 5, 5, 6]
    assert torch.equal(both["full_attention"], full)
    chunks = sight_of(ancestors, 6, chunk=4)
    assert chunks[0, 0].tolist() == [[4, 6, 1, 0, 0, 0], [4, 6, 1, 1, 0, 0], [4, 6, 1, 0, 1, 0], [6, 6, 0, 0, 0, 1]]


def test_a_lone_root_gets_a_sibling_that_sees_itself():
    tokens, ancestors = padded(torch.tensor([7]), torch.ones(1, 1, dtype=torch.bool))
    assert tokens.tolist() == [7, 0] and ancestors.tolist() == [[True, False], [False, True]]
    same = padded(torch.tensor([7, 8]), torch.ones(2, 2, dtype=torch.bool))
    assert len(same[0]) == 2
