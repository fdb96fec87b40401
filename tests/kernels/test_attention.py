"""The kernels of attention against torch's own, and against each other bit for bit."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from eagle.compiled.sight import HEADER, attend_slowly, padded, sights, table
from eagle.engine.masks import ancestor_matrix, depths, tree_mask
from eagle.engine.shape import SLIDING, AttentionShape
from eagle.kernels.compiler import kernels
from eagle.sampling import seeded

pytestmark = pytest.mark.usefixtures("threads")

PARENTS = [-1, 0, 0, 1, 2, 2, 5, 0]
SIZES = [(6, 2, 64), (4, 4, 8), (3, 1, 40)]  # heads of queries and of keys, and their size: whole registers or not
WINDOWS = [None, 12]


@dataclass(frozen=True)
class Problem:
    """Queries of a tree with their own entries, and a cache with room for more entries than there are."""

    query: Tensor  # (1, heads, N, d)
    key: Tensor  # (1, key heads, N, d)
    value: Tensor
    cache: tuple[Tensor, Tensor]  # (1, key heads, C, d) each
    length: int

    @property
    def filled(self) -> tuple[Tensor, Tensor]:
        """Keys and values as they are with the tree's entries."""
        own = zip(self.cache, (self.key, self.value), strict=True)
        keys, values = (torch.cat([cache[:, :, : self.length], new], dim=2) for cache, new in own)
        return keys, values

    def attend(self, sight: Tensor, scale: float = 0.3) -> Tensor:
        found: Tensor = kernels().attend_cache(self.query, self.key, self.value, table([[self.cache]])[0], sight, scale)
        return found


def problem(sizes: tuple[int, int, int], length: int, dtype: torch.dtype, nodes: int = len(PARENTS)) -> Problem:
    (heads, key_heads, size), draws = sizes, seeded(length)
    new = (torch.randn(1, nodes, number, size, generator=draws) for number in (heads, key_heads, key_heads))
    query, key, value = (one.transpose(1, 2).to(dtype) for one in new)  # as models have it
    keys, values = (torch.randn(1, key_heads, length + nodes + 5, size, generator=draws).to(dtype) for _ in range(2))
    return Problem(query, key, value, (keys, values), length)


def sight_of(ancestors: Tensor, length: int, window: int | None = None, chunk: int | None = None) -> Tensor:
    """Of layers that are all of one kind."""
    return sights_of([ancestors], [length], window, chunk)


def sights_of(
    ancestors: list[Tensor], lengths: list[int], window: int | None = None, chunk: int | None = None
) -> Tensor:
    is_limited = window is not None or chunk is not None
    sight = sights(ancestors, lengths, AttentionShape(6, 2, 64, window, not is_limited, chunk))
    assert isinstance(sight, Tensor)
    return sight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", [1, 15, 40, 700])  # below a block, between blocks, beyond two runs
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_attention_over_the_filled_part_is_what_torch_computes_over_all(sizes, length, window, dtype):
    given = problem(sizes, length, dtype)
    sight = sight_of(ancestor_matrix(PARENTS), length, window)
    cache = (given.cache[0].float(), given.cache[1].float())
    expected = attend_slowly(given.query.float(), given.key.float(), given.value.float(), [cache], sight, 0.3)
    found = given.attend(sight)
    assert found.dtype == dtype
    # sums of some hundred numbers around 1 in another order; in bfloat16 weights and results are rounded, to 2^-9
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", [1, 15, 40, 700])
def test_both_ways_to_say_what_is_seen_give_the_same_bits(length, window, dtype):
    given, ancestors = problem(SIZES[0], length, dtype), ancestor_matrix(PARENTS)
    mask = tree_mask(ancestors, length, dtype, window)
    dense = kernels().attention(given.query, *given.filled, mask, 0.3)
    assert torch.equal(given.attend(sight_of(ancestors, length, window)), dense)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 15, 40, 250, 700])
def test_a_node_gets_bit_for_bit_what_it_gets_behind_its_path_alone(length, dtype):
    """Plain decoding reads the path's entries as a part of its prefix, one query at a time."""
    given, ancestors = problem(SIZES[0], length, dtype), ancestor_matrix(PARENTS)
    tree, (keys, values) = given.attend(sight_of(ancestors, length)), given.filled
    for node, depth in enumerate(depths(ancestors).tolist()):
        kept = torch.cat([torch.arange(length), length + ancestors[node].nonzero()[:, 0]])
        own = given.query[:, :, node : node + 1]
        alone = kernels().attention(own, keys[:, :, kept], values[:, :, kept], None, 0.3)
        assert torch.equal(alone[0, 0], tree[0, node]), (node, depth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 40, 700])
def test_a_prefix_may_be_told_column_by_column(length, dtype):
    """As a draft head does, whose rows see some of the entries between the prefix and their own."""
    given = problem(SIZES[0], length, dtype)
    sight = sight_of(ancestor_matrix(PARENTS), length)
    wanted = given.attend(sight)
    header = torch.cat([sight[..., :3] * 0, sight[..., 3:HEADER]], dim=-1)
    told = torch.cat([header, torch.ones(1, 1, len(PARENTS), length).int(), sight[..., HEADER:]], dim=-1)
    assert torch.equal(given.attend(told), wanted)


ROWS = ((700, [-1, 0, 0, 1, 2, 2, 5, 0]), (3, [-1]), (15, [-1, 0, 1]), (40, [-1] + [0] * 20))  # prefix, parents


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_many_sequences_get_bit_for_bit_what_each_gets_alone(sizes, window, dtype):
    """Each of its own length behind a cache of its own, in one call; and so are their caches afterwards."""
    rows = [problem(sizes, length, dtype, len(parents)) for length, parents in ROWS]
    trees, lengths = [ancestor_matrix(parents) for _, parents in ROWS], [length for length, _ in ROWS]
    query, key, value = (torch.cat([getattr(row, name) for row in rows], dim=2) for name in ("query", "key", "value"))
    caches = [[(row.cache[0].clone(), row.cache[1].clone())] for row in rows]
    sight = sights_of(trees, lengths, window)
    together = kernels().attend_cache(query, key, value, table(caches)[0], sight, 0.3)
    alone = [row.attend(sight_of(tree, row.length, window)) for row, tree in zip(rows, trees, strict=True)]
    assert torch.equal(together, torch.cat(alone, dim=1))
    for (cache,), row in zip(caches, rows, strict=True):
        assert torch.equal(cache[0], row.cache[0]) and torch.equal(cache[1], row.cache[1])


def test_entries_are_written_to_their_places_and_nowhere_else():
    given = problem(SIZES[0], 20, torch.float32)
    before = given.cache[0].clone(), given.cache[1].clone()
    sight = sight_of(ancestor_matrix(PARENTS), 20)
    given.attend(sight)
    for buffer, old, new in zip(given.cache, before, (given.key, given.value), strict=True):
        assert torch.equal(buffer[:, :, 20:28], new)
        assert torch.equal(buffer[:, :, :20], old[:, :, :20]) and torch.equal(buffer[:, :, 28:], old[:, :, 28:])


@pytest.mark.parametrize(
    ("column", "number", "message"),
    [
        (0, -1, "a query outside of its cache"),
        (1, 34, "a query outside of its cache"),
        (2, 26, "a query outside of its cache"),
        (3, 33, "an entry at 33, room for 33"),
        (3, -1, "an entry at -1, room for 33"),
        (4, 2, "no sequence 2"),
    ],
)
def test_what_lies_outside_of_a_cache_is_refused(column, number, message):
    """What a sight says is checked against the table before anything is written."""
    given = problem(SIZES[0], 20, torch.float32)
    before = given.cache[0].clone()
    sight = sight_of(ancestor_matrix(PARENTS), 20)
    sight[..., -1, column] = number
    with pytest.raises(RuntimeError, match=message):
        given.attend(sight)
    assert torch.equal(given.cache[0], before)


def test_sights_say_what_a_node_sees_and_where_it_lies():
    """The drawing of `eagle.compiled.sight`, and the same tree under windows and in chunks of four."""
    ancestors = ancestor_matrix([-1, 0, 0, 1])
    nodes = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]
    full = sight_of(ancestors, 6)
    assert full[0, 0].tolist() == [[0, 6, 6, 6 + number, 0, *row] for number, row in enumerate(nodes)]
    both = sights([ancestors], [6], AttentionShape(4, 2, 8, 3, True))
    assert isinstance(both, dict) and both[SLIDING][0, 0, :, 0].tolist() == [4, 5, 5, 6]
    assert torch.equal(both["full_attention"], full)
    chunks = sight_of(ancestors, 6, chunk=4)[0, 0]
    assert chunks[:, :2].tolist() == [[4, 6], [4, 6], [4, 6], [6, 6]]
    assert chunks[:, HEADER:].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    two = sights_of([ancestors, ancestor_matrix([-1, 0])], [6, 9])[0, 0].tolist()
    assert two[:4] == [[*row, 0, 0] for row in full[0, 0].tolist()]
    assert two[4:] == [[0, 9, 5, 9, 1, 0, 0, 0, 0, 1, 0], [0, 9, 5, 10, 1, 0, 0, 0, 0, 1, 1]]


def test_a_lone_root_gets_a_sibling_that_sees_itself():
    tokens, ancestors = padded(torch.tensor([7]), torch.ones(1, 1, dtype=torch.bool))
    assert tokens.tolist() == [7, 0] and ancestors.tolist() == [[True, False], [False, True]]
    same = padded(torch.tensor([7, 8]), torch.ones(2, 2, dtype=torch.bool))
    assert len(same[0]) == 2
