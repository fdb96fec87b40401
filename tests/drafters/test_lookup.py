"""Drafting by lookup: the longest match, its latest occurrence, and what a real session makes of it."""

import pytest
import torch

from eagle.chance import Chance
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.lookup import LookupDrafter
from eagle.sampling import Sampling, seeded
from tests.tiny import random_ids, tiny_target, tokens_of

ANY = Chance(Sampling())


def proposed(text: list[int], max_depth: int = 8, **options) -> list[int]:
    drafter = LookupDrafter(**options)
    drafter.observe(torch.tensor(text))
    return list(drafter.propose(ANY, max_depth).token_list[1:])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2], [3, 4, 5, 1]),
        ([1, 2, 3, 9, 1, 2, 4, 7, 7, 1, 2], [4, 7, 7, 1]),  # the latest of two
        ([5, 1, 2, 3, 6, 1, 2, 4, 8, 5, 1, 2], [3, 6, 1, 2]),  # the longer of two
        ([1, 2, 1, 2], [1, 2, 1, 2]),  # what repeats goes on
        ([7, 7, 7], [7, 7, 7, 7]),
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 1], []),  # one token is no match
        ([1], []),
    ],
)
def test_the_longest_and_latest_match_is_continued(text, expected):
    assert proposed(text, length=4) == expected


def test_lengths_are_limits():
    text = [1, 2, 3, 4, 5, 1, 2]
    assert proposed(text, max_depth=2) == [3, 4] and proposed(text, max_depth=0) == []
    assert proposed([1, 2, 3, 1], least=1, length=2) == [2, 3]


def test_truncating_equals_a_fresh_one():
    text = random_ids(60, vocab_size=4)
    used = LookupDrafter(5)
    used.observe(torch.tensor(text))
    used.truncate(40)
    used.observe(torch.tensor([1, 2, 3]))
    fresh = LookupDrafter(5)
    fresh.observe(torch.tensor([*text[:40], 1, 2, 3]))
    assert used.propose(ANY, 5).token_list == fresh.propose(ANY, 5).token_list and used.num_known == 43


@pytest.mark.parametrize("options", [DecodeOptions(Sampling(), 24), DecodeOptions(Sampling(1.0), 24, "coupled")])
def test_the_text_is_plain_decodings(options):
    """A prompt of two parts that are equal: over two turns, the text does not change."""
    target = tiny_target()
    target.model.double()
    ids = [*random_ids(12), *random_ids(12)]
    session, draws = Session(target, LookupDrafter()), seeded(1)
    first = tokens_of(session.decode(ids, options, draws))
    second = tokens_of(session.decode([*ids, *first, *ids], options, draws))
    draws = seeded(1)
    assert first == tokens_of(autoregressive(target, ids, options, draws))
    assert second == tokens_of(autoregressive(target, [*ids, *first, *ids], options, draws))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="least is 5, it must be at most 4"):
        LookupDrafter(least=5)
    with pytest.raises(ValueError, match="length is 0, it must be at least 1"):
        LookupDrafter(0)
    with pytest.raises(ValueError, match="nothing observed yet"):
        LookupDrafter().propose(ANY, 3)
    with pytest.raises(ValueError, match="cannot truncate 0 known tokens to 1"):
        LookupDrafter().truncate(1)
