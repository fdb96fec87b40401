"""The cache keeps exactly the path it is told to keep."""

import inspect
import warnings

import pytest
import torch

from eagle.engine.cache import KeyValueCache, cache_argument
from eagle.engine.masks import ancestor_matrix
from tests.tiny import random_ids, tiny_target


def test_keeping_a_path_equals_having_read_it_alone(target):
    prefix, tokens = torch.tensor(random_ids(10)), torch.tensor([5, 6, 7, 8])
    tree, alone = target.new_cache(), target.new_cache()
    target.prefill(prefix, tree)
    target.forward_tree(tokens, ancestor_matrix([-1, 0, 0, 2]), tree)
    tree.keep(torch.tensor([0, 2, 3]))
    target.prefill(torch.cat([prefix, tokens[[0, 2, 3]]]), alone)
    after_tree = target.prefill(torch.tensor([1]), tree).logits
    after_alone = target.prefill(torch.tensor([1]), alone).logits
    assert tree.length == alone.length == 14
    # the same numbers summed in another order
    torch.testing.assert_close(after_tree, after_alone, atol=5e-5, rtol=0)


def test_the_cache_grows_beyond_its_first_buffer(target):
    small, large = KeyValueCache(9, limit=256, capacity=4), target.new_cache()
    ids = torch.tensor(random_ids(40))
    for cache in (small, large):
        target.prefill(ids[:3], cache)
        target.prefill(ids[3:], cache)
    last = [target.prefill(torch.tensor([1]), cache).logits for cache in (small, large)]
    assert torch.equal(*last)
    assert small.num_bytes() > 0


def test_truncating_forgets_the_rest(target):
    ids = torch.tensor(random_ids(20))
    cache, fresh = target.new_cache(), target.new_cache()
    target.prefill(ids, cache)
    cache.truncate(5)
    target.prefill(ids[:5], fresh)
    again = [target.prefill(torch.tensor([1]), c).logits for c in (cache, fresh)]
    torch.testing.assert_close(*again, atol=5e-5, rtol=0)  # other kernel shapes, other summation order
    with pytest.raises(ValueError, match="cannot truncate a cache of 6 entries to 9"):
        cache.truncate(9)


def test_the_context_limit_is_refused_with_both_numbers():
    target = tiny_target(max_position_embeddings=16)
    with pytest.raises(ValueError, match="0 cached \\+ 17 new tokens exceed the target's context of 16"):
        target.prefill(torch.tensor(random_ids(17)), target.new_cache())


def test_the_cache_goes_by_the_name_the_model_knows(target):
    """transformers 5.24 renamed the argument; the old name still works there and warns at every first call."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        target.prefill(torch.arange(4), target.new_cache())
    assert cache_argument(target.model) in inspect.signature(target.model.forward).parameters
