"""Where plain decoding is faster the head does not read along, and knows everything when it is asked again."""

import pytest
import torch

from eagle.chance import Chance
from eagle.decode import DecodeOptions, Session
from eagle.drafters import eagle3
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.reader import HeadReader
from eagle.sampling import Sampling
from eagle.trees import AutoTree, EagleTree
from eagle.trees.undrafted import Undrafted
from tests.tiny import random_ids, tiny_head, tiny_target, tokens_of

TREE = EagleTree(num_nodes=9, depth=4, top_k=3)
RESTING = AutoTree(trees=((0.0, Undrafted()), (1.0, TREE)), coupled_trees=((0.0, TREE),))
GREEDY, WARM = Chance(Sampling()), Chance(Sampling(1.0))


@pytest.fixture
def reads(monkeypatch):
    """Counts tokens that heads read."""
    counted = []
    read = HeadReader.read
    monkeypatch.setattr(
        HeadReader, "read", lambda self, hidden, *more: counted.append(len(hidden)) or read(self, hidden, *more)
    )
    return counted


def pair():
    """One that may rest, and one that reads everything at once."""
    target = tiny_target()
    head = tiny_head(target)
    return [EagleDrafter(head, target.embed, policy) for policy in (RESTING, TREE)]


def features(num: int) -> torch.Tensor:
    return torch.randn(num, 96, generator=torch.Generator().manual_seed(num))


def test_nothing_is_read_while_nothing_is_drafted(reads):
    resting, _ = pair()
    resting.observe(torch.tensor(random_ids(6)), features(5))
    for _ in range(3):
        assert resting.propose(GREEDY, 5).num_nodes == 1
        resting.observe(torch.tensor([7]), features(1))
    assert not reads and resting.num_known == 9
    assert resting.propose(WARM, 5).num_nodes == 9 and reads[0] == 8


def test_what_waited_is_read_as_if_it_had_not():
    """Observed, truncated into what waits, at its end and into what was read, observed again."""
    both = pair()

    def step(do):
        for drafter in both:
            do(drafter)
        known = {drafter.num_known for drafter in both}
        assert len(known) == 1

    def compare():
        trees = [drafter.propose(WARM, 5) for drafter in both]
        assert trees[0].token_list == trees[1].token_list and trees[0].parent_list == trees[1].parent_list

    step(lambda one: one.observe(torch.tensor(random_ids(8)), features(7)))
    step(lambda one: one.truncate(5))
    step(lambda one: one.observe(torch.tensor([4, 5, 6]), features(3)))
    compare()
    assert both[0].propose(GREEDY, 5).num_nodes == 1
    step(lambda one: one.observe(torch.tensor([1, 2]), features(2)))
    step(lambda one: one.observe(torch.tensor([3])))  # a token whose feature comes later
    step(lambda one: one.truncate(9))
    step(lambda one: one.observe(torch.tensor([9, 8]), features(2)))
    compare()
    step(lambda one: one.truncate(4))
    step(lambda one: one.observe(torch.tensor([7, 7]), features(2)))
    compare()
    with pytest.raises(ValueError, match="1 new tokens go with at most 1 features"):
        both[0].observe(torch.tensor([1]), features(2))


def test_a_long_text_is_read_in_pieces_meanwhile(reads, monkeypatch):
    monkeypatch.setattr(eagle3, "PIECE", 4)
    resting, _ = pair()
    for number in range(12):
        resting.observe(torch.tensor([number, number]) if number == 0 else torch.tensor([number]), features(1))
    assert sum(reads) == 10 and max(reads) <= 4


def test_an_answer_is_the_plain_one_and_a_warm_one_drafts():
    target = tiny_target()
    drafter = EagleDrafter(tiny_head(target), target.embed, RESTING)
    session, prompt = Session(target, drafter), random_ids(8)
    options = DecodeOptions(max_new_tokens=20, ignore_end=True)
    plain = tokens_of(Session(target).decode(prompt, options))
    assert tokens_of(session.decode(prompt, options)) == plain
    warm = DecodeOptions(Sampling(1.0), 20, "coupled", ignore_end=True, seed=3)
    steps = list(session.decode([*prompt, *plain, 5], warm))
    assert any(step.round.tree.num_nodes > 1 for step in steps[1:])
    assert tokens_of(steps) == tokens_of(Session(target).decode([*prompt, *plain, 5], warm))
